"""What ``autoprec tune`` is asked: what it takes for that, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import TINY, Cli
from safetensors.torch import save_file

from autoprec import profile
from autoprec import tune as tuning
from autoprec.probe import device as devices


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--budget", "rel_l2<1"),
            "the budget 'rel_l2<1' cannot be read at character 7, '<': <= was expected after "
            "rel_l2.",
        ),
        (
            ("--budget", "0"),
            "the budget '0' cannot be read at character 1, '0': a bound must be above zero and "
            "finite, got 0.",
        ),
        (
            ("--families", "gaus"),
            "--families must be among gauss, outlier, sink, kbias, peaky, flat, resonant, tiny, "
            "large, cancel, typical, extreme, all, got 'gaus'.",
        ),
        (("--confidence", "1"), "--confidence must be from 0 to 0.9999, got 1."),
        (("--device", "tpu"), "the device 'tpu' is not one of auto, cpu, cuda and cuda:N."),
        (("--phase", "train"), "--phase must be one of prefill, append, decode, got 'train'."),
        (("--kv-len", "-1"), "--kv-len must be a whole number from 1 to 999999999, got '-1'."),
        (("--heads", "32,8"), "--heads 32,8 would be two, 32/32 and 8/8; query and KV heads have "
         "a slash between them."),
        (("--heads", "32/7"), "q_heads must be a multiple of kv_heads, got 32/7."),
        (("--model", "gpt-9"), "--model gpt-9 is no preset and no file."),
        (("--time-limit", "nan"), "--time-limit must be a number of seconds above 0, got nan."),
        (("--time-limit", "0"), "--time-limit must be a number of seconds above 0, got 0."),
        (
            ("--max-workspace-gib", "-1"),
            "--max-workspace-gib must be a number of GiB from 0 on, got -1.",
        ),
        (
            ("--max-workspace-gib", "nan"),
            "--max-workspace-gib must be a number of GiB from 0 on, got nan.",
        ),
        (("--workloads", "none.json"), "the workloads file none.json cannot be read: "
         "No such file or directory."),
        (("--workloads", "none.json", "--batch", "1"),
         "--workloads says every size, so --batch cannot join it."),
        (("--workloads", "none.json", "--model", "qwen3-8b"),
         "--workloads says every size, so --model cannot join it."),
        (("-o", "."), ". is a folder, not a file."),
        (("--dry-run", "-o", "."), ". is a folder, not a file."),
        (("--model", "x" * 5000), f"--model {'x' * 80}… is no preset and no file."),
        (("--dryrun",), "No such option: --dryrun (Possible options: --dry-run)."),
        (("--batch",), "Option '--batch' requires an argument."),
        (("again",), "Got unexpected extra argument(s) (again)."),
    ],
)  # fmt: skip
def test_bad_usage_is_one_sentence_and_exits_2(
    run: Cli, probe: dict[str, Any], words: tuple[str, ...], sentence: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    device = () if "--device" in words else ("--device", "cpu")
    ended = run("tune", *device, *words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[0] == f"autoprec: {sentence}"
    assert len(ended.err.splitlines()) <= 2
    assert probe == {}, "it measured"
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_path_names_the_known_ones(run: Cli) -> None:
    ended = run("tune", "--device", "cpu", "--paths", "fp32,fp8")
    assert ended.code == 2
    assert ended.err.startswith("autoprec: --paths must be among fp32, tf32,")
    assert ended.err.endswith("got 'fp8'.\ntry: autoprec paths, which says what each is\n")


def test_a_dry_run_says_what_would_be_measured(
    run: Cli, probe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("tune", *TINY, "--heads", "4/2", "--dry-run", "-o", "machine.json")
    ended = run(*words)
    assert (ended.code, ended.err) == (0, "")
    assert "decode b1 q1 kv64 4/2 d128 causal fp32" in ended.out
    assert probe == {}
    assert list(tmp_path.iterdir()) == []
    records = json.loads(run(*words, "--format", "json").out)
    assert {record["path"] for record in records} >= {"fp32", "sdpa-math"}
    # q and the output: 4 heads of 128; k and v: 64 tokens of 2 heads of 128; 4 bytes each
    assert {record["tensors_mib"] for record in records} == {
        round((2 * 4 * 128 + 2 * 64 * 2 * 128) * 4 / 2**20, 3)
    }


def test_a_model_fills_the_sizes_and_its_windows_are_measured(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    ended = run(
        "tune", "--device", "cpu", "--model", "gemma-3-1b", "--paths", "fp32",
        "-o", str(tmp_path / "machine.json"),
    )  # fmt: skip
    assert ended.code == 0
    assert "note: no kernel here" not in ended.err
    assert {(w.q_heads, w.kv_heads, w.head_dim) for w in probe["workloads"]} == {(4, 1, 256)}
    assert "\ngemma-3-1b, attention of 26 layers\nwhat " in ended.out
    assert "\n- cache: K and V of a token take 52.0 KiB in fp32\n" in ended.out


def captured(path: Path, *, causal: bool = True) -> str:
    """A file of two layers with heads of 16, on 40 tokens; the model has 9 and 3 of them."""
    file = path / "captured.safetensors"
    tensors = {f"{layer}.{x}": torch.randn(3 if x == "q" else 1, 40, 16)
               for layer in range(2) for x in "qkv"}  # fmt: skip
    told = {str(layer): json.dumps({"layer": layer, "causal": causal, "heads": "9/3"})
            for layer in range(2)}  # fmt: skip
    save_file(tensors, file, metadata=told)
    return str(file)


@pytest.mark.parametrize("per_layer", [False, True])
def test_captured_tensors_are_a_family_and_say_the_sizes(
    run: Cli, probe: dict[str, Any], tmp_path: Path, per_layer: bool
) -> None:
    ended = run(
        "tune", "--device", "cpu", "--inputs", captured(tmp_path), "--families", "gauss",
        "--paths", "fp32", "-o", str(tmp_path / "machine.json"),
        *(["--per-layer"] if per_layer else []),
    )  # fmt: skip
    assert ended.code == 0
    assert {(w.q_heads, w.kv_heads, w.head_dim, w.kv_len, w.mask) for w in probe["workloads"]} == {
        (9, 3, 16, 40, "causal")
    }
    names = ["captured/0", "captured/1"] if per_layer else ["captured"]
    assert list(probe["families"]) == ["gauss", *names]


def test_an_encoders_captured_tensors_are_prefills(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    file = captured(tmp_path, causal=False)
    words = ("tune", "--device", "cpu", "--inputs", file, "--paths", "fp32",
             "-o", str(tmp_path / "machine.json"))  # fmt: skip
    assert run(*words).code == 0
    assert {(w.phase, w.mask) for w in probe["workloads"]} == {("prefill", "full")}
    ended = run(*words, "--mask", "causal")
    assert ended.code == 2
    assert ended.err.endswith(
        f"{file} holds full attention alone, and prefill b1 q40 kv40 9/3 d16 causal fp32 is not.\n"
        "try: --mask full\n"
    )


def test_layers_need_captured_tensors(run: Cli, probe: dict[str, Any]) -> None:
    ended = run("tune", "--device", "cpu", "--per-layer")
    assert (ended.code, ended.err) == (
        2,
        "autoprec: --per-layer needs captured tensors.\n"
        "try: --per-layer --inputs captured.safetensors\n",
    )


def test_a_file_of_workloads_is_taken_as_it_is(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "workloads.json"
    file.write_text(
        json.dumps([{"phase": "decode", "kv_len": 64, "q_heads": 4, "kv_heads": 2,
                     "head_dim": 16, "input_dtype": "bf16"}])
    )  # fmt: skip
    out = tmp_path / "machine.json"
    assert run("tune", "--device", "cpu", "--workloads", str(file), "-o", str(out)).code == 0
    assert [str(w) for w in probe["workloads"]] == ["decode b1 q1 kv64 4/2 d16 causal bf16"]


def test_auto_says_which_device_it_takes_and_the_profile_has_a_place(
    run: Cli, probe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "resolve", lambda text: tuning.torch.device("cpu"))
    monkeypatch.setattr(profile, "user_dir", lambda: tmp_path / "profiles")
    ended = run("tune", *TINY[2:])
    assert ended.code == 0
    assert ended.err.startswith("--device auto takes cpu: ")
    (file,) = (tmp_path / "profiles").iterdir()
    assert f"saved {file}" in ended.err
    assert run("report").out.startswith(f"profile   {file}")
    assert "Use fp32" in run("explain").out
