"""The plan against its peers, on a CPU."""

import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import pytest
import torch

from autoprec import cli, registry
from autoprec import profile as profiles
from autoprec.bench import bench
from autoprec.budget import Budget
from autoprec.errors import InputError
from autoprec.kernels.interface import Call
from autoprec.probe import device as devices
from autoprec.probe.contender import Contender
from autoprec.report.bench import document
from autoprec.report.formats import table
from autoprec.types import Config, Conversion, Layout, Profile, Role, Status

CPU = torch.device("cpu")
SMALL = made_up.workload(kv_len=64, q_heads=2, kv_heads=1, head_dim=32)


def chosen_here(**changes: Any) -> Profile:
    """A profile of this machine whose choice is what runs fp32 on a CPU."""
    target = devices.target(CPU)
    (kernel, path), *_ = registry.candidates(SMALL, target, ("fp32",))[0]
    config = kernel.configs(path, SMALL, target)[0]
    row = made_up.measurement(
        path, 1.0, 5e-7, workload=SMALL, kernel=kernel.name, config=config,
        conversion=Conversion.NONE,
    )  # fmt: skip
    return made_up.profile([row], **{"environment": devices.environment(CPU)} | changes)


def test_the_choice_and_every_backend_are_timed() -> None:
    found = bench(chosen_here(), [SMALL], device=CPU, effort="quick", time_limit_s=60)
    plan, *others = found.rows
    assert (plan.role, plan.path, plan.status) == (Role.CANDIDATE, "fp32", Status.OK)
    assert {row.path: row.status for row in others if row.path.startswith("sdpa-")} == {
        "sdpa-efficient": Status.UNSUPPORTED,
        "sdpa-flash": Status.OK,
        "sdpa-cudnn": Status.UNSUPPORTED,
        "sdpa-math": Status.OK,
    }
    assert found.notes == {SMALL: ""}
    assert list(found.versions) == ["flashinfer-python", "flash-attn", "xformers"]


@pytest.mark.parametrize(
    ("budget", "wanted"), [("1e-3", False), ("1e-3,lse_abs<=1e-3", True), ("strict", True)]
)
def test_the_log_sum_exp_is_for_budgets_that_bound_it(
    budget: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[bool] = set()
    run = Contender._run

    def watched(self: Contender, config: Config, call: Call) -> Any:
        if self.role is not Role.BASELINE:
            asked.add(call.lse is not None)
        return run(self, config, call)

    monkeypatch.setattr(Contender, "_run", watched)
    profile = chosen_here(budget=budget)
    found = bench(profile, [SMALL], device=CPU, effort="quick", time_limit_s=60)
    assert asked == {wanted}
    assert ("lse_abs" in found.rows[0].errors["gauss"]) == wanted
    said = document(profile.environment, {}, Budget.parse(budget), found.rows, {}, "")
    assert said.frame["within_budget"].tolist()[0] is True
    assert ("gives no log-sum-exp" in table.render(said, 100, False)) == wanted


def test_a_workload_not_measured_takes_the_nearest_choice_and_says_so() -> None:
    other = replace(SMALL, kv_len=80, q_len=80)
    found = bench(chosen_here(), [other], device=CPU, effort="quick", time_limit_s=60)
    assert found.rows[0].workload == other
    assert "kv64" in found.notes[other]


def test_what_a_plan_would_run_is_timed_where_the_kernel_chosen_is_gone() -> None:
    profile = chosen_here()
    gone = [replace(it, kernel="gone") for it in profile.choices]
    found = bench(
        replace(profile, choices=gone), [SMALL], device=CPU, effort="quick", time_limit_s=60
    )
    plan = found.rows[0]
    (chosen,) = profile.choices
    assert (plan.path, plan.kernel, plan.status) == ("fp32", chosen.kernel, Status.OK)
    assert found.notes[SMALL].startswith("gone was chosen but cannot run this (")


def test_a_window_that_was_not_measured_takes_what_a_plan_would() -> None:
    windowed = replace(SMALL, window=16)
    found = bench(chosen_here(), [windowed], device=CPU, effort="quick", time_limit_s=60)
    assert (found.rows[0].role, found.rows[0].status) == (Role.CANDIDATE, Status.OK)
    assert found.notes[windowed].endswith("here window 16 instead of none")


def test_a_plan_without_a_choice_leaves_the_peers() -> None:
    bf16 = replace(SMALL, input_dtype="bf16", out_dtype="bf16")
    bf16 = made_up.workload(kv_len=64, q_heads=2, kv_heads=1, head_dim=32, input_dtype="bf16")
    found = bench(chosen_here(), [bf16], device=CPU, effort="quick", time_limit_s=60)
    assert {row.role for row in found.rows} == {Role.BASELINE}
    assert found.notes[bf16].startswith("the plan has nothing for it: ")


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(InputError, match="there is no workload to measure"):
        bench(chosen_here(), [], device=CPU)


@pytest.mark.parametrize(("budget", "measured"), [("ratio:fp32<=9e9", True), ("1.0", False)])
def test_what_the_budget_compares_with_is_measured_beside_the_plan(
    budget: str, measured: bool
) -> None:
    fp32, other = (
        made_up.measurement(
            path, p50_ms, 5e-7, workload=SMALL, kernel="cpu-blocked",
            config=registry.kernel("cpu-blocked").configs(path, SMALL, devices.target(CPU))[0],
        )
        for path, p50_ms in (("fp32", 9.0), ("bf16", 1.0))
    )  # fmt: skip
    profile = made_up.profile([fp32, other], environment=devices.environment(CPU), budget=budget)
    longer = replace(SMALL, kv_len=80, q_len=80)
    found = bench(profile, [SMALL, longer], device=CPU, effort="quick", time_limit_s=60)
    ours = [row for row in found.rows if row.role is Role.CANDIDATE]
    assert [(row.path, row.workload) for row in ours] == [("bf16", SMALL), ("bf16", longer)]
    assert [(row.path, row.workload, row.status) for row in found.references] == (
        [("fp32", SMALL, Status.OK), ("fp32", longer, Status.OK)] if measured else []
    )
    frame = document(
        profile.environment, {}, Budget.parse(budget), found.rows, {}, "", found.references
    ).frame
    assert set(frame["within_budget"][frame["status"] == "ok"]) == {True}


def ended(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["autoprec", "bench", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "here.json"
    profiles.write(chosen_here(), file)
    assert ended(monkeypatch, str(file), "--device", "cpu", "--effort", "quick") == 0
    said = capsys.readouterr().out
    assert "\npeers     flashinfer-python not installed, " in said
    assert f"\n{SMALL}\n" in said
    profiles.write(made_up.profile(), file)
    assert ended(monkeypatch, str(file), "--device", "cpu") == 3
    assert "is for another machine: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "word"), [({"torch": "1.0.0"}, "stale"), ({"driver": "1.0"}, "compatible")]
)
def test_how_far_the_profile_speaks_for_the_machine_is_said(
    changes: dict[str, str], word: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    here = replace(devices.environment(CPU), driver="580.82")
    monkeypatch.setattr(devices, "environment", lambda device: here)
    file = tmp_path / "here.json"
    profiles.write(chosen_here(environment=replace(here, **changes)), file)
    assert ended(monkeypatch, str(file), "--device", "cpu", "--effort", "quick") == 0
    assert f"note: {file} is {word}: the profile was measured " in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_time_limit_that_is_none_is_refused(
    seconds: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "no.json", "--time-limit", seconds) == 2
    assert capsys.readouterr().err == (
        f"autoprec: --time-limit must be a number of seconds above 0, got {seconds}.\n"
        "try: --time-limit 60\n"
    )


def test_peers_are_those_asked_for() -> None:
    found = bench(
        chosen_here(), [SMALL], device=CPU, effort="quick", time_limit_s=60,
        others=["flashinfer-fa3", "sdpa-math"], families=["gauss"],
    )  # fmt: skip
    assert [(row.path, row.status, row.reason) for row in found.rows[1:]] == [
        ("sdpa-math", Status.OK, ""),
        ("flashinfer-fa3", Status.UNSUPPORTED, "flashinfer-python is not installed"),
    ]
    assert [set(row.errors) for row in found.rows[:2]] == [{"gauss"}] * 2
    with pytest.raises(InputError, match="--peers must be among sdpa-efficient, sdpa-flash, "):
        bench(chosen_here(), [SMALL], device=CPU, others=["cudnn"])


def test_prompts_of_unequal_lengths_are_compared_without_pytorch() -> None:
    ragged = replace(SMALL, batch=3, q_len=200, kv_len=200, layout=Layout.RAGGED)
    found = bench(chosen_here(), [ragged], device=CPU, effort="quick", time_limit_s=60)
    plan, *others = found.rows
    assert (plan.status, plan.path) == (Status.OK, "fp32")
    assert plan.errors["gauss"]["rel_l2"] < 1e-5
    reason = "torch-sdpa takes contiguous K and V, not ragged"
    assert all(reason in row.reason for row in others if row.path.startswith("sdpa-"))


def test_the_command_chooses_again_for_another_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "here.json"
    profiles.write(chosen_here(), file)
    words = (str(file), "--device", "cpu", "--effort", "quick", "--peers", "sdpa-math,sdpa-flash")
    assert ended(monkeypatch, *words, "--families", "gauss", "--budget", "1e-12") == 0
    said = capsys.readouterr().out
    assert "\nbudget    rel_l2<=1e-12 on every input family\n" in said
    assert "- the plan: the plan has nothing for it: no path keeps to the budget of " in said
    assert "sdpa-efficient" not in said
    assert ended(monkeypatch, str(file), "--peers", "fa3") == 2
    assert capsys.readouterr().err.endswith("try: --peers sdpa-flash,sdpa-cudnn\n")


def test_help_names_the_time_limit_that_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "--help") == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--time-limit SECONDS When to stop. Default: 300." in text
    assert inspect.signature(bench).parameters["time_limit_s"].default == 300
