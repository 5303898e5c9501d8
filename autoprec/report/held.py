"""The error that tables and pictures show: what the budget is held to, and of what it is.

Policy says what that is (``standard.judged``); what was measured on less than other rows is marked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from autoprec.budget import Budget, Errors
from autoprec.report.numbers import MISSING, error, listed
from autoprec.types import CAPTURED, Measurement, Status

MARK = "*"
"""Beside the error of a row that was measured on less than others."""

_FAMILIES = f"{MARK}: measured on fewer input families than others, so that its error may be larger"
_DRAWS = f"{MARK}: no inputs were drawn for its error, as they were for others: it may be larger"
_BOTH = (
    f"{MARK}: measured on fewer input families than others, or no inputs were drawn for it as they "
    "were for others: its error may be larger"
)


@dataclass(frozen=True)
class Metric:
    """What errors are.

    Attributes:
        key: Of a measurement's errors.
        title: In the budget's grammar.
    """

    key: str = "rel_l2"
    title: str = "rel_l2"


def metric(budget: Budget) -> Metric:
    """The metric that is shown: rel_l2, or where the budget holds others alone, its first."""
    if any(clause.key == "rel_l2" for clause in budget.clauses):
        return Metric()
    return Metric(budget.clauses[0].key, budget.clauses[0].metric)


def bound(budget: Budget) -> float | None:
    """The tightest bound of the metric that is shown; None where it is relative to another's."""
    key = metric(budget).key
    absolute = (it for it in budget.clauses if it.key == key and not it.reference)
    return min((clause.limit() for clause in absolute), default=None)


@dataclass(frozen=True)
class Held:
    """The errors of a row as the budget sees them.

    Attributes:
        errors: By family; none where the row was not measured.
        metric: The one that is shown.
        expected: How many families others were measured on.
        drawn: Whether there are draws behind it, where others have some.
    """

    errors: Errors = field(default_factory=dict)
    metric: Metric = field(default_factory=Metric)
    expected: int = 0
    drawn: bool = True

    @property
    def by_family(self) -> dict[str, float]:
        """The errors of the metric that is shown."""
        key = self.metric.key
        return {family: its[key] for family, its in self.errors.items() if key in its}

    @property
    def largest(self) -> float | None:
        """The error that is shown; None where it was not measured."""
        return max(self.by_family.values(), default=None)

    @property
    def family(self) -> str:
        """The family on which it is largest; "" for none."""
        its = self.by_family
        return max(its, key=lambda family: its[family], default="")

    @property
    def few(self) -> bool:
        """Whether others were measured on more families."""
        return 0 < len(self.errors) < self.expected

    @property
    def partial(self) -> bool:
        """Whether it is of less than others are."""
        return self.few or not self.drawn

    @property
    def within(self) -> str:
        """What to say of a row that keeps to the budget."""
        if len(self.errors) == 1:
            return f"within budget on {next(iter(self.errors))}"
        on = f" on {len(self.errors)} of {self.expected} families" if self.few else ""
        return f"within budget{on}"

    def __str__(self) -> str:
        """Such as ``4.10e-04``, or ``*4.10e-04`` where it is of less than others are."""
        said = error(self.largest)
        return f"{MARK}{said}" if self.partial and said != MISSING else said


class Extent:
    """What the rows of a profile were measured on, all together.

    Args:
        rows: Of a profile.
    """

    def __init__(self, rows: Iterable[Measurement]) -> None:
        """Rows that were not measured do not count."""
        measured = [row for row in rows if row.status is Status.OK]
        self._typical = {name for row in measured for name in row.errors if not _captured(name)}
        self._drawn = any(row.n_draws or row.captured for row in measured)

    def expected(self, rows: Sequence[Measurement]) -> int:
        """How many families the rows of a workload could all have been measured on.

        Where something was captured for it, the families of other workloads need not be its own.
        """
        own = {name for row in rows if row.status is Status.OK for name in row.errors}
        return len(own if any(map(_captured, own)) else own | self._typical)

    def drawn(self, row: Measurement) -> bool:
        """Whether a row has draws behind it, or none has."""
        return bool(row.n_draws or row.captured) or not self._drawn


def _captured(family: str) -> bool:
    return family.split("/")[0] == CAPTURED


def notes(shown: Sequence[Held], budgets: Iterable[Budget], *, bounds: bool) -> tuple[str, ...]:
    """What the errors of tables are, and what the mark means where there is one.

    Args:
        shown: Of the rows.
        budgets: That they are held to.
        bounds: Whether any row has draws.
    """
    if not any(it.errors for it in shown):
        return ()
    titles = dict.fromkeys(it.metric.title for it in shown if it.errors)
    what = "of whole outputs and of all draws" if bounds else "of whole outputs"
    said = (
        f"{listed(titles)}: what is held to the budget, the largest {what} over the input families"
    )
    keys = {it.metric.key for it in shown}
    others = dict.fromkeys(c.metric for it in budgets for c in it.clauses if c.key not in keys)
    if others:
        said += f"; {listed(others)} {'is' if len(others) == 1 else 'are'} held to it too"
    few, undrawn = any(it.few for it in shown), any(not it.drawn for it in shown)
    mark = (_BOTH if undrawn else _FAMILIES) if few else _DRAWS if undrawn else ""
    return (said, mark) if mark else (said,)
