"""Tables and pictures show what the budget is held to, and mark what is of less than others."""

from typing import Any

import made_up
import pytest
from made_up import measurement, profile, workload

from autoprec.budget import Budget
from autoprec.report import bench, summary
from autoprec.report.figures.figure import figures
from autoprec.report.figures.heat import Heat
from autoprec.report.figures.pareto import Pareto
from autoprec.report.formats import table
from autoprec.report.frames import frame
from autoprec.report.outcomes import Verdict, outcomes
from autoprec.report.report import document, render
from autoprec.types import Measurement, Profile, Role, Status

SHORT, LONG = (workload(phase="decode", batch=16, kv_len=kv_len) for kv_len in (1024, 8192))


def row(path: str, ms: float, error: float, bound: float, **changes: Any) -> Measurement:
    """Whole outputs have ``error`` on gauss and half of it on outlier; draws have ``bound``."""
    bounds = {"gauss": made_up.errors(bound / 4), "outlier": made_up.errors(bound)}
    drawn = {"n_draws": 64, "confidence": 0.96, "bounds": bounds}
    return measurement(path, ms, error, **{"workload": LONG} | drawn | changes)


def on_gauss(path: str, ms: float, error: float, **changes: Any) -> Measurement:
    """Measured when the time was nearly up: on one family, without draws."""
    gauss = {"gauss": made_up.errors(error)}
    less = {"errors": gauss, "bounds": {}, "n_draws": 0, "confidence": 0.0}
    return measurement(path, ms, error, **less | changes)


def made(**changes: Any) -> Profile:
    rows = [
        row("tf32", 0.363, 3.76e-3, 6.95e-3),
        row("fp32", 1.45, 6.0e-7, 9.0e-7),
        on_gauss("bf16", 0.5, 3.0e-3, workload=LONG),
        row("sdpa-efficient", 3.0, 6.0e-7, 9.0e-7),
        on_gauss("bf16", 0.1, 3.0e-3, workload=SHORT),
    ]
    return profile(rows, **changes)


SUMMARY = """\
decode q1 32/8 d128 causal
workload         path  p50 ms  GB/s  ceiling     rel_l2  speedup  verdict
b16 kv1024 fp32  bf16   0.100  1340      44%  *3.00e-03        -  within budget on gauss
b16 kv8192 fp32  tf32   0.363  2960      98%   6.95e-03    8.26x  within budget

- ceiling: part of what the machine was measured to do; decode of its copy bandwidth, prefill and
  append of its matrix-product rate in the path's type
- speedup: over the fastest baseline within the budget, on the same workload and types
- rel_l2: what is held to the budget, the largest of whole outputs and of all draws over the input
  families
- *: measured on fewer input families than others, or no inputs were drawn for it as they were for
  others: its error may be larger
- left out for want of width: kernel, whole outputs, worst on, over; --format markdown has every
  column
"""


def test_tables_show_what_is_held_to_the_budget() -> None:
    text = table.render(summary.document(made()), 100, False)
    assert (
        "\nOn 1 workload the error of the choice is of fewer inputs than others': * beside it.\n"
    ) in text
    assert text[text.index("decode q1") :] == SUMMARY
    every = table.render(document(made()), 100, False)
    assert " *3.00e-03" in every
    assert "3.76e-03" not in every


def test_a_budget_between_the_error_and_the_bound_is_over_what_is_shown() -> None:
    (_, outcome) = outcomes(made(budget="5e-3"))
    judged = {it.measurement.path: it for it in outcome.rows}
    assert judged["tf32"].verdict is Verdict.OVER_BUDGET
    assert judged["tf32"].held.largest == 6.95e-3
    assert judged["tf32"].held.family == "outlier"
    assert judged["tf32"].reason == "rel_l2 6.95e-03 on outlier is over the budget of 0.005"


def test_markdown_and_programs_have_both_numbers() -> None:
    text = render([("", made())], "markdown")
    assert "| rel_l2 | whole outputs | worst on |" in text
    assert "| 6.95e-03 | 3.76e-03 | outlier |" in text
    assert r"| \*3.00e-03 | 3.00e-03 | gauss |" in text
    rows = frame(made()).query("kv_len == 8192").set_index("path")
    columns = ["rel_l2", "worst_family", "rel_l2_bound", "rel_l2_held", "held_family", "families"]
    assert rows.loc["tf32", columns].tolist() == [
        3.76e-3, "gauss", 6.95e-3, 6.95e-3, "outlier", "gauss outlier",
    ]  # fmt: skip
    assert rows.loc["bf16", "families"] == "gauss"
    assert rows.loc["bf16", "rel_l2_held"] == 3.0e-3


def test_pictures_show_the_same() -> None:
    pareto, _, heat = figures(made(), outcomes(made()))
    assert isinstance(pareto, Pareto)
    assert isinstance(heat, Heat)
    marks = {mark.label: mark for mark in pareto.marks}
    assert list(marks) == ["bf16*, chosen 1/2", "tf32, chosen 1/2", "fp32", "sdpa-efficient"]
    assert marks["tf32, chosen 1/2"].error.mean == pytest.approx(6.95e-3)
    assert pareto.partial
    assert dict(zip(heat.rows, heat.cells, strict=True))["tf32"] == (3.76e-3, 6.95e-3)


def test_a_profile_without_bounds_has_its_errors_and_no_mark() -> None:
    text = table.render(summary.document(profile()), 100, False)
    assert "what is held to the budget, the largest of whole outputs over the input" in text
    assert "*" not in text


@pytest.mark.parametrize(
    ("budget", "title", "shown"),
    [
        ("row_rel.p999<=1e-1", "row_rel.p999", "1.04e-02"),
        ("bits>=6", "rel_l2", "6.95e-03"),
        ("row_rel.max<=1e-1,1e-2", "rel_l2", "6.95e-03"),
    ],
)
def test_the_metric_is_the_budgets(budget: str, title: str, shown: str) -> None:
    tf32 = row("tf32", 0.363, 3.76e-3, 6.95e-3)
    text = table.render(summary.document(profile([tf32], budget=budget)), 100, False)
    assert f" {title}  " in text
    assert f" {shown} " in text
    assert f"\n- {title}: what is held to the budget, the" in text
    assert ("row_rel.max is held to it too" in " ".join(text.split())) == ("max" in budget)


def test_rows_without_the_metric_have_no_number_and_no_mark_in_a_picture() -> None:
    errors = {"gauss": {name: value for name, value in made_up.errors(1e-4).items()
                        if name != "lse_abs"}}  # fmt: skip
    rows = [measurement("fp16"), measurement("sdpa-flash", errors=errors)]
    found = profile(rows, budget="lse_abs<=1e-2")
    pareto = figures(found, outcomes(found))[0]
    assert isinstance(pareto, Pareto)
    assert (pareto.metric, [mark.label for mark in pareto.marks]) == ("lse_abs", ["fp16, chosen"])
    alone = profile(rows[1:], budget="lse_abs<=1e-2")
    assert [type(it).__name__ for it in figures(alone, outcomes(alone))] == ["Speed"]


def test_what_was_captured_for_one_workload_is_not_missing_on_others() -> None:
    captured = {"captured/3": made_up.errors(1e-4)}
    rows = [
        measurement("fp16", workload=SHORT, errors=captured, captured={"captured/3": 64}),
        row("fp16", 1.0, 1e-4, 2e-4),
    ]
    assert not any(it.held.partial for of in outcomes(profile(rows)) for it in of.rows)


def test_several_families_but_not_all() -> None:
    three = {name: made_up.errors(1e-4) for name in ("gauss", "outlier", "sink")}
    rows = [row("fp16", 1.0, 1e-4, 2e-4), row("bf16", 2.0, 1e-4, 2e-4, errors=three)]
    text = table.render(summary.document(profile(rows)), 100, False)
    assert "*2.00e-04        -  within budget on 2 of 3 families\n" in text
    assert "- *: measured on fewer input families than others, so that its error may" in text
    less = {"n_draws": 0, "confidence": 0.0, "bounds": {}}
    rows = [row("fp16", 1.0, 1e-4, 2e-4), row("bf16", 2.0, 1e-4, 2e-4, **less)]
    text = table.render(document(profile(rows)), 100, False)
    assert "- *: no inputs were drawn for its error, as they were for others" in text


def test_what_was_not_measured_has_no_number() -> None:
    skipped = {"status": Status.SKIPPED, "reason": "no time", "role": Role.CANDIDATE}
    (outcome,) = outcomes(profile([measurement("fp16", None, None, **skipped)]))
    assert str(outcome.rows[0].held) == "-"


def test_bench_shows_the_error_that_its_verdict_is_of() -> None:
    rows = [row("tf32", 0.363, 3.76e-3, 6.95e-3)]
    found = bench.document(made_up.environment(), {}, Budget.parse("5e-3"), rows, {}, "x")
    (line,) = (it for it in table.render(found, 100, False).splitlines() if "over budget" in it)
    assert line.split()[-5:] == ["-", "the", "plan,", "over", "budget"]
    assert "6.95e-03" in line
