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
from autoprec.report.document import Document
from autoprec.report.formats import table
from autoprec.types import Config, Conversion, Layout, Measurement, Profile, Role, Status

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


def rows() -> list[Measurement]:
    shape = made_up.workload(input_dtype="bf16")
    return [
        made_up.measurement("bf16", 1.0, 2e-3, workload=shape),
        made_up.measurement("sdpa-flash", 1.5, 2e-3, workload=shape),
        made_up.measurement("sdpa-cudnn", 0.8, 2e-3, workload=shape),
        made_up.measurement("sdpa-math", 0.5, 2e-2, workload=shape),
        made_up.measurement("sdpa-efficient", None, None, workload=shape,
                            status=Status.UNSUPPORTED, reason="no groups."),
    ]  # fmt: skip


def test_the_table() -> None:
    shape = made_up.workload(input_dtype="bf16")
    said = document(
        made_up.environment(), {"flash-attn": "2.8.3", "xformers": "not installed"},
        Budget.parse("1e-2"), rows(), {shape: "measured at kv8192"}, "h100.json",
    )  # fmt: skip
    assert (
        table.render(said, 100, False)
        == """\
profile   h100.json
device    NVIDIA H100 80GB HBM3 (cuda 9.0), 132 multiprocessors, 79.1 GiB
versions  torch 2.13.0+cu130, triton 3.7.1, driver 580.82, CUDA 13.0, python 3.12.11
peers     flash-attn 2.8.3, xformers not installed
budget    rel_l2<=0.01 on every input family

The plan has 0.80x the speed of the fastest peer within its budget, in the geometric mean over 1
workload.

prefill b1 q4096 kv4096 32/8 d128 causal bf16
  what        kernel          p50 ms  TFLOP/s    rel_l2  plan against it  verdict
  sdpa-math   torch-sdpa       0.500    275    2.00e-02            0.50x  2.00x faster, over budget
  sdpa-cudnn  torch-sdpa       0.800    172    2.00e-03            0.80x  1.25x faster
> bf16        triton-prefill   1.00     137    2.00e-03                -  the plan
  sdpa-flash  torch-sdpa       1.50      91.6  2.00e-03            1.50x  1.50x slower
- the plan: measured at kv8192
- sdpa-efficient unsupported: no groups

- plan against it, ratio: the time of the other over the plan's; above 1x the plan is faster
- error ratio: the plan's rel_l2 over the other's, the largest of all families; below 1x the plan is
  more accurate
- samples of all rows of a workload are taken in turn, each with cold caches
- left out for want of width: p20-p80 ms, error ratio; --format markdown has every column
"""
    )


def test_all_workloads_stand_in_one_table() -> None:
    longer, token = (
        made_up.workload(kv_len=8192, input_dtype="bf16"),
        made_up.workload(phase="decode", kv_len=8192, input_dtype="bf16"),
    )
    others = [
        made_up.measurement("bf16", 2.0, 2e-3, workload=longer),
        made_up.measurement("sdpa-cudnn", 5.0, 1e-3, workload=longer),
        made_up.measurement("bf16", 1.0, 2e-3, workload=token),
        made_up.measurement("sdpa-math", 0.5, 2e-2, workload=token),
    ]
    said = document(
        made_up.environment(), {}, Budget.parse("1e-2"), [*rows(), *others], {}, "h100.json"
    )
    assert said.sentences == (
        "The plan has 1.41x the speed of the fastest peer within its budget, in the geometric mean "
        "over 2 workloads.",
    )
    rendered = table.render(said, 100, False)
    assert (
        rendered[rendered.index("all workloads") : rendered.index("\n- plan against")]
        == """\
all workloads, against the fastest peer within the budget
workload                                       plan ms  peer        peer ms  ratio  error ratio
prefill b1 q4096 kv4096 32/8 d128 causal bf16     1.00  sdpa-cudnn    0.800  0.80x        1.00x
prefill b1 q8192 kv8192 32/8 d128 causal bf16     2.00  sdpa-cudnn    5.00   2.50x        2.00x
decode b1 q1 kv8192 32/8 d128 causal bf16         1.00  -             -          -            -
- prefill: ratio 1.41x in the geometric mean over 2 of 2 workloads, at the lowest 0.80x on prefill
  b1 q4096 kv4096 32/8 d128 causal bf16; error ratio 2.00x at the most
- all: ratio 1.41x in the geometric mean over 2 of 3 workloads, at the lowest 0.80x on prefill b1
  q4096 kv4096 32/8 d128 causal bf16; error ratio 2.00x at the most
"""
    )


def test_an_error_ratio_is_that_of_the_worst_family() -> None:
    shape = made_up.workload(input_dtype="bf16")
    ours, its = (made_up.measurement(path, 1.0, 2e-3, workload=shape) for path in ("bf16", "x"))
    ours = replace(ours, errors={"gauss": made_up.errors(1e-3), "flat": made_up.errors(4e-3)})
    its = replace(
        its,
        role=Role.BASELINE,
        errors={"gauss": made_up.errors(2e-3), "flat": made_up.errors(2e-3)},
    )
    frame = document(made_up.environment(), {}, Budget.parse("1e-2"), [ours, its], {}, "").frame
    assert frame["error_ratio"].tolist()[1] == 2.0
    assert frame["error_ratio"].isna().tolist() == [True, False]


def test_records_have_every_row() -> None:
    frame = document(made_up.environment(), {}, Budget.parse("1e-2"), rows(), {}, "").frame
    assert frame["path"].tolist() == [row.path for row in rows()]
    assert frame["within_budget"].tolist()[:4] == [True, True, True, False]


@pytest.mark.parametrize(
    ("budget", "within"),
    [
        ("1e-3,prefill:1e-2", [True, True, True, False]),  # a phase's clause takes a wider's place
        ("ratio:torch<=1", [True, True, True, False]),  # PyTorch's least error is its reference
        ("row_rel.max<=5e-2", [False, True, True, True]),  # of a bound, and not of an error
    ],
)
def test_rows_are_held_to_what_a_plan_is_held_to(budget: str, within: list[bool]) -> None:
    first, *others = rows()
    bounds = {family: made_up.errors(3e-2) for family in first.errors}
    held = replace(first, n_draws=59, bounds=bounds) if "row_rel" in budget else first
    frame = document(made_up.environment(), {}, Budget.parse(budget), [held, *others], {}, "").frame
    assert frame["within_budget"].tolist()[:4] == within


def test_a_ratio_is_of_the_path_that_was_measured_beside_the_plan() -> None:
    shape = made_up.workload(input_dtype="bf16")
    fp32 = made_up.measurement("fp32", 9.0, 1.7e-3, workload=shape)

    def said(*references: Measurement) -> Document:
        return document(
            made_up.environment(), {}, Budget.parse("ratio:fp32<=2"), rows(), {}, "", references
        )

    whole = said(fp32)
    assert whole.frame["within_budget"].tolist()[:4] == [True, True, True, False]
    assert whole.frame["path"].tolist() == [row.path for row in rows()]
    assert whole.sections[0].notes == (
        "the budget compares with fp32 of triton-prefill: 9.00 ms, rel_l2 1.70e-03",
        "sdpa-efficient unsupported: no groups",
    )
    assert whole.sentences[0].startswith("The plan has 0.80x the speed of the fastest peer within")
    assert [row.cells[-1] for row in whole.sections[0].rows] == [
        "2.00x faster, over budget", "1.25x faster", "the plan", "1.50x slower",
    ]  # fmt: skip


def test_a_ratio_of_what_was_not_measured_is_neither_kept_nor_broken() -> None:
    shape = made_up.workload(input_dtype="bf16")
    late = made_up.measurement("fp32", None, None, workload=shape, status=Status.SKIPPED,
                               reason="the time was up before its turn")  # fmt: skip
    exact = made_up.measurement("fp16x3", 3.0, 4e-7, workload=shape)  # below the floor of ratios
    said = document(
        made_up.environment(), {}, Budget.parse("ratio:fp32<=2,max_abs<=0.1"), [exact, *rows()], {},
        "", [late],
    )  # fmt: skip
    assert said.frame["within_budget"].tolist()[:5] == [True, None, None, None, False]
    assert [row.cells[-1] for row in said.sections[0].rows] == [
        "6.00x faster, over budget",
        "3.75x faster, not comparable",
        "3.00x faster, not comparable",
        "2.00x faster, not comparable",
        "the plan",
    ]
    assert said.sections[0].notes[0] == "sdpa-efficient unsupported: no groups"
    assert said.sections[0].notes[1] == "fp32 skipped: the time was up before its turn"
    assert said.notes[-1] == (
        "not comparable: what the budget compares with was not measured on that workload"
    )
    assert said.sentences == (
        "The plan and a peer within its budget were measured on no workload.",
    )


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
