"""The choice: what is taken, what each other path is told, and what holds for any measurements."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made_up import errors, measurement, profile, rows, workload

from autoprec.budget import Budget
from autoprec.policy.apriori import hopeless
from autoprec.policy.choose import choose, choose_again
from autoprec.types import Choice, Conversion, Measurement, Refusal, Role, Status

TABLE = [
    measurement("fp32", 16.0, 5e-7),
    measurement("tf32", 1.2, 4e-4),
    measurement("fp16", 0.40, 4e-4),
    measurement("bf16", 0.30, 3e-3),
    measurement("sdpa-efficient", 3.2, 6e-7),
]


def chosen(table: list[Measurement], budget: str, **options: Any) -> Choice:
    """The only choice, where there is one workload."""
    choices, refusals = choose(table, Budget.parse(budget), **options)
    assert len(choices) == 1
    assert not refusals
    return choices[0]


def refused(table: list[Measurement], budget: str, **options: Any) -> Refusal:
    choices, refusals = choose(table, Budget.parse(budget), **options)
    assert not choices
    assert len(refusals) == 1
    return refusals[0]


@pytest.mark.parametrize(
    ("budget", "path"), [("5e-2", "bf16"), ("1e-3", "fp16"), ("2e-5", "fp32"), ("5e-7", "fp32")]
)
def test_the_fastest_within_the_budget(budget: str, path: str) -> None:
    assert chosen(TABLE, budget).path == path


def test_a_choice_is_its_row() -> None:
    row = TABLE[3]
    choice = chosen(TABLE, "5e-2")
    assert (choice.workload, choice.kernel, choice.config, choice.storage) == (
        row.workload, row.kernel, row.config, row.storage,
    )  # fmt: skip
    assert choice.margin == 5e-2 / 3e-3


def test_every_other_path_is_told_why() -> None:
    assert chosen(TABLE, "1e-3").rejected == {
        "bf16": "rel_l2 3.00e-03 on gauss is over the budget of 0.001",
        "tf32": "3.00x slower than fp16: 1.2 ms against 0.4 ms",
        "sdpa-efficient": "8.00x slower than fp16: 3.2 ms against 0.4 ms",
        "fp32": "40.00x slower than fp16: 16 ms against 0.4 ms",
    }


def test_a_budget_nothing_keeps_to_names_every_path_and_its_error() -> None:
    assert refused(TABLE, "1e-12").rejected == {
        "bf16": "rel_l2 3.00e-03 on gauss is over the budget of 1e-12",
        "fp16": "rel_l2 4.00e-04 on gauss is over the budget of 1e-12",
        "tf32": "rel_l2 4.00e-04 on gauss is over the budget of 1e-12",
        "sdpa-efficient": "rel_l2 6.00e-07 on gauss is over the budget of 1e-12",
        "fp32": "rel_l2 5.00e-07 on gauss is over the budget of 1e-12",
    }


def test_where_times_do_not_differ_the_more_accurate_is_taken() -> None:
    choice = chosen([measurement("bf16", 0.40, 3e-3), measurement("fp16", 0.41, 4e-4)], "1e-2")
    assert choice.path == "fp16"
    assert choice.rejected == {
        "bf16": "no clear difference in time from fp16 (0.392 to 0.412 ms against "
        "0.4018 to 0.4223 ms), which is more accurate: rel_l2 3.00e-03 against 4.00e-04"
    }


def test_a_wide_range_does_not_carry_a_slow_row_past_a_fast_one() -> None:
    """bf16's range meets fp32's, but tf32 is clearly faster than fp32."""
    table = [
        measurement("bf16", 1.0, 3e-3, p20_ms=0.5, p80_ms=9.0),
        measurement("tf32", 2.0, 4e-4),
        measurement("fp32", 8.0, 5e-7),
    ]
    choice = chosen(table, "1e-2")
    assert choice.path == "tf32"
    assert choice.rejected["fp32"] == "4.00x slower than tf32: 8 ms against 2 ms"


def test_a_row_slower_than_the_fastest_is_told_so_even_where_the_choice_has_a_later_median() -> (
    None
):
    table = [
        measurement("fp32", 10.0, 5e-7, p20_ms=1.0, p80_ms=20.0),
        measurement("bf16", 2.0, 3e-3),
        measurement("tf32", 3.0, 4e-4),
    ]
    choice = chosen(table, "1e-2")
    assert choice.path == "fp32"
    assert choice.rejected["tf32"] == "1.50x slower than bf16: 3 ms against 2 ms"


@pytest.mark.parametrize(
    ("p50_ms", "because"), [(1.01, "has the lower median"), (1.0, "comes first by name")]
)
def test_ties_in_time_and_error_are_broken_the_same_way_every_time(
    p50_ms: float, because: str
) -> None:
    choice = chosen([measurement("tf32", p50_ms, 4e-4), measurement("fp16", 1.0, 4e-4)], "1e-2")
    assert choice.path == "fp16"
    assert choice.rejected["tf32"].startswith("no clear difference from fp16 in time (")
    assert choice.rejected["tf32"].endswith(f" or error: fp16 {because}")


def test_rows_alike_in_everything_are_listed_by_name() -> None:
    for names in (["tf32", "fp32", "fp16", "bf16"], ["bf16", "fp16", "tf32", "fp32"]):
        choice = chosen([measurement(path, 1.0, 4e-4) for path in names], "1e-2")
        assert [choice.path, *choice.rejected] == ["bf16", "fp16", "fp32", "tf32"]


def test_kernels_of_one_path_compete_and_the_best_speaks_for_it() -> None:
    table = [
        measurement("fp16", 0.5, 4e-4, kernel="a"),
        measurement("fp16", 0.4, 4e-4, kernel="b"),
        measurement("fp16", kernel="c", status=Status.FAILED, reason="it broke."),
        measurement("bf16", 0.9, 3e-3, kernel="a"),
        measurement("bf16", 0.8, 3e-3, kernel="b"),
        measurement("tf32", 0.1, 5e-2, kernel="a"),
        measurement("tf32", 0.2, 4e-2, kernel="b"),
        measurement("tf32", kernel="c", status=Status.FAILED, reason="it broke."),
    ]
    choice = chosen(table, "1e-2")
    assert (choice.path, choice.kernel) == ("fp16", "b")
    assert choice.rejected == {
        "tf32": "rel_l2 4.00e-02 on gauss is over the budget of 0.01",
        "bf16": "2.00x slower than fp16: 0.8 ms against 0.4 ms",
    }


def test_what_was_not_measured_says_why() -> None:
    table = [
        measurement("fp32", 16.0, 5e-7),
        measurement("tf32", status=Status.UNSUPPORTED, reason="b takes no fp32.", kernel="b"),
        measurement("tf32", status=Status.FAILED, reason="a ran out of registers.", kernel="a"),
        measurement("bf16", status=Status.SKIPPED, reason="the time limit of 50 s was reached"),
    ]
    assert chosen(table, "1e-2").rejected == {
        "bf16": "skipped: the time limit of 50 s was reached",
        "tf32": "failed: a ran out of registers; unsupported: b takes no fp32",
    }


def test_a_baseline_is_taken_only_where_that_is_allowed() -> None:
    table = [*TABLE, measurement("sdpa-cudnn", 0.2, 3e-3)]
    assert chosen(table, "5e-2", allow_baselines=True).path == "sdpa-cudnn"
    choice = chosen(table, "5e-2")
    assert choice.path == "bf16"
    assert choice.rejected["sdpa-cudnn"] == (
        "a baseline, taken only with --allow-baselines: 0.2 ms against 0.3 ms of bf16"
    )
    assert choice.rejected["sdpa-efficient"] == "10.67x slower than bf16: 3.2 ms against 0.3 ms"


def test_a_baseline_that_alone_keeps_to_the_budget_says_how_to_take_it() -> None:
    table = [measurement("bf16", 0.3, 3e-3), measurement("sdpa-math", 13.2, 5e-7)]
    assert refused(table, "1e-5").rejected["sdpa-math"] == (
        "a baseline, taken only with --allow-baselines: 13.2 ms"
    )
    assert chosen(table, "1e-5", allow_baselines=True).path == "sdpa-math"


PREPARED = {"conversion": Conversion.AMORTISED}


def test_k_and_v_prepared_beforehand_are_never_chosen_and_have_no_sentence() -> None:
    """The conversion must be in the time of what is chosen; that row speaks for the path."""
    prepared = [
        measurement("fp16", 0.1, 4e-4, **PREPARED),
        measurement("bf16", 0.1, 3e-3, **PREPARED),
        measurement("tf32", status=Status.FAILED, reason="out of memory", **PREPARED),
    ]
    for budget in ("5e-2", "1e-3", "1e-6"):
        table = [*prepared, *TABLE]
        assert chosen(table, budget) == chosen(TABLE, budget)
        allowed = {"allow_baselines": True}
        assert chosen(table, budget, **allowed) == chosen(TABLE, budget, **allowed)
    assert refused([*prepared, *TABLE], "1e-12") == refused(TABLE, "1e-12")


def test_a_workload_of_prepared_rows_alone_is_not_decided() -> None:
    late = {"status": Status.SKIPPED, "reason": "no time"}
    table = [measurement("fp16", 0.1, 4e-4, **PREPARED), measurement("fp16", **late)]
    assert choose(table, Budget.parse("1e-2")) == ([], [])


def test_a_baseline_whose_heads_were_repeated_beforehand_may_be_chosen() -> None:
    table = [*TABLE, measurement("sdpa-cudnn", 0.2, 3e-3, **PREPARED)]
    assert chosen(table, "5e-2", allow_baselines=True).path == "sdpa-cudnn"


def test_workloads_are_decided_each_for_itself_in_their_order() -> None:
    choices, refusals = choose(rows(), Budget.parse("1e-3"))
    assert [(str(c.workload), c.path) for c in choices] == [
        ("prefill b1 q4096 kv4096 32/8 d128 causal fp32", "fp16"),
        ("decode b16 q1 kv8192 32/8 d128 causal fp32", "fp16"),
    ]
    assert [str(r.workload) for r in refusals] == [
        "prefill b1 q4096 kv4096 32/8 d128 causal bf16",
        "decode b16 q1 kv8192 32/8 d128 causal bf16",
    ]


def test_what_there_was_no_time_to_measure_is_neither_chosen_nor_refused() -> None:
    late = {"status": Status.SKIPPED, "reason": "the time limit of 50 s was reached"}
    table = [
        measurement("bf16", **late),
        measurement("fp32", status=Status.UNSUPPORTED, reason="no kernel runs it"),
        measurement("sdpa-math", 13.2, 5e-7),
    ]
    assert choose(table, Budget.parse("1e-2")) == ([], [])
    assert chosen(table, "1e-2", allow_baselines=True).path == "sdpa-math"
    refused(table[1:], "1e-2")
    refused([*table, measurement("tf32", 1.0, 1e-1)], "1e-2")


def test_a_refusal_says_whether_anything_ran_that_might_have_been_taken() -> None:
    baseline = measurement("sdpa-math", 13.2, 5e-1)
    broken = measurement("fp32", status=Status.FAILED, reason="it broke")
    assert refused([measurement("bf16", 1.0, 3e-1), broken], "1e-2").ran
    assert refused([baseline, broken], "1e-2", allow_baselines=True).ran
    assert not refused([baseline, broken], "1e-2").ran
    reason = hopeless("bf16", workload(), Budget.parse("1e-4"))
    left_out = measurement("bf16", status=Status.UNSUPPORTED, reason=reason)
    assert refused([baseline, broken, left_out], "1e-4").ran


def test_chosen_again_for_another_budget_as_the_profile_says() -> None:
    saved = profile(TABLE)
    assert choose_again(saved) == saved
    again = choose_again(saved, Budget.parse("1e-5"))
    assert (again.budget, [it.path for it in again.choices]) == ("rel_l2<=1e-05", ["fp32"])
    assert choose_again(saved, Budget.parse("1e-12")).refusals == [refused(TABLE, "1e-12")]
    assert choose_again(again, Budget.parse(saved.budget)) == saved
    allowed = replace(saved, allow_baselines=True)
    (choice,) = choose_again(allowed, Budget.parse("1e-5")).choices
    assert choice == chosen(TABLE, "1e-5", allow_baselines=True)
    layers = {"gauss": errors(1e-4), "captured/0": errors(1e-1), "captured/1": errors(1e-4)}
    by_layer = profile([measurement("bf16", 1.0, errors=layers)])
    assert [len(choose_again(by_layer, layer=layer).choices) for layer in (0, 1)] == [0, 1]


def test_nothing_measured_is_nothing_chosen() -> None:
    assert choose([], Budget.parse("1e-2")) == ([], [])


BUDGETS = st.sampled_from([1e-6, 1e-4, 1e-3, 3e-3, 1e-2])


@st.composite
def tables(draw: st.DrawFn) -> list[Measurement]:
    """Rows of one workload, from few values, so that ties are common."""
    found: dict[object, Measurement] = {}
    for _ in range(draw(st.integers(1, 8))):
        path = draw(st.sampled_from(["fp32", "tf32", "bf16", "fp16", "sdpa-math", "sdpa-flash"]))
        kernel = draw(st.sampled_from(["a", "b"]))
        status = draw(st.sampled_from([Status.OK] * 4 + [Status.FAILED, Status.SKIPPED]))
        if status is not Status.OK:
            row = measurement(path, kernel=kernel, status=status, reason="so it is")
        else:
            p50_ms = draw(st.sampled_from([1.0, 1.1, 1.5, 2.0, 4.0]))
            row = measurement(
                path,
                p50_ms,
                draw(st.sampled_from([0.0, 5e-7, 4e-4, 3e-3, 8e-3])),
                kernel=kernel,
                p20_ms=p50_ms * draw(st.sampled_from([1.0, 0.9, 0.3])),
                p80_ms=p50_ms * draw(st.sampled_from([1.0, 1.2, 5.0])),
            )
        found[row.key] = row
    return list(found.values())


def row_of(choice: Choice, table: list[Measurement]) -> Measurement:
    return next(r for r in table if (r.path, r.kernel) == (choice.path, choice.kernel))


def times(row: Measurement) -> tuple[float, float, float]:
    assert row.p20_ms is not None
    assert row.p50_ms is not None
    assert row.p80_ms is not None
    return row.p20_ms, row.p50_ms, row.p80_ms


def eligible(table: list[Measurement], bound: float, allowed: bool) -> list[Measurement]:
    return [
        row
        for row in table
        if row.status is Status.OK
        and max(numbers["rel_l2"] for numbers in row.errors.values()) <= bound
        and (allowed or row.role is Role.CANDIDATE)
    ]


@given(tables(), BUDGETS, st.booleans())
def test_never_over_budget_never_clearly_slower_and_the_most_accurate_of_the_rest(
    table: list[Measurement], bound: float, allowed: bool
) -> None:
    choices, _ = choose(table, Budget.parse(bound), allow_baselines=allowed)
    fit = eligible(table, bound, allowed)
    assert bool(choices) == bool(fit)
    assume(choices)
    taken = row_of(choices[0], table)
    assert taken in fit
    p20, p50, p80 = times(taken)
    for row in fit:
        assert not times(row)[2] < p20, "a row that is clearly faster was passed over"
        if times(row)[0] > p80:
            assert p50 <= times(row)[1]
    unbeaten = [r for r in fit if not any(times(o)[2] < times(r)[0] for o in fit)]
    best = min(r.errors["gauss"]["rel_l2"] for r in unbeaten)
    assert taken.errors["gauss"]["rel_l2"] == best


@given(tables(), BUDGETS, BUDGETS, st.booleans())
def test_a_looser_budget_is_never_clearly_slower(
    table: list[Measurement], one: float, other: float, allowed: bool
) -> None:
    tight, _ = choose(table, Budget.parse(min(one, other)), allow_baselines=allowed)
    loose, _ = choose(table, Budget.parse(max(one, other)), allow_baselines=allowed)
    assume(tight)
    assert times(row_of(loose[0], table))[0] <= times(row_of(tight[0], table))[2]


@given(tables(), BUDGETS, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_rows_decides_nothing(
    table: list[Measurement], bound: float, allowed: bool, random: Any
) -> None:
    shuffled = random.sample(table, len(table))
    budget = Budget.parse(bound)
    one, other = (choose(t, budget, allow_baselines=allowed) for t in (table, shuffled))
    assert one == other
    for first, second in zip(one[0] + one[1], other[0] + other[1], strict=True):  # type: ignore[operator]
        assert list(first.rejected) == list(second.rejected)


@given(tables(), BUDGETS, st.booleans())
def test_every_path_is_chosen_or_told_why(
    table: list[Measurement], bound: float, allowed: bool
) -> None:
    choices, refusals = choose(table, Budget.parse(bound), allow_baselines=allowed)
    paths = {row.path for row in table}
    for choice in choices:
        assert {choice.path, *choice.rejected} == paths
        assert choice.path not in choice.rejected
        assert math.isfinite(choice.margin)
        assert choice.margin >= 1
    for refusal in refusals:
        assert set(refusal.rejected) == paths
    for decision in (*choices, *refusals):
        assert all(sentence and "None" not in sentence for sentence in decision.rejected.values())
        assert decision.workload == workload()
