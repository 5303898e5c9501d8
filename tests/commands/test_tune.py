"""``autoprec tune`` as a person uses it: what is saved, what is said, and how it ends."""

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import pytest
from command_line import TINY, Cli

from autoprec import cli, profile
from autoprec import tune as tuning
from autoprec.types import Measurement, Status


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
    ended = run("tune", *TINY, "--budget", "1e-8", "-o", str(file))
    assert ended.code == 1
    assert ended.err.splitlines()[-3:] == [
        f"saved {file}",
        "autoprec: no path tried keeps to rel_l2<=1e-08 on 1 of 1 workload.",
        "try: a larger --budget, or --out-dtype fp32 where the output's rounding is what costs",
    ]
    assert "fp32 5.00e-07" in ended.out
    assert len(profile.read(file).refusals) == 1


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_budget_out_of_reach_exits_1_before_anything_is_measured_or_written(
    run: Cli, probe: dict[str, Any], tmp_path: Path, more: list[str]
) -> None:
    file = tmp_path / "machine.json"
    assert run("tune", *TINY, "-o", str(file)).code == 0
    before = file.read_bytes()
    ended = run("tune", *TINY, "--budget", "bits>=500", "-o", str(file), *more)
    assert (ended.code, ended.out, ended.err) == (
        1,
        "",
        "autoprec: no path can keep to the budget: rounding the output to fp32 alone costs "
        "2.5e-08, far over bits>=500.\ntry: a larger --budget\n",
    )
    assert file.read_bytes() == before


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
    ended = run("tune", *TINY, "--batch", "2", "--budget", "1e-8", "-o", str(file))
    assert ended.err.splitlines()[-2] == (
        "autoprec: no path tried keeps to rel_l2<=1e-08 on 2 of 2 workloads."
    )


def test_what_there_was_no_time_for_is_said_and_exits_0(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    probe["changes"] = {"status": Status.SKIPPED, "reason": "there was no time"}
    file = tmp_path / "machine.json"
    words = ("tune", *TINY, "-o", str(file))
    for limit in ([], ["--time-limit", "50"], ["--time-limit=50"]):
        ended = run(*words[:3], *limit, *words[3:])
        assert ended.code == 0
        assert ended.err.splitlines()[-2:] == [
            "note: nothing is chosen for 1 of 1 workload: there was no time for 1 measurement on "
            "1 workload; try a longer --time-limit, or fewer workloads",
            f"note: no plan can be loaded from {file} yet; this goes on: "
            f"autoprec {' '.join(words)} --time-limit 100",
        ]
    probe.clear()
    assert run(*words, "--time-limit", "100").err.splitlines()[-1] == f"saved {file}"


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


def test_consistent_mode_that_a_cpu_lacks_is_said(
    run: Cli, probe: dict[str, Any], tmp_path: Path
) -> None:
    ended = run("tune", *TINY, "--consistent", "-o", str(tmp_path / "machine.json"))
    assert ended.code == 0
    assert ended.err.startswith(
        "note: --consistent measures nothing here: no kernel has a consistent mode on "
    )
