"""What bench measured, as a document."""

from dataclasses import replace

import made_up
import pytest

from autoprec.budget import Budget
from autoprec.report.bench import document
from autoprec.report.document import Document
from autoprec.report.formats import table
from autoprec.types import Measurement, Role, Status


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
