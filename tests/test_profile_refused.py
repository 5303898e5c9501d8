"""Files that are no profile: each is refused in one sentence that names the place."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_files import complaint, refusal, row, saved

from autoprec import profile as profiles
from autoprec.errors import ProfileError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "machine.json"


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
