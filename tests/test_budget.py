"""The budget: its grammar, and which error is nearest to it."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprec.budget import DEFAULT_BUDGET, KEYS, RATIO_FLOOR, Budget, Clause
from autoprec.errors import InputError
from autoprec.grammar import EVERYWHERE, PRESETS, Scope
from autoprec.types import ERROR_METRICS, Phase

ERRORS = {"gauss": {"rel_l2": 4e-4}, "outlier": {"rel_l2": 7.3e-3}, "tiny": {"rel_l2": 1e-9}}


@pytest.mark.parametrize("text", ["1e-3", "0.001", 1e-3, "rel_l2<=1e-3", " rel_l2 <= 0.001 "])
def test_every_way_to_say_one_budget(text: str | float) -> None:
    assert Budget.parse(text) == Budget((Clause("rel_l2", 1e-3),))


@pytest.mark.parametrize("metric", KEYS)
def test_every_metric_can_be_said(metric: str) -> None:
    sign = ">=" if metric == "bits" else "<="
    assert Budget.parse(f"{metric}{sign}2") == Budget((Clause(metric, 2.0),))


def test_a_budget_is_its_own_parse() -> None:
    budget = Budget.parse("1e-3")
    assert Budget.parse(budget) is budget


def test_the_default_is_a_budget() -> None:
    assert str(Budget.parse(DEFAULT_BUDGET)) == "rel_l2<=0.01"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_stands_for_its_clauses(name: str) -> None:
    meant, purpose = PRESETS[name]
    assert Budget.parse(name) == Budget.parse(meant)
    assert purpose
    everywhere = Budget.parse(meant).clauses
    scoped = Budget.parse(f"decode:{name}").clauses
    assert scoped == tuple(Clause(c.metric, c.bound, Scope(Phase.DECODE)) for c in everywhere)


def test_beside_a_preset_the_tighter_bound_is_kept() -> None:
    for text in ("strict,1e-5", "1e-5,strict", "balanced,1e-5,strict"):
        assert set(Budget.parse(text).clauses) == set(
            Budget.parse("1e-5,row_rel.p999<=1e-3,lse_abs<=1e-3").clauses
        )
    assert str(Budget.parse("1e-2,decode:strict")).startswith("rel_l2<=0.01,decode:rel_l2<=0.0001")


SCOPES = st.builds(
    Scope,
    st.none() | st.sampled_from(Phase),
    st.none() | st.tuples(st.integers(0, 90), st.integers(0, 90)).map(lambda p: tuple(sorted(p))),
)
BOUNDS = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
CLAUSES = st.builds(Clause, st.sampled_from([m for m in KEYS if m != "bits"]), BOUNDS, SCOPES)


@given(st.lists(CLAUSES, min_size=1, max_size=4, unique_by=lambda c: (c.metric, c.scope)))
def test_a_budget_written_out_reads_back_exactly(clauses: list[Clause]) -> None:
    budget = Budget(tuple(clauses))
    assert Budget.parse(str(budget)) == budget


@given(st.text(alphabet="1e-3,:<>=. rel_2bitsdecodelayr-fp0", max_size=20))
def test_any_text_is_a_budget_or_an_input_error(text: str) -> None:
    budget = None
    with contextlib.suppress(InputError):
        budget = Budget.parse(text)
    assert budget is None or Budget.parse(str(budget)) == budget


_METRICS = (
    "is no metric (rel_l2, bits, row_rel.p999, row_rel.max, max_abs, lse_abs, ratio:fp32, "
    "ratio:torch) and no preset (fp32, strict, balanced, fa-parity, rl)."
)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("", "at its end", "a number, a metric or a preset was expected."),
        ("tight", "at character 1, 't'", f"'tight' {_METRICS}"),
        ("nan", "at character 1, 'n'", f"'nan' {_METRICS}"),
        ("rel_l2<1e-3", "at character 7, '<'", "<= was expected after rel_l2."),
        ("rel_l2<=", "at its end", "a number was expected."),
        ("bits<=17", "at character 5, '<'", ">= was expected after bits."),
        ("<=1e-3", "at character 1, '<'", "a number, a metric or a preset was expected."),
        ("1e-3 1e-4", "at character 6, '1'", "a comma or the end was expected."),
        ("1e-3,", "at its end", "a number, a metric or a preset was expected."),
        ("1e-3e", "at character 5, 'e'", "a comma or the end was expected."),
        ("1e-3,cosine<=1e-3", "at character 6, 'c'", f"'cosine' {_METRICS}"),
        ("ratio:bf16<=2", "at character 1, 'r'", f"'ratio:bf16' {_METRICS}"),
        ("0", "at character 1, '0'", "a bound must be above zero and finite, got 0."),
        ("-1e-3", "at character 1, '-'", "a bound must be above zero and finite, got -0.001."),
        ("1e999", "at character 1, '1'", "a bound must be above zero and finite, got inf."),
        ("1e-999", "at character 1, '1'", "a bound must be above zero and finite, got 0."),
        (
            "training:1e-3",
            "at character 1, 't'",
            "'training' is no phase (prefill, append, decode) and no layer (layer3, layer0-7).",
        ),
        ("decode:prefill:1", "at character 8, 'p'", "prefill joins another phase."),
        ("layer1:layer2:1", "at character 8, 'l'", "layer2 joins another layer."),
        ("1e-3,1e-4", "at character 6, '1'", "rel_l2 has a bound already."),
        (
            "decode:1, bits>=9, decode:rel_l2<=2",
            "at character 20, 'd'",
            "rel_l2 has a bound already.",
        ),
        ("strict,1e-5,1e-6", "at character 13, '1'", "rel_l2 has a bound already."),
        ("1,layer3-2:1", "at character 3, 'l'", "layer3-2 ends before it begins."),
    ],
)
def test_what_is_no_budget_is_refused_at_its_character(text: str, place: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert caught.value.sentence == f"the budget {text!r} cannot be read {place}: {what}"
    assert caught.value.hint == (
        "a budget such as 1e-3, which means rel_l2<=1e-3; or fp32, strict, balanced, fa-parity, rl"
    )


def test_a_budget_built_in_code_is_checked_too() -> None:
    with pytest.raises(InputError, match="the budget has no clause"):
        Budget(())
    with pytest.raises(InputError, match="the budget bounds rel_l2 twice"):
        Budget((Clause("rel_l2", 1e-3), Clause("rel_l2", 1e-3)))
    with pytest.raises(InputError, match="'lse' is not one of rel_l2"):
        Clause("lse", 1e-3)
    with pytest.raises(InputError, match="must be above zero and finite, got inf"):
        Clause("rel_l2", math.inf)
    with pytest.raises(InputError, match="no error has 2000 bits"):
        Clause("bits", 2000)


def test_the_narrowest_scope_holds() -> None:
    budget = Budget.parse("1e-3,decode:1e-2,layer0-1:1e-5,decode:layer1:1e-6,lse_abs<=1")

    def of(phase: Phase, layer: int | None) -> str:
        return str(budget.of(phase, layer))

    assert of(Phase.PREFILL, None) == "rel_l2<=0.001,lse_abs<=1"
    assert of(Phase.DECODE, None) == "decode:rel_l2<=0.01,lse_abs<=1"
    assert of(Phase.DECODE, 0) == "layer0-1:rel_l2<=1e-05,lse_abs<=1"
    assert of(Phase.DECODE, 1) == "decode:layer1:rel_l2<=1e-06,lse_abs<=1"
    assert of(Phase.PREFILL, 7) == "rel_l2<=0.001,lse_abs<=1"


def test_where_no_clause_holds_the_default_does() -> None:
    budget = Budget.parse("prefill:1e-5")
    assert str(budget.of(Phase.DECODE)) == "rel_l2<=0.01"
    assert str(budget.of(Phase.PREFILL)) == "prefill:rel_l2<=1e-05"


def test_the_nearest_reading_is_the_worst_family() -> None:
    reading = Budget.parse("1e-3").nearest(ERRORS)
    assert str(reading) == "rel_l2 7.30e-03 on outlier is over the budget of 0.001"
    assert not reading.within
    assert reading.margin == 1e-3 / 7.3e-3


def test_within_the_budget_the_nearest_reading_says_so() -> None:
    reading = Budget.parse("1e-2").nearest(ERRORS)
    assert str(reading) == "rel_l2 7.30e-03 on outlier is within the budget of 0.01"
    assert reading.within
    assert reading.margin == 1e-2 / 7.3e-3


def test_all_clauses_must_hold() -> None:
    errors = {"gauss": {"rel_l2": 1e-4, "row_rel_max": 1e-2, "row_rel_p999": 1e-3}}
    assert Budget.parse("1e-3,row_rel.max<=2e-2").nearest(errors).within
    reading = Budget.parse("1e-3,row_rel.max<=5e-3,row_rel.p999<=1e-2").nearest(errors)
    assert str(reading) == "row_rel.max 1.00e-02 on gauss is over the budget of 0.005"


def test_bits_are_the_logarithm_of_rel_l2() -> None:
    errors = {"gauss": {"rel_l2": 2.0**-17}}
    assert Budget.parse("bits>=17").nearest(errors).within
    assert str(Budget.parse("bits>=17.5").nearest(errors)) == (
        "bits 17.0 on gauss is below the budget of 17.5"
    )


def test_a_ratio_is_over_the_reference_on_the_same_family() -> None:
    budget = Budget.parse("ratio:fp32<=2")
    errors = {"gauss": {"rel_l2": 1e-5}, "kbias": {"rel_l2": 5e-5}}
    fp32 = {"gauss": {"rel_l2": 6e-6}, "kbias": {"rel_l2": 2e-5}}
    assert str(budget.nearest(errors, {"fp32": fp32})) == (
        "rel_l2 5.00e-05 on kbias is 2.5 times the fp32 path's 2.00e-05, over the budget of 2"
    )
    assert budget.nearest({"gauss": errors["gauss"]}, {"fp32": fp32}).within


def test_a_ratio_has_a_floor() -> None:
    budget = Budget.parse("ratio:torch<=2")
    tiny = {"torch": {"gauss": {"rel_l2": 1e-9}}}
    assert budget.nearest({"gauss": {"rel_l2": RATIO_FLOOR}}, tiny).within
    assert not budget.nearest({"gauss": {"rel_l2": 1.01 * RATIO_FLOOR}}, tiny).within
    assert str(budget.nearest({"gauss": {"rel_l2": 1e-3}})) == (
        "rel_l2 1.00e-03 on gauss is over 9.5e-07, and PyTorch's own was not measured"
    )


def test_what_gives_no_lse_cannot_keep_to_a_budget_on_it() -> None:
    assert not Budget.parse("lse_abs<=1e9").nearest(ERRORS).within


def test_an_error_at_the_bound_keeps_to_it() -> None:
    assert Budget.parse("1e-3").nearest({"gauss": {"rel_l2": 1e-3}}).within


def test_an_error_that_is_no_number_breaks_every_budget() -> None:
    assert not Budget.parse("1e-3").nearest({"gauss": {"rel_l2": float("nan")}}).within


def test_an_error_of_zero_has_a_finite_margin() -> None:
    assert Budget.parse("1e300").nearest({"gauss": {"rel_l2": 0.0}}).margin == 1e30


def test_every_metric_of_a_budget_is_in_every_measurement() -> None:
    assert set(KEYS.values()) <= {*ERROR_METRICS, "lse_abs"}
    assert str(EVERYWHERE) == ""
