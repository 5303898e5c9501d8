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
_LARGEST_MARGIN = 1e30  # keeps the margin of an error of zero a number that JSON can hold


@dataclass(frozen=True)
class Clause:
    """One condition: ``metric`` at most ``bound``, on every typical input family."""

    metric: str
    bound: float

    def __post_init__(self) -> None:
        """Refuse what is never measured and what cannot bound an error.

        Raises:
            InputError: The metric is unknown, or the bound is no finite number above zero.
        """
        if self.metric not in METRICS:
            known = ", ".join(METRICS)
            raise InputError(f"the budget's metric {self.metric!r} is not one of {known}.", _HINT)
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise InputError(
                f"the budget's bound must be above zero and finite, got {self.bound:g}.", _HINT
            )

    def __str__(self) -> str:
        """The clause in the budget's grammar, the bound to its last digit."""
        short = f"{self.bound:g}"
        return f"{self.metric}<={short if float(short) == self.bound else repr(self.bound)}"


@dataclass(frozen=True)
class Reading:
    """What was measured for a clause, on one input family."""

    clause: Clause
    family: str
    value: float

    @property
    def within(self) -> bool:
        """Whether the clause holds."""
        return self.value <= self.clause.bound

    @property
    def margin(self) -> float:
        """Bound over value, at most 1e30: 1 is just within, below 1 is over the budget."""
        return min(self.clause.bound / max(self.value, 1e-300), _LARGEST_MARGIN)

    def __str__(self) -> str:
        """Such as ``rel_l2 7.30e-03 on outlier is over the budget of 0.001``."""
        return (
            f"{self.clause.metric} {self.value:.2e} on {self.family} "
            f"is {'within' if self.within else 'over'} the budget of {self.clause.bound:g}"
        )


@dataclass(frozen=True)
class Budget:
    """Clauses that must all hold."""

    clauses: tuple[Clause, ...]

    def __post_init__(self) -> None:
        """Refuse a budget that asks for nothing.

        Raises:
            InputError: There is no clause.
        """
        if not self.clauses:
            raise InputError("the budget has no clause.", _HINT)

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
        try:
            bound = float(match["bound"])
        except ValueError:
            raise InputError(
                f"the budget's bound {match['bound']!r} is no number.", _HINT
            ) from None
        return cls((Clause(match["metric"] or "rel_l2", bound),))

    def nearest(self, errors: Mapping[str, Mapping[str, float]]) -> Reading:
        """The reading closest to its bound, or furthest over it.

        Args:
            errors: Numbers by metric by input family, as in an ok Measurement: at least one
                family, each with every metric of METRICS.
        """
        readings = [
            Reading(clause, family, numbers[clause.metric])
            for clause in self.clauses
            for family, numbers in errors.items()
        ]
        return max(readings, key=lambda reading: reading.value / reading.clause.bound)

    def violation(self, errors: Mapping[str, Mapping[str, float]]) -> Reading | None:
        """The worst broken clause, or None where the errors keep to the budget."""
        worst = self.nearest(errors)
        return None if worst.within else worst

    def margin(self, errors: Mapping[str, Mapping[str, float]]) -> float:
        """Bound over error for the clause nearest to its bound; 1 is just within."""
        return self.nearest(errors).margin

    def __str__(self) -> str:
        """The budget in its grammar; ``parse`` reads it back."""
        return ",".join(str(clause) for clause in self.clauses)
