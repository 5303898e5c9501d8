"""Which rows are worth all the draws that a confidence needs."""

from collections.abc import Iterable, Sequence

from autoprec.budget import Budget
from autoprec.policy import contest
from autoprec.policy.standard import reference_of
from autoprec.types import Measurement, by_workload

DECADES = tuple(Budget.parse(f"1e-{power}") for power in range(1, 7))
"""Budgets that a profile is ready for beside its own."""


def shortlist(
    rows: Sequence[Measurement], budget: Budget, *, allow_baselines: bool
) -> list[Measurement]:
    """The rows that get all draws: what would be taken, for the budget and for each decade.

    A path that breaks a budget in one draw is replaced by the next that keeps to it, so asking
    again after each draw ends with rows that have kept to theirs all the way. What ratios compare
    with gets all draws too.

    Args:
        rows: Measurements of any number of workloads, with the errors so far.
        budget: The error accepted.
        allow_baselines: Whether a baseline may be chosen.
    """
    listed = [
        held.winner.row
        for own in by_workload(rows).values()
        for held in _contests(own, budget, allow_baselines)
        if held.winner
    ]
    compared = [row for row in rows if reference_of(row) in budget.references]
    return [row for row in rows if any(row is one for one in (*listed, *compared))]


def _contests(
    rows: Sequence[Measurement], budget: Budget, allow_baselines: bool
) -> Iterable[contest.Contest]:
    layered = [clause.scope.layers for clause in budget.clauses if clause.scope.layers]
    for layer in (None, *(first for first, _ in dict.fromkeys(layered))):
        yield contest.hold(
            rows, budget, allow_baselines=allow_baselines, confidence=0.0, layer=layer
        )
    for decade in DECADES:
        yield contest.hold(rows, decade, allow_baselines=allow_baselines, confidence=0.0)
