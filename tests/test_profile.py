"""The profile's file: what is read back, what is refused, and where files lie."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_files import complaint, saved

from autoprec import profile as profiles
from autoprec.budget import Budget
from autoprec.policy.choose import choose
from autoprec.types import Conversion


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "machine.json"


def test_what_is_written_is_read_back_exactly(path: Path) -> None:
    profile = made_up.profile(budget="1e-3", remarks=["Der Takt fiel auf 1.2 GHz: zu heiß."])
    assert profile.choices
    assert profile.refusals
    profiles.write(profile, path)
    assert profiles.read(path) == profile


FLOATS = st.floats(min_value=1e-200, max_value=1e300)


@given(p50_ms=FLOATS, rel_l2=st.floats(0, 1e300), text=st.text(st.characters(codec="utf-8")))
def test_every_number_and_text_survives(
    tmp_path_factory: pytest.TempPathFactory, p50_ms: float, rel_l2: float, text: str
) -> None:
    family = {"gauss": dict.fromkeys(made_up.errors(0.0), rel_l2)}
    times = {"p20_ms": p50_ms, "p80_ms": p50_ms}
    row = made_up.measurement("fp32", p50_ms, 1.0, errors=family, config={text: 7}, **times)
    profile = made_up.profile([row], remarks=[text], choices=[], refusals=[])
    path = tmp_path_factory.getbasetemp() / "survives.json"
    profiles.write(profile, path)
    assert profiles.read(path) == profile


def test_the_file_is_for_people_and_in_the_order_of_the_records(path: Path) -> None:
    profiles.write(made_up.profile(), path)
    text = path.read_text()
    assert text.startswith('{\n "schema_version": 1,\n "created_at": "2026-11-23T12:00:00Z",\n')
    assert text.endswith("]\n}\n")
    content = json.loads(text)
    assert list(content) == [
        "schema_version", "created_at", "autoprec_version", "recorded_by", "environment",
        "ceilings", "fingerprint", "budget", "confidence", "allow_baselines", "measurements",
        "choices", "refusals", "remarks",
    ]  # fmt: skip
    assert list(content["measurements"][0]) == [
        "role", "path", "kernel", "config", "storage", "conversion", "consistent", "workload",
        "status", "reason", "lacked_memory", "p20_ms", "p50_ms", "p80_ms", "tflops", "gb_s", "n",
        "workspace_gib", "errors", "n_draws", "confidence", "captured", "bounds", "extremes",
        "range",
    ]  # fmt: skip
    assert content["measurements"][0]["workload"]["phase"] == "prefill"


def test_a_byte_order_mark_of_an_editor_is_no_harm(path: Path) -> None:
    profiles.write(made_up.profile(), path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert profiles.read(path) == made_up.profile()


def test_a_baseline_is_chosen_where_that_is_allowed(path: Path) -> None:
    fastest = made_up.measurement("sdpa-cudnn", 0.1, 1e-4, conversion=Conversion.AMORTISED)
    profile = made_up.profile([*made_up.rows(), fastest], allow_baselines=True)
    assert "sdpa-cudnn" in {choice.path for choice in profile.choices}
    profiles.write(profile, path)
    assert profiles.read(path).choices == profile.choices
    profiles.write(replace(profile, allow_baselines=False), path)
    assert complaint(path) == (
        "choices[0] (sdpa-cudnn for prefill b1 q4096 kv4096 32/8 d128 causal fp32) "
        "is a baseline, and allow_baselines is false."
    )


def test_a_row_from_before_does_not_say_whether_it_lacked_memory(path: Path) -> None:
    saved(path, lambda found: [row.pop("lacked_memory") for row in found["measurements"]])
    assert profiles.read(path) == made_up.profile()


def test_a_profile_without_bounds_is_read_and_chosen_from(path: Path) -> None:
    """As recorded before there were any: errors alone, and no word of confidence."""
    for file in profiles.bundled():
        content = json.loads(file.read_text(encoding="utf-8"))
        for record in (content, *content["measurements"]):
            for key in ("confidence", "n_draws", "captured", "bounds"):
                record.pop(key, None)
        path.write_text(json.dumps(content), encoding="utf-8")
        found = profiles.read(path)
        assert not any(it.bounds or it.n_draws for it in found.measurements)
        choices, refusals = choose(found.measurements, Budget.parse("1e-2"))
        assert choices
        assert {choice.workload for choice in found.choices} == {c.workload for c in choices}
        assert refusals == []


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "intel-xeon-platinum-8481c-cpu-2-70ghz"),
        ("AMD Instinct™ MI300X / OAM", "amd-instinct-mi300x-oam"),
        ("../../etc/passwd", "etc-passwd"),
        ("x" * 500, "x" * 100),
        ("???", "cuda"),
    ],
)
def test_a_device_names_its_file(name: str, slug: str) -> None:
    assert profiles.slug(made_up.device(name=name)) == slug


def test_the_default_place_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert profiles.user_dir() == tmp_path / "autoprec" / "profiles"
    assert profiles.default_path(made_up.device()) == (
        profiles.user_dir() / "nvidia-h100-80gb-hbm3.json"
    )


def test_every_bundled_profile_can_be_read_and_is_named_after_its_device() -> None:
    for path in profiles.bundled():
        assert profiles.read(path).measurements
        assert path.stem == profiles.slug(profiles.read(path).environment.device)


def test_the_middle_needs_no_torch() -> None:
    """Decisions are made, saved and read where torch is not even installed."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'triton', 'numpy', 'pandas']))\n"
        "import autoprec.profile, autoprec.policy.choose, autoprec.policy.lookup"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)
