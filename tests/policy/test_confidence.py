"""Draws, bounds, and which rows are chosen for want of them or in spite of it."""

from typing import Any

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprec.budget import Budget
from autoprec.draws import confidence_of, draws_needed
from autoprec.policy.choose import choose
from autoprec.policy.confidence import shortlist
from autoprec.policy.standard import judged, standard
from autoprec.types import Measurement, Role

DECODE = made_up.workload(phase="decode", kv_len=1024)


@pytest.mark.parametrize(
    ("confidence", "draws"), [(0.0, 0), (0.34, 9), (0.9, 45), (0.95, 59), (0.99, 90)]
)
def test_draws_needed(confidence: float, draws: int) -> None:
    # numerics: n = ln(1 - c) / ln 0.95, rounded up
    assert draws_needed(confidence) == draws


@given(st.integers(0, 2000))
def test_draws_needed_are_those_of_the_confidence_they_give(draws: int) -> None:
    confidence = confidence_of(draws)
    if confidence < 1 - 1e-9:
        assert draws_needed(confidence) == draws


def row(path: str, p50_ms: float, rel_l2: float, draws: int | None, **changes: Any) -> Measurement:
    """A row with as many draws, the largest of them 1.2 times the error of whole outputs."""
    it = made_up.measurement(path, p50_ms, rel_l2, workload=DECODE, **changes)
    if draws is None:
        return it
    bounds = {family: made_up.errors(1.2 * numbers["rel_l2"]) for family, numbers in
              it.errors.items()}  # fmt: skip
    return made_up.measurement(
        path, p50_ms, rel_l2, workload=DECODE, n_draws=draws, bounds=bounds,
        confidence=confidence_of(draws), **changes,
    )  # fmt: skip


def chosen(*rows: Measurement, budget: str = "1e-2", **asked: Any) -> tuple[str, dict[str, str]]:
    choices, refusals = choose(rows, Budget.parse(budget), **asked)
    assert len(choices) + len(refusals) == 1
    return (choices[0].path, choices[0].rejected) if choices else ("", refusals[0].rejected)


def test_a_faster_row_with_too_few_draws_is_not_chosen_and_says_what_to_do() -> None:
    path, why = chosen(row("bf16", 1.0, 3e-3, 16), row("fp16", 2.0, 4e-4, 64))
    assert path == "fp16"
    assert why["bf16"] == (
        "within the budget on 16 of the 59 draws that it needs to be chosen: autoprec tune "
        "--phase decode --batch 1 --q-len 1 --kv-len 1024 --heads 32/8 --head-dim 128 "
        "--mask causal --input-dtype fp32 --out-dtype fp32 --paths bf16"
    )


def test_a_baseline_with_too_few_draws_gets_them_without_paths() -> None:
    path, why = chosen(
        row("sdpa-flash", 1.0, 3e-3, 16), row("fp16", 2.0, 4e-4, 64), allow_baselines=True
    )
    assert path == "fp16"
    assert why["sdpa-flash"] == (
        "within the budget on 16 of the 59 draws that it needs to be chosen: autoprec tune "
        "--phase decode --batch 1 --q-len 1 --kv-len 1024 --heads 32/8 --head-dim 128 "
        "--mask causal --input-dtype fp32 --out-dtype fp32 --allow-baselines"
    )


def test_a_baseline_that_is_not_allowed_wants_no_draws() -> None:
    rows = [("sdpa-flash", 1.0, 3e-3, 16), ("sdpa-math", 2.02, 3e-3, 16), ("fp16", 2.0, 4e-4, 64)]
    _, why = chosen(*(row(*it) for it in rows))
    assert why == {
        "sdpa-flash": "a baseline, taken only with --allow-baselines: 1 ms against 2 ms of fp16",
        "sdpa-math": "1.01x slower than fp16: 2.02 ms against 2 ms",
    }


def test_a_slower_row_with_too_few_draws_is_slower() -> None:
    path, why = chosen(row("bf16", 1.0, 3e-3, 64), row("fp32", 2.0, 4e-7, 16))
    assert (path, why["fp32"]) == ("bf16", "2.00x slower than bf16: 2 ms against 1 ms")


def test_where_none_has_draws_enough_those_with_the_most_compete() -> None:
    rows = [row("bf16", 1.0, 3e-3, 16), row("fp16", 2.0, 4e-4, 48), row("tf32", 3.0, 4e-4, 48)]
    assert chosen(*rows)[0] == "fp16"


def test_a_row_that_had_all_captured_heads_needs_no_more_of_them() -> None:
    rows = [row("bf16", 1.0, 3e-3, 64, captured={"captured": 8}), row("fp16", 2.0, 4e-4, 64)]
    assert chosen(*rows)[0] == "bf16"


def test_less_confidence_takes_fewer_draws() -> None:
    rows = [row("bf16", 1.0, 3e-3, 16), row("fp16", 2.0, 4e-4, 64)]
    assert chosen(*rows, confidence=0.5)[0] == "bf16"


def test_a_profile_without_bounds_is_taken_at_its_word() -> None:
    path, _ = chosen(row("bf16", 1.0, 3e-3, None), row("fp16", 2.0, 4e-4, None))
    assert path == "bf16"


def test_the_bound_and_not_the_error_keeps_to_the_budget() -> None:
    rows = [row("bf16", 1.0, 9e-3, 64), row("fp16", 2.0, 4e-4, 64)]  # 1.2 times 9e-3 is over
    path, why = chosen(*rows)
    assert path == "fp16"
    assert why["bf16"] == "rel_l2 1.08e-02 on gauss is over the budget of 0.01"


def test_what_is_judged_is_the_largest_of_all() -> None:
    it = row("bf16", 1.0, 1e-3, 64)
    it.bounds["gauss"]["max_abs"] = 0.0
    assert judged(it)["gauss"]["rel_l2"] == 1.2e-3
    assert judged(it)["gauss"]["max_abs"] == it.errors["gauss"]["max_abs"]


def test_a_ratio_compares_with_the_most_accurate_fp32_row() -> None:
    rows = [
        row("fp32", 9.0, 2e-6, 64, kernel="one"),
        row("fp32", 9.0, 1e-6, 64, kernel="two"),
        row("fp16x3", 2.0, 1.9e-6, 64),
        row("bf16x3", 1.0, 2.1e-6, 64),
    ]
    path, why = chosen(*rows, budget="fp32")
    assert path == "fp16x3"
    assert why["bf16x3"] == (
        "rel_l2 2.52e-06 on gauss is 2.1 times the fp32 path's 1.20e-06, over the budget of 2"
    )


def test_each_phase_has_its_budget() -> None:
    rows = [row("bf16", 1.0, 3e-3, 64), row("fp16", 2.0, 4e-4, 64)]
    assert chosen(*rows, budget="prefill:1e-2,decode:1e-3")[0] == "fp16"
    assert chosen(*rows, budget="prefill:1e-3,decode:1e-2")[0] == "bf16"


def test_a_layer_has_its_budget() -> None:
    rows = [row("bf16", 1.0, 3e-3, 64), row("fp16", 2.0, 4e-4, 64)]
    budget = "1e-2,layer0-1:1e-3"
    assert chosen(*rows, budget=budget)[0] == "bf16"
    assert chosen(*rows, budget=budget, layer=1)[0] == "fp16"
    assert chosen(*rows, budget=budget, layer=2)[0] == "bf16"


TABLE = [
    ("bf16", 1.0, 3e-3),
    ("fp16", 1.5, 4e-4),
    ("tf32", 2.0, 4e-4),
    ("bf16x3", 3.0, 6e-6),
    ("fp16x3", 3.5, 4e-7),
    ("tf32x3", 5.0, 5e-7),
    ("fp32", 9.0, 5e-7),
]


def test_what_is_fastest_at_each_decade_gets_all_draws() -> None:
    rows = [row(*entry, 16) for entry in TABLE]
    listed = shortlist(rows, Budget.parse("1e-2"), allow_baselines=False)
    assert [it.path for it in listed] == ["bf16", "fp16", "bf16x3", "fp16x3"]


def test_a_path_that_breaks_a_decade_is_replaced_by_the_next() -> None:
    rows = [row(*entry, 16) for entry in TABLE]
    rows[1] = row("fp16", 1.5, 2e-3, 16)
    listed = shortlist(rows, Budget.parse("1e-2"), allow_baselines=False)
    assert [it.path for it in listed] == ["bf16", "tf32", "bf16x3", "fp16x3"]


def test_the_budget_itself_and_what_it_compares_with_are_listed() -> None:
    rows = [row(*entry, 16) for entry in TABLE]
    listed = shortlist(rows, Budget.parse("fp32"), allow_baselines=False)
    assert [it.path for it in listed] == ["bf16", "fp16", "bf16x3", "fp16x3", "fp32"]
    listed = shortlist(rows, Budget.parse("1e-2,layer3:5e-7"), allow_baselines=False)
    assert [it.path for it in listed] == ["bf16", "fp16", "bf16x3", "fp16x3"]


def test_what_a_ratio_compares_with_gets_all_draws_and_other_libraries_do_not() -> None:
    rows = [row(*entry, 16) for entry in TABLE]
    rows += [row("sdpa-math", 9.0, 5e-7, 16), row("flashinfer", 9.0, 5e-7, 16, role=Role.BASELINE)]
    listed = shortlist(rows, Budget.parse("ratio:torch<=4"), allow_baselines=False)
    assert [it.path for it in listed] == ["bf16", "fp16", "bf16x3", "fp16x3", "sdpa-math"]


def test_references() -> None:
    rows = [
        row("fp32", 9.0, 1e-6, 64),
        row("sdpa-math", 9.0, 2e-6, 64),
        row("flashinfer", 9.0, 1e-6, 64, role=Role.BASELINE),  # another library's is not PyTorch's
    ]
    held_to = standard(rows, Budget.parse("fa-parity"))
    assert held_to.references["fp32"]["gauss"]["rel_l2"] == 1.2e-6
    assert held_to.references["torch"]["gauss"]["rel_l2"] == 2.4e-6
