"""The error that all pictures show, and the budget's bound of it."""

from autoprec.budget import Budget

METRIC = "rel_l2"
"""On which paths compare at a glance, whatever the budget is held to."""


def bound(budget: Budget) -> float | None:
    """The tightest bound of METRIC; None where the budget holds other metrics alone."""
    absolute = (it for it in budget.clauses if it.key == METRIC and not it.reference)
    return min((clause.limit() for clause in absolute), default=None)
