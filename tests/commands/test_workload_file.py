"""Workloads from a JSON file."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from autoprec.commands.workload_file import MAX_BYTES, read_workloads
from autoprec.errors import InputError
from autoprec.sizes import Sizes
from autoprec.workloads import expand

ENTRY = {
    "phase": "decode", "kv_len": 64, "q_heads": 4, "kv_heads": 2, "head_dim": 16,
    "input_dtype": "bf16",
}  # fmt: skip


def test_what_a_profile_holds_is_read_back(tmp_path: Path) -> None:
    workloads = expand(Sizes(phase=["prefill,append,decode"], out_dtype=["fp32"]), kind="cuda")
    file = tmp_path / "workloads.json"
    file.write_text(json.dumps([asdict(workload) for workload in workloads]))
    assert read_workloads(file) == workloads


def test_fields_left_out_take_their_defaults(tmp_path: Path) -> None:
    file = tmp_path / "workloads.json"
    file.write_text(json.dumps([ENTRY, {**ENTRY, "phase": "prefill", "soft_cap": 30}]))
    decode, prefill = read_workloads(file)
    assert str(decode) == "decode b1 q1 kv64 4/2 d16 causal bf16"
    assert str(prefill) == "prefill b1 q64 kv64 4/2 d16 causal cap30 bf16"
    assert (decode.soft_cap, prefill.soft_cap) == (None, 30.0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "the workloads file {} is no JSON: Expecting value: line 1 column 1 (char 0)."),
        ("[" * 100_000, "the workloads file {} is nested too deeply."),
        (" " * (MAX_BYTES + 1), "the workloads file {} is larger than 1048576 bytes."),
        ("{}", "the workloads file {} is no list of workloads."),
        ("[]", "the workloads file {} is no list of workloads."),
        ("[3]", "{}, workload 1: it is no object."),
        ([{**ENTRY, "custom_mask": True}], "{}, workload 1: custom masks are not measured."),
        ([ENTRY, {}], "{}, workload 2: the field 'phase' is missing."),
        ([{**ENTRY, "kvlen": 1}], "{}, workload 1: there is no field 'kvlen'."),
        ([{**ENTRY, "phase": []}],
         "{}, workload 1: phase must be one of prefill, append, decode, got []."),
        ([{**ENTRY, "batch": True}],
         "{}, workload 1: batch must be a whole number from 1 to 999999999, got True."),
        ([{**ENTRY, "kv_len": -5}],
         "{}, workload 1: kv_len must be a whole number from 1 to 999999999, got -5."),
        ([{**ENTRY, "kv_len": "5"}],
         "{}, workload 1: kv_len must be a whole number from 1 to 999999999, got '5'."),
        ([{**ENTRY, "soft_cap": float("nan")}],
         "{}, workload 1: soft_cap must be a number above 0, got nan."),
        ([{**ENTRY, "sinks": 1}], "{}, workload 1: sinks must be true or false, got 1."),
        ([{**ENTRY, "layout": "paged"}],
         "{}, workload 1: page_size is for the layout paged, and paged is given page_size None."),
        ([{**ENTRY, "q_heads": 5}],
         "{}, workload 1: q_heads must be a multiple of kv_heads, got 5/2."),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_sentence(tmp_path: Path, content: object, sentence: str) -> None:
    file = tmp_path / "workloads.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_workloads(file)
    assert caught.value.sentence == sentence.format(file)
    assert caught.value.hint == "a JSON list of workloads, as they stand in a profile"


def test_a_folder_and_a_missing_file_are_one_sentence_each(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: Is a directory\. Try: a JSON list"):
        read_workloads(tmp_path)
    with pytest.raises(InputError, match=r"No such file or directory\. Try: a JSON list"):
        read_workloads(tmp_path / "none.json")


def test_bytes_that_are_no_text_are_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "workloads.json"
    file.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match="is no JSON"):
        read_workloads(file)
