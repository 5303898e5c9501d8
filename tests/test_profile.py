"""The profile's file: what is read back, what is refused, and where files lie."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprec import profile as profiles
from autoprec.budget import Budget
from autoprec.errors import ProfileError
from autoprec.policy.choose import choose
from autoprec.types import Conversion

HINT = "restore the file, or measure again with autoprec tune --fresh"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "machine.json"


def refusal(path: Path | str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        profiles.read(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(caught.value.sentence) < 300 + len(str(path))
    return caught.value


def complaint(path: Path) -> str:
    """What is said of a file that is no valid profile."""
    error = refusal(path)
    assert error.hint == HINT
    start = f"{path} is no valid profile: "
    assert error.sentence.startswith(start)
    return error.sentence.removeprefix(start)


def saved(path: Path, change: Callable[[Any], object]) -> Path:
    """The made-up profile's file, changed by hand."""
    profiles.write(made_up.profile(), path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


# Reading what was written


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


# Refusing what is no profile


def test_no_file(path: Path) -> None:
    error = refusal(path)
    assert error.sentence == f"there is no profile {path}."
    assert error.hint == "autoprec tune, which writes one"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path).sentence == f"{tmp_path} is a folder, not a profile."


def test_a_path_that_leads_through_a_file_or_holds_a_zero(path: Path) -> None:
    path.write_text("{}")
    below = path / "x.json"
    assert refusal(below).sentence == f"{below} cannot be read: Not a directory."
    assert refusal("a\0b").sentence == "a\0b cannot be read: embedded null byte."


def test_a_file_that_may_not_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(ProfileError) as caught:
        profiles.read(path)
    monkeypatch.undo()
    assert caught.value.sentence == f"{path} cannot be read: Permission denied."


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty."),
        (b" \n", "it is empty."),
        (b"\xff\xfe{}", "byte 0 is not UTF-8."),
        (b'{"a": 1', "it is cut off or broken at line 1, column 8."),
        (b"{\n 'a': 1}", "it is cut off or broken at line 2, column 2."),
        (b"[" * 200_000, "it is nested too deeply."),
        (b'{"a":' * 200_000, "it is nested too deeply."),
        (b"[]", "it has no schema_version."),
        (b"17", "it has no schema_version."),
        (b'"schema_version"', "it has no schema_version."),
        (b'{"a": 1}', "it has no schema_version."),
        (b'{"schema_version": NaN}', "it holds NaN, Infinity or an endless number."),
        (b'{"schema_version": -Infinity}', "it holds NaN, Infinity or an endless number."),
        (b"9" * 5000, "it holds NaN, Infinity or an endless number."),
        (b'{"schema_version": true}', "schema_version should be a valid integer, not True"),
        (b'{"schema_version": 1}', "created_at is missing (and 6 more)."),
    ],
)
def test_what_is_no_profile_at_all(path: Path, content: bytes, what: str) -> None:
    path.write_bytes(content)
    assert complaint(path).startswith(what)


def test_a_profile_cut_off_anywhere_is_refused(path: Path) -> None:
    profiles.write(made_up.profile(made_up.rows()[:1]), path)
    content = path.read_bytes()
    for end in range(0, len(content) - 2, 97):
        path.write_bytes(content[:end])
        assert complaint(path).startswith("it is ")


@pytest.mark.parametrize("version", [0, 2, "1", None, [1] * 100])
def test_another_schema_is_refused_whatever_else_is_in_the_file(path: Path, version: Any) -> None:
    path.write_text(json.dumps({"schema_version": version, "unknown": True}))
    error = refusal(path)
    assert error.sentence == (
        f"{path} has schema version {str(version)[:40]}, and this autoprec reads version 1."
    )
    assert error.hint == "the autoprec that wrote it, or measure again with autoprec tune --fresh"


def test_a_huge_file_is_refused_unread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with path.open("wb") as file:
        file.truncate(profiles.MAX_BYTES + 1)  # a hole: it takes no room
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("it was read"))
    assert complaint(path) == "it is larger than 64 MiB."


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_an_endless_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "MAX_BYTES", 1 << 20)
    assert complaint(Path("/dev/zero")) == "it is larger than 1 MiB."


def row(content: Any) -> Any:
    return content["measurements"][3]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c.update(colour="red"), "colour is no known key."),
        (lambda c: row(c).update(colour="red"), "measurements[3].colour is no known key."),
        (lambda c: row(c).pop("role"), "measurements[3].role is missing."),
        (
            lambda c: row(c)["workload"].update(batch="8"),
            "measurements[3].workload.batch should be a valid integer, not '8'.",
        ),
        (
            lambda c: row(c)["workload"].update(batch=-8),
            "measurements[3].workload is refused: batch must be at least 1, got -8.",
        ),
        (
            lambda c: row(c)["workload"].update(phase="verify"),
            "measurements[3].workload.phase should be 'prefill', 'append' or 'decode', "
            "not 'verify'.",
        ),
        (
            lambda c: row(c)["config"].update(block_q=1.5),
            "measurements[3].config.block_q should be a valid integer, not 1.5 (and 1 more).",
        ),
        (
            lambda c: row(c).update(status="failed"),
            "measurements[3] is refused: the failed measurement of fp16 gives no reason.",
        ),
        (
            lambda c: row(c)["errors"]["gauss"].update(rel_l2=-1),
            "measurements[3] is refused: "
            "rel_l2 of fp16 on gauss must be finite and not below zero, got -1.",
        ),
        (
            lambda c: row(c)["errors"]["gauss"].update(rel_l2={"p50": 1}),
            "measurements[3].errors.gauss.rel_l2 should be a valid number, not {'p50': 1}.",
        ),
        (
            lambda c: c.update(measurements={}),
            "measurements should be a valid array, not {}.",
        ),
        (
            lambda c: c.update(environment=[0] * 99),
            "environment should be an object, not [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ….",
        ),
        (
            lambda c: c["ceilings"].update(copy_gb_s=0),
            "ceilings is refused: the ceiling copy_gb_s must be above zero and finite, got 0.",
        ),
        (
            lambda c: row(c).update(kernel="\ud800"),
            "its text is no JSON: unexpected end of hex escape at line 1 column",
        ),
        (
            lambda c: c.update(budget="tight"),
            "budget is refused: the budget 'tight' cannot be read at character 1, 't': 'tight' is "
            "no metric (rel_l2, bits, row_rel.p999, row_rel.max, max_abs, lse_abs, ratio:fp32, "
            "ratio:torch) and no preset (fp32, strict, balanced, fa-parity, rl).",
        ),
        (
            lambda c: c["measurements"].append(row(c)),
            "measurements[18] repeats measurements[3].",
        ),
        (
            lambda c: c["choices"][0].update(path="fp32x9"),
            "choices[0] (fp32x9 for prefill b1 q4096 kv4096 32/8 d128 causal fp32) "
            "was never measured.",
        ),
        (
            lambda c: row(c).update(status="failed", reason="it broke"),
            "choices[0] (fp16 for prefill b1 q4096 kv4096 32/8 d128 causal fp32) "
            "was never measured.",
        ),
        (
            lambda c: row(c).update(conversion="amortised"),
            "choices[0] (fp16 for prefill b1 q4096 kv4096 32/8 d128 causal fp32) "
            "was never measured.",
        ),
        (
            lambda c: c["choices"].append(c["choices"][0]),
            "choices[4] decides prefill b1 q4096 kv4096 32/8 d128 causal fp32 again.",
        ),
        (
            lambda c: c["refusals"].append({**refused_by(c), "rejected": {}}),
            "refusals[0] decides prefill b1 q4096 kv4096 32/8 d128 causal fp32 again.",
        ),
        (
            lambda c: c["refusals"].append({**refused_by(c, batch=9), "rejected": {}}),
            "refusals[0] (prefill b9 q4096 kv4096 32/8 d128 causal fp32) was never measured.",
        ),
        (
            lambda c: row(c)["config"].update(block_q=0),
            "measurements[3].config.block_q must be a whole number above zero, not 0.",
        ),
        (
            lambda c: c["choices"][0]["config"].update(block_q="x"),
            "choices[0].config.block_q must be a whole number above zero, not 'x'.",
        ),
        (
            lambda c: c["choices"][0]["config"].update(block_q=64),
            "choices[0] (fp16 for prefill b1 q4096 kv4096 32/8 d128 causal fp32) "
            "was measured with another config.",
        ),
        (
            lambda c: row(c)["errors"]["gauss"].update(rel_l2=0.02),
            "choices[0] (fp16 for prefill b1 q4096 kv4096 32/8 d128 causal fp32) "
            "is over the budget of rel_l2<=0.01.",
        ),
    ],
)
def test_a_file_broken_by_hand_names_the_place(
    path: Path, change: Callable[[Any], object], what: str
) -> None:
    assert complaint(saved(path, change)).startswith(what)


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


def refused_by(content: Any, **changes: int) -> dict[str, Any]:
    return {"workload": {**content["choices"][0]["workload"], **changes}}


def test_a_number_too_large_for_a_float_is_refused(path: Path) -> None:
    profiles.write(made_up.profile(), path)
    path.write_text(path.read_text().replace("3030.0", "1e999"))
    assert complaint(path) == "ceilings.copy_gb_s should be a finite number, not inf."


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.data())
def test_any_value_put_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.json"
    profiles.write(made_up.profile(made_up.rows()[:2]), path)
    content = place = json.loads(path.read_text())
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        below = place[key]
        if isinstance(below, dict | list) and below and data.draw(st.booleans()):
            place = below
            continue
        place[key] = data.draw(JUNK)
        break
    path.write_text(json.dumps(content))
    try:
        profiles.read(path)
    except ProfileError:
        refusal(path)


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


# Places


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
