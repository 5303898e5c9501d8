"""The budget: its grammar, and which error is nearest to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprec.budget import DEFAULT_BUDGET, METRICS, Budget, Clause
from autoprec.errors import InputError
from autoprec.types import ERROR_METRICS

ERRORS = {"gauss": {"rel_l2": 4e-4}, "outlier": {"rel_l2": 7.3e-3}, "tiny": {"rel_l2": 1e-9}}


@pytest.mark.parametrize("text", ["1e-3", "0.001", 1e-3, "rel_l2<=1e-3", " rel_l2 <= 0.001 "])
def test_every_way_to_say_one_budget(text: str | float) -> None:
    assert Budget.parse(text) == Budget((Clause("rel_l2", 1e-3),))


def test_a_budget_is_its_own_parse() -> None:
    budget = Budget.parse("1e-3")
    assert Budget.parse(budget) is budget


def test_the_default_is_a_budget() -> None:
    assert str(Budget.parse(DEFAULT_BUDGET)) == "rel_l2<=0.01"


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_a_budget_written_out_reads_back_exactly(bound: float) -> None:
    assert Budget.parse(str(Budget.parse(bound))).clauses[0].bound == bound


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the budget '' is no number and no clause."),
        ("tight", "the budget 'tight' is no number and no clause."),
        ("nan", "the budget 'nan' is no number and no clause."),
        ("rel_l2<1e-3", "the budget 'rel_l2<1e-3' is no number and no clause."),
        ("<=1e-3", "the budget '<=1e-3' is no number and no clause."),
        ("1e-3,1e-4", "the budget '1e-3,1e-4' is no number and no clause."),
        ("1e-3e", "the budget's bound '1e-3e' is no number."),
        ("cosine<=1e-3", "the budget's metric 'cosine' is not one of rel_l2."),
        ("0", "the budget's bound must be above zero and finite, got 0."),
        ("-1e-3", "the budget's bound must be above zero and finite, got -0.001."),
        ("1e999", "the budget's bound must be above zero and finite, got inf."),
        ("1e-999", "the budget's bound must be above zero and finite, got 0."),
    ],
)
def test_what_is_no_budget_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert caught.value.sentence == sentence
    assert caught.value.hint == "--budget 1e-3, which means rel_l2<=1e-3"


def test_a_budget_built_in_code_is_checked_too() -> None:
    with pytest.raises(InputError, match="the budget has no clause"):
        Budget(())
    with pytest.raises(InputError, match="'lse' is not one of rel_l2"):
        Clause("lse", 1e-3)


def test_the_nearest_reading_is_the_worst_family() -> None:
    reading = Budget.parse("1e-3").nearest(ERRORS)
    assert str(reading) == "rel_l2 7.30e-03 on outlier is over the budget of 0.001"
    assert Budget.parse("1e-3").violation(ERRORS) == reading
    assert reading.margin == 1e-3 / 7.3e-3


def test_within_the_budget_nothing_is_violated() -> None:
    budget = Budget.parse("1e-2")
    assert budget.violation(ERRORS) is None
    assert str(budget.nearest(ERRORS)) == "rel_l2 7.30e-03 on outlier is within the budget of 0.01"
    assert budget.margin(ERRORS) == 1e-2 / 7.3e-3


def test_an_error_at_the_bound_keeps_to_it() -> None:
    assert Budget.parse("1e-3").violation({"gauss": {"rel_l2": 1e-3}}) is None


def test_an_error_that_is_no_number_breaks_every_budget() -> None:
    assert Budget.parse("1e-3").violation({"gauss": {"rel_l2": float("nan")}}) is not None


def test_an_error_of_zero_has_a_finite_margin() -> None:
    assert Budget.parse("1e300").margin({"gauss": {"rel_l2": 0.0}}) == 1e30


def test_every_metric_of_a_budget_is_in_every_measurement() -> None:
    assert set(METRICS) <= set(ERROR_METRICS)
