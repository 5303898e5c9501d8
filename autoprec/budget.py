"""The error a user accepts: clauses that must all hold, and how near an error is to them.

``grammar.py`` reads them from text.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autoprec import grammar
from autoprec.errors import InputError
from autoprec.grammar import EVERYWHERE, Scope
from autoprec.types import Phase

DEFAULT_BUDGET = "1e-2"

KEYS = {
    "rel_l2": "rel_l2",
    "bits": "rel_l2",
    "row_rel.p999": "row_rel_p999",
    "row_rel.max": "row_rel_max",
    "max_abs": "max_abs",
    "lse_abs": "lse_abs",
    "ratio:fp32": "rel_l2",
    "ratio:torch": "rel_l2",
}
"""Metrics of the grammar, and the key of a measurement's errors that each bounds."""

REFERENCES = {"ratio:fp32": "fp32", "ratio:torch": "torch"}
"""Metrics that compare, and with what: the path fp32, or PyTorch's own attention."""

RATIO_FLOOR = 2.0**-20
"""An error up to this passes every ratio: it is a few roundings of fp32."""

_LARGEST_MARGIN = 1e30  # keeps the margin of an error of zero a number that JSON can hold
_HINT = "a budget such as 1e-3, which means rel_l2<=1e-3"

Errors = Mapping[str, Mapping[str, float]]
"""Numbers by metric by input family, as in an ok Measurement."""


@dataclass(frozen=True)
class Clause:
    """One condition: ``metric`` at most ``bound`` (``bits``: at least), on every family budgeted.

    Attributes:
        metric: A name of KEYS.
        bound: The number beside it.
        scope: Where it holds: for a phase, for layers, or everywhere.
    """

    metric: str
    bound: float
    scope: Scope = EVERYWHERE

    def __post_init__(self) -> None:
        """Refuse what is never measured and what cannot bound an error.

        Raises:
            InputError: The metric is unknown, or the bound is no finite number above zero.
        """
        if self.metric not in KEYS:
            known = ", ".join(KEYS)
            raise InputError(f"the budget's metric {self.metric!r} is not one of {known}.", _HINT)
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise InputError(
                f"the budget's bound must be above zero and finite, got {self.bound:g}.", _HINT
            )
        if self.metric == "bits" and self.bound > 1000:
            raise InputError(f"no error has {self.bound:g} bits.", "bits>=17")

    @property
    def key(self) -> str:
        """The key of a measurement's errors that it bounds."""
        return KEYS[self.metric]

    @property
    def reference(self) -> str:
        """What the error is compared with: ``fp32``, ``torch``, or "" for nothing."""
        return REFERENCES.get(self.metric, "")

    def limit(self, reference: float | None = None) -> float:
        """The largest error that it lets pass.

        Args:
            reference: The error of what it compares with; None where that was not measured.
        """
        if self.metric == "bits":
            return math.pow(2.0, -self.bound)
        if self.reference:
            return max(self.bound * (reference or 0.0), RATIO_FLOOR)
        return self.bound

    @property
    def number(self) -> str:
        """The bound to its last digit."""
        short = f"{self.bound:g}"
        return short if float(short) == self.bound else repr(self.bound)

    def __str__(self) -> str:
        """The clause in the budget's grammar."""
        sign = ">=" if self.metric == "bits" else "<="
        return f"{self.scope}{self.metric}{sign}{self.number}"


@dataclass(frozen=True)
class Reading:
    """What was measured for a clause, on one input family.

    Attributes:
        value: The error.
        reference: That of what the clause compares with; None where there is none.
    """

    clause: Clause
    family: str
    value: float
    reference: float | None = None

    @property
    def limit(self) -> float:
        """The largest error that would do."""
        return self.clause.limit(self.reference)

    @property
    def within(self) -> bool:
        """Whether the clause holds."""
        return self.value <= self.limit

    @property
    def margin(self) -> float:
        """Limit over value, at most 1e30: 1 is just within, below 1 is over the budget."""
        return min(self.limit / max(self.value, 1e-300), _LARGEST_MARGIN)

    def __str__(self) -> str:
        """Such as ``rel_l2 7.30e-03 on outlier is over the budget of 0.001``."""
        verdict = "within" if self.within else "over"
        clause = self.clause
        if clause.metric == "bits":
            held = -math.log2(self.value) if self.value else math.inf
            verdict = "within" if self.within else "below"
            return f"bits {held:.1f} on {self.family} is {verdict} the budget of {clause.bound:g}"
        said = f"{clause.key if clause.reference else clause.metric} {self.value:.2e}"
        if not clause.reference:
            return f"{said} on {self.family} is {verdict} the budget of {clause.bound:g}"
        its = "PyTorch's" if clause.reference == "torch" else f"the {clause.reference} path's"
        if self.reference is None:
            return (
                f"{said} on {self.family} is {verdict} {RATIO_FLOOR:.1e}, "
                f"and {its} own was not measured"
            )
        return (
            f"{said} on {self.family} is {self.value / max(self.reference, 1e-300):.2g} times "
            f"{its} {self.reference:.2e}, {verdict} the budget of {clause.bound:g}"
        )


@dataclass(frozen=True)
class Budget:
    """Clauses that must all hold, each in its scope."""

    clauses: tuple[Clause, ...]

    def __post_init__(self) -> None:
        """Refuse a budget that asks for nothing, or for two things at once.

        Raises:
            InputError: There is no clause, or two have one metric and scope.
        """
        if not self.clauses:
            raise InputError("the budget has no clause.", _HINT)
        bounded = set()
        for clause in self.clauses:
            if (clause.metric, clause.scope) in bounded:
                raise InputError(f"the budget bounds {clause.scope}{clause.metric} twice.", _HINT)
            bounded.add((clause.metric, clause.scope))

    @classmethod
    def parse(cls, text: "str | float | Budget") -> "Budget":
        """Read a budget: ``1e-3``, ``row_rel.p999<=1e-4,lse_abs<=1e-3``, ``decode:fp32``.

        Args:
            text: The budget; a Budget is returned as it is.

        Raises:
            InputError: It is no budget; the sentence points at the character.
        """
        if isinstance(text, Budget):
            return text
        return cls(
            tuple(Clause(it.metric, it.bound, it.scope) for it in grammar.read(str(text), KEYS))
        )

    def of(self, phase: Phase, layer: int | None = None) -> "Budget":
        """The budget of a phase and layer: the clauses that hold there.

        Of clauses for one metric the one of the narrowest scope holds: ``1e-3,prefill:1e-5`` is
        1e-5 for prefill. Where none holds, DEFAULT_BUDGET does.

        Args:
            phase: Of a workload.
            layer: Of a model; None for one that no clause names.
        """
        holding = [clause for clause in self.clauses if clause.scope.covers(phase, layer)]
        narrowest = {
            metric: max(c.scope.rank for c in holding if c.metric == metric)
            for metric in dict.fromkeys(clause.metric for clause in holding)
        }
        kept = tuple(c for c in holding if c.scope.rank == narrowest[c.metric])
        return Budget(kept) if kept else Budget.parse(DEFAULT_BUDGET)

    @property
    def bounds_lse(self) -> bool:
        """Whether a clause is on the error of the log-sum-exp."""
        return any(clause.metric == "lse_abs" for clause in self.clauses)

    @property
    def references(self) -> tuple[str, ...]:
        """What its clauses compare with, ``fp32`` or ``torch``."""
        return tuple(dict.fromkeys(c.reference for c in self.clauses if c.reference))

    def readings(
        self, errors: Errors, references: Mapping[str, Errors] | None = None
    ) -> Iterator[Reading]:
        """What was measured for each clause and family.

        Args:
            errors: At least one family, each with every key that the clauses bound; one without
                lse_abs, where a kernel gives no LSE, cannot keep to a clause on that.
            references: The errors of ``fp32`` and ``torch``, where they were measured.
        """
        for clause in self.clauses:
            theirs = (references or {}).get(clause.reference, {})
            for family, numbers in errors.items():
                yield Reading(
                    clause,
                    family,
                    numbers.get(clause.key, math.inf),
                    theirs.get(family, {}).get(clause.key),
                )

    def nearest(self, errors: Errors, references: Mapping[str, Errors] | None = None) -> Reading:
        """The reading closest to its bound, or furthest over it; see ``readings``."""
        found = self.readings(errors, references)
        return max(found, key=lambda reading: reading.value / reading.limit)

    def __str__(self) -> str:
        """The budget in its grammar; ``parse`` reads it back."""
        return ",".join(str(clause) for clause in self.clauses)
