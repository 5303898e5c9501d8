"""The error a user accepts: metric, statistic, bound."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from autoprec.errors import InputError

DEFAULT_BUDGET = "1e-2"
METRICS = ("rel_l2",)

_CLAUSE = re.compile(r"\s*(?:(?P<metric>[a-z_0-9.:]+)\s*<=)?\s*(?P<bound>[0-9.eE+-]+)\s*")
_HINT = "--budget 1e-3, which means rel_l2<=1e-3"


@dataclass(frozen=True)
class Clause:
    """One condition: ``metric`` at most ``bound``, on every typical input family."""

    metric: str
    bound: float

    def __str__(self) -> str:
        """The clause in the budget's grammar."""
        return f"{self.metric}<={self.bound:g}"


@dataclass(frozen=True)
class Violation:
    """A clause that a measured error breaks, on the family where it is broken worst."""

    clause: Clause
    family: str
    value: float

    def __str__(self) -> str:
        """Such as ``rel_l2 7.30e-03 on outlier is over the budget of 0.001``."""
        return (
            f"{self.clause.metric} {self.value:.2e} on {self.family} "
            f"is over the budget of {self.clause.bound:g}"
        )


@dataclass(frozen=True)
class Budget:
    """Clauses that must all hold."""

    clauses: tuple[Clause, ...]

    @classmethod
    def parse(cls, text: "str | float | Budget") -> Self:
        """Read a budget: ``1e-3``, a number, or ``rel_l2<=1e-3``.

        Args:
            text: The budget; a Budget is returned as it is.

        Raises:
            InputError: It is no budget; the sentence points at what is wrong.
        """
        if isinstance(text, cls):
            return text
        match = _CLAUSE.fullmatch(str(text))
        if match is None:
            raise InputError(f"the budget {str(text)!r} is no number and no clause.", _HINT)
        metric = match["metric"] or "rel_l2"
        if metric not in METRICS:
            raise InputError(f"the budget's metric {metric!r} is not one of {METRICS}.", _HINT)
        try:
            bound = float(match["bound"])
        except ValueError:
            raise InputError(f"the budget's bound {match['bound']!r} is no number.", _HINT) from None
        if not (math.isfinite(bound) and bound > 0):
            raise InputError(f"the budget's bound must be above zero, got {bound:g}.", _HINT)
        return cls((Clause(metric, bound),))

    def violation(self, errors: Mapping[str, Mapping[str, float]]) -> Violation | None:
        """The worst broken clause, or None where the errors keep to the budget.

        Args:
            errors: Numbers by metric by input family, as in a Measurement.
        """
        worst = self._nearest(errors)
        return worst if worst.value > worst.clause.bound else None

    def margin(self, errors: Mapping[str, Mapping[str, float]]) -> float:
        """Bound over error for the clause nearest to its bound; 1 is just within."""
        worst = self._nearest(errors)
        return worst.clause.bound / max(worst.value, 1e-30)

    def _nearest(self, errors: Mapping[str, Mapping[str, float]]) -> Violation:
        candidates = [
            Violation(clause, family, numbers[clause.metric])
            for clause in self.clauses
            for family, numbers in errors.items()
        ]
        return max(candidates, key=lambda v: v.value / v.clause.bound)

    def __str__(self) -> str:
        """The budget in its grammar; ``parse`` reads it back."""
        return ",".join(str(clause) for clause in self.clauses)
