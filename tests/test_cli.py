"""The command line as a person uses it: what goes where, and how it ends."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import made_up
import pytest
import torch
from safetensors.torch import save_file

import autoprec
from autoprec import cli, profile
from autoprec import tune as tuning
from autoprec.probe import device as devices
from autoprec.probe.events import Measured, Planned
from autoprec.types import Measurement, Status


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["autoprec", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine on which every path takes 1 ms, and fp32 is accurate; what it was asked."""
    asked: dict[str, Any] = {}

    def measure(workloads: Any, **more: Any) -> Iterator[Measurement]:
        asked.update(more, workloads=workloads, seen=0)
        more["observe"](Planned(len(workloads)))
        for workload in workloads:
            for path in more["paths"]:
                if asked["seen"] == asked.get("interrupt_at"):
                    raise KeyboardInterrupt
                row = made_up.measurement(
                    path, 1.0, 5e-7 if path == "fp32" else 3e-3, workload=workload
                )
                row = replace(row, **asked.get("changes", {}))
                asked["seen"] += 1
                more["observe"](Measured(row))
                yield row
            if "baseline" in asked:
                yield made_up.measurement(asked["baseline"], workload=workload)

    monkeypatch.setattr(tuning, "measure", measure)
    monkeypatch.setattr(tuning.probe_device, "environment", lambda device: made_up.environment())
    monkeypatch.setattr(tuning.probe_ceilings, "measure", lambda device: made_up.ceilings())
    return asked


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "h100.json"
    profile.write(made_up.profile(), file)
    return file


TINY = ("--device", "cpu", "--phase", "decode", "--kv-len", "64", "--batch", "1", "--paths", "fp32")


def test_tune_saves_the_profile_and_prints_its_report(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "new" / "machine.json"
    ended = run("tune", *TINY, "--paths", "bf16", "-o", str(file), "--time-limit", "30")
    assert ended.code == 0
    assert ended.err == (
        f"decode b1 q1 kv64 32/8 d128 causal fp32: fp32 takes 1 ms, rel_l2 5.0e-07\nsaved {file}\n"
    )
    assert "within budget" in ended.out
    found = profile.read(file)
    assert [row.path for row in found.measurements] == ["fp32", "bf16"]
    assert found.recorded_by.startswith("autoprec tune --device cpu --phase decode")
    assert found.budget == "rel_l2<=0.01"


def test_a_further_tune_adds_and_keeps_the_budget_and_fresh_starts_anew(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "machine.json"
    first = ("tune", *TINY, "--budget", "1e-3", "--allow-baselines", "-o", str(file))
    assert run(*first).code == 0
    more = ("tune", *TINY[:-4], "--batch", "2", "--paths", "fp32", "-o", str(file))
    assert run(*more).code == 0
    found = profile.read(file)
    assert [row.workload.batch for row in found.measurements] == [1, 2]
    assert (found.budget, found.allow_baselines) == ("rel_l2<=0.001", True)
    assert run(*more, "--fresh", "--no-allow-baselines").code == 0
    found = profile.read(file)
    assert [row.workload.batch for row in found.measurements] == [2]
    assert (found.budget, found.allow_baselines) == ("rel_l2<=0.01", False)


def test_families_confidence_and_a_budget_by_name(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "machine.json"
    words = ("--budget", "decode:fp32,1e-3", "--families", "typical,tiny", "--confidence", "0.5")
    ended = run("tune", *TINY[:-2], "--paths", "bf16", *words, "-o", str(file))
    assert "note: fp32 is measured too, for the budget compares with it" in ended.err
    assert probe["paths"] == ("bf16", "fp32")
    groups = {name: family.group for name, family in probe["families"].items()}
    assert groups.pop("tiny") == "typical"
    assert list(groups) == ["gauss", "outlier", "sink", "kbias", "peaky", "flat"]
    assert probe["judge"].needed == 14  # ln 0.5 / ln 0.95
    found = profile.read(file)
    assert found.budget == "decode:ratio:fp32<=2,rel_l2<=0.001"
    assert found.confidence == 0.5
    assert [choice.path for choice in found.choices] == ["fp32"]


def test_a_budget_that_nothing_keeps_exits_1_and_saves(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "machine.json"
    ended = run("tune", *TINY, "--budget", "1e-12", "-o", str(file))
    assert ended.code == 1
    assert ended.err.splitlines()[-3:] == [
        f"saved {file}",
        "autoprec: no path tried keeps to rel_l2<=1e-12 on 1 of 1 workload.",
        "try: a larger --budget, or --out-dtype fp32 where the output's rounding is what costs",
    ]
    assert "fp32 5.00e-07" in ended.out
    assert len(profile.read(file).refusals) == 1


def test_workloads_on_which_nothing_runs_exit_1_and_say_so(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "machine.json"
    probe["changes"] = {"status": Status.UNSUPPORTED, "reason": "no kernel takes it"}
    probe["baseline"] = "sdpa-math"  # runs, and is not ours to choose
    ended = run("tune", *TINY, "-o", str(file))
    assert ended.code == 1
    assert ended.err.splitlines()[-2:] == [
        "autoprec: no path tried runs on 1 of 1 workload.",
        f"try: autoprec explain {file}, which says why",
    ]
    probe.clear()
    ended = run("tune", *TINY, "--batch", "2", "--budget", "1e-12", "-o", str(file))
    assert ended.err.splitlines()[-2] == (
        "autoprec: no path tried keeps to rel_l2<=1e-12 on 2 of 2 workloads."
    )


def test_what_there_was_no_time_for_is_said_and_exits_0(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    probe["changes"] = {"status": Status.SKIPPED, "reason": "there was no time"}
    ended = run("tune", *TINY, "-o", str(tmp_path / "machine.json"))
    assert ended.code == 0
    assert ended.err.splitlines()[-1] == (
        "note: nothing is chosen for 1 of 1 workload: there was no time for 1 measurement on "
        "1 workload; try a longer --time-limit, or fewer workloads"
    )


@pytest.mark.parametrize("fresh", [False, True])
def test_what_another_tune_saved_meanwhile_is_kept_unless_all_is_to_be_replaced(
    run: Cli, probe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    file = tmp_path / "machine.json"
    words = ("tune", *TINY, "-o", str(file), "--batch")
    assert run(*words, "1").code == 0
    measure = tuning.measure
    first = profile.read(file).measurements[0]
    faster = replace(first, p20_ms=0.1, p50_ms=0.1, p80_ms=0.1)
    other = replace(first, workload=replace(first.workload, batch=4))

    def interfered(*args: Any, **more: Any) -> Iterator[Measurement]:
        profile.write(made_up.profile([faster, other]), file)
        yield from measure(*args, **more)

    monkeypatch.setattr(tuning, "measure", interfered)
    words = ("tune", *TINY[:-4], "--paths", "fp32", "--batch", "2", "-o", str(file))
    assert run(*words, *(["--fresh"] if fresh else [])).code == 0
    found = profile.read(file)
    times = {row.workload.batch: row.p50_ms for row in found.measurements}
    assert times == ({2: 1.0} if fresh else {1: 0.1, 4: 1.0, 2: 1.0})
    assert {choice.workload.batch for choice in found.choices} == set(times)


def test_an_interrupt_saves_what_was_measured_and_exits_130(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "machine.json"
    probe["interrupt_at"] = 1
    ended = run("tune", *TINY, "--batch", "2", "-o", str(file))
    assert ended.code == 130
    assert f"saved {file}" in ended.err
    assert len(profile.read(file).measurements) == 1
    assert profile.read(file).remarks == ["Measuring was interrupted."]


def test_an_interrupt_before_the_first_row_leaves_the_file(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "machine.json"
    assert run("tune", *TINY, "-o", str(file)).code == 0
    before = file.read_bytes()
    probe["interrupt_at"] = 0
    ended = run("tune", *TINY, "-o", str(file))
    assert (ended.code, ended.out) == (130, "")
    assert ended.err == "interrupted before anything was measured; nothing is saved\n"
    assert file.read_bytes() == before


def test_a_profile_of_another_machine_exits_3(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "machine.json"
    other = made_up.environment(device=made_up.device(name="NVIDIA A100"))
    profile.write(made_up.profile(environment=other), file)
    before = file.read_bytes()
    ended = run("tune", *TINY, "-o", str(file))
    assert (ended.code, ended.out) == (3, "")
    assert "the profile is for NVIDIA A100" in ended.err
    assert ended.err.endswith("try: --fresh to replace it, or -o with another file\n")
    assert file.read_bytes() == before


def test_a_full_disk_keeps_the_old_profile_and_prints_the_report(
    run: Cli, probe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "machine.json"
    assert run("tune", *TINY, "-o", str(file)).code == 0
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    ended = run("tune", *TINY, "--batch", "2", "-o", str(file))
    assert ended.code == 2
    assert "No space left on device" in ended.err
    assert "within the budget" in ended.out
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


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


def test_an_unknown_command_effort_or_format_exits_2(run: Cli, saved: Path) -> None:
    assert run("tuen").err == (
        "autoprec: No such command 'tuen'. Did you mean 'tune'?\ntry: autoprec --help\n"
    )
    assert run("tune", "--effort", "some").code == 2
    ended = run("report", str(saved), "--format", "xml")
    assert ended.code == 2
    assert ended.err.endswith("try: autoprec report --help\n")


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


def test_without_a_profile_report_says_how_to_get_one(
    run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "user_dir", lambda: tmp_path)
    ended = run("report")
    assert ended.code == 2
    assert ended.err.endswith("yet.\ntry: autoprec tune\n")


def test_commands_take_the_profile_that_the_variable_names(
    run: Cli, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPREC_PROFILE", str(saved))
    assert run("report").out.startswith(f"profile   {saved}")
    assert "Use bf16" in run("explain", "--phase", "prefill").out
    for command in ("verify", "bench"):
        ended = run(command, "--device", "cpu")
        assert (ended.code, "the profile is for NVIDIA H100 80GB HBM3" in ended.err) == (3, True)
    missing = tmp_path / "none.json"
    monkeypatch.setenv("AUTOPREC_PROFILE", str(missing))
    for command in ("report", "explain", "verify", "bench"):
        ended = run(command)
        assert (ended.code, ended.err) == (
            2,
            f"autoprec: there is no profile {missing} (named by AUTOPREC_PROFILE).\n"
            "try: autoprec tune, which writes one\n",
        )


def test_a_damaged_profile_is_passed_over_and_one_that_comes_with_autoprec_is_taken(
    run: Cli, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "environment", lambda device: made_up.environment())
    monkeypatch.setattr(profile, "user_dir", lambda: tmp_path / "own")
    monkeypatch.setattr(profile, "bundled", lambda: [saved])
    own = profile.default_path(made_up.device())
    own.parent.mkdir()
    own.write_text("{}")
    ended = run("report")
    assert ended.out.startswith(f"profile   {saved}")
    assert ended.err == (
        f"note: passed over: {own} is no valid profile: it has no schema_version.\n"
    )


@pytest.mark.parametrize("format", ["table", "markdown", "csv", "json", "html"])
def test_report_takes_one_profile_or_two_in_every_format(
    run: Cli, saved: Path, tmp_path: Path, format: str
) -> None:
    one = run("report", str(saved), "--format", format)
    assert (one.code, one.err) == (0, "")
    assert one.out.endswith("\n")
    other = shutil.copy(saved, tmp_path / "other.json")
    two = run("report", str(saved), str(other), "--format", format)
    assert (two.code, two.err) == (0, "")
    assert "other.json" in two.out
    assert two.out != one.out


def test_a_report_goes_to_a_file_in_the_form_of_its_name(
    run: Cli, saved: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    ended = run("report", str(saved), "-o", str(page))
    assert (ended.code, ended.out, ended.err) == (0, "", f"saved {page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_slower_profile_exits_1_once_the_report_is_printed(
    run: Cli, saved: Path, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.json"
    rows = [
        replace(row, p20_ms=1.2 * row.p20_ms, p50_ms=1.2 * row.p50_ms, p80_ms=1.2 * row.p80_ms)
        if row.p20_ms and row.p50_ms and row.p80_ms
        else row
        for row in made_up.rows()
    ]
    profile.write(made_up.profile(rows), slow)
    assert run("report", str(saved), str(saved), "--fail-if-slower", "5%").code == 0
    ended = run("report", str(saved), str(slow), "--fail-if-slower", "5%")
    assert ended.code == 1
    assert ended.out.startswith("A  ")
    assert f"{slow} is more than 5% slower on 4 workloads of 4: prefill" in ended.err
    assert run("report", str(saved), "--fail-if-slower", "5%").code == 2


def test_report_of_a_broken_file_exits_2(run: Cli, saved: Path) -> None:
    saved.write_text(saved.read_text()[:-100])
    ended = run("report", str(saved))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"autoprec: {saved}")


def test_explain_finds_the_workload_or_the_nearest(run: Cli, saved: Path) -> None:
    exact = run("explain", str(saved), "--phase", "decode", "--input-dtype", "fp32")
    assert exact.code == 0
    assert "decode b16 q1 kv8192 32/8 d128 causal fp32" in exact.out
    assert "autoprec tune --phase decode --batch 16" in exact.out
    near = run("explain", str(saved), "--phase", "decode", "--batch", "8", "--kv-len", "4096")
    assert near.code == 0
    assert "not measured" in near.out
    assert "autoprec tune --phase decode --batch 8 --q-len 1 --kv-len 4096" in near.out


def test_version_and_help(run: Cli) -> None:
    version, environment = run("--version").out.splitlines()
    assert version == f"autoprec {autoprec.__version__}"
    assert re.fullmatch(
        r"torch [\w.+]+, triton [\w.+]+, python [\d.]+(, driver [\d.]+)?", environment
    )
    assert run("--help").out == run().out
    for command in ("probe", "paths", "tune", "report", "explain", "bench", "doctor"):
        assert run(command, "--help").code == 0


def test_paths_and_probe_print_what_is_here(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = json.loads(run("paths", "--device", "cpu", "--format", "json").out)
    assert any(row["runs"] and row["path"] == "fp32" for row in listed)
    assert any("needs a GPU" in (row["reason"] or "") for row in listed)
    monkeypatch.setattr("autoprec.probe.ceilings.measure", lambda device: made_up.ceilings())
    ended = run("probe", "--device", "cpu")
    assert ended.code == 0
    assert "3030" in ended.out


def test_where_nobody_reads_the_command_ends_quietly(saved: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = subprocess.run(
        [sys.executable, "-P", "-m", "autoprec", "report", str(saved)],
        stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (command.returncode, command.stderr) == (0, "")


@pytest.mark.parametrize("columns", [80, 112])
def test_help_cuts_nothing(run: Cli, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in ("probe", "paths", "tune", "report", "explain", "verify", "bench", "doctor"):
        assert re.findall(r"\S*[a-z0-9=_-]…\s", run(command, "--help").out) == []
    tune = run("tune", "--help").out
    assert "--max-workspace-gib" in tune
    assert "--no-allow-baselines" in tune
    assert "Workloads (each option takes a list, such as 1,8,64)" in tune


@pytest.mark.parametrize(
    ("redirection", "sentence"),
    [
        (">&-", "stdout is closed"),
        (">/dev/full", "No space left on device"),
        (">&- 2>&-", None),
        (">/dev/full 2>/dev/full", None),
    ],
)
def test_a_stdout_that_takes_nothing_is_one_sentence_and_exits_2(
    saved: Path, redirection: str, sentence: str | None
) -> None:
    command = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -P -m autoprec report "$1" {redirection}', sys.executable, saved],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = f"autoprec: the result cannot be printed: {sentence}.\n" if sentence else ""
    assert (command.returncode, command.stdout, command.stderr) == (2, "", said)


def test_a_character_that_stdout_cannot_print_is_written_out(saved: Path) -> None:
    saved = saved.rename(saved.with_name("é.json"))
    command = subprocess.run(
        [sys.executable, "-P", "-m", "autoprec", "report", saved],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (command.returncode, command.stderr) == (0, "")
    assert "\\xe9.json" in command.stdout


class Gone(io.StringIO):
    """A stderr whose reader has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("stream", [Gone(), None])
def test_a_stderr_that_goes_away_costs_no_measurement(
    probe: dict[str, Any], tmp_path: Path, stream: io.StringIO | None,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "machine.json"
    monkeypatch.setattr(sys, "argv", ["autoprec", "tune", *TINY, "-o", str(file)])
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "saved" not in capsys.readouterr().out
    assert len(profile.read(file).measurements) == 1


def test_an_interrupt_before_anything_began_is_one_sentence() -> None:
    program = (
        "import os, signal\n"
        "from autoprec import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli._call = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.main()\n"
    )
    command = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False
    )
    assert (command.returncode, command.stdout) == (130, "")
    assert command.stderr == "Interrupted; nothing is saved.\n"
