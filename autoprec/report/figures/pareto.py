"""Speed against error: the paths of one phase, and where the best of them lie."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from autoprec.report.held import MARK, bound, metric
from autoprec.report.numbers import geometric_mean
from autoprec.report.outcomes import Judged, Outcome
from autoprec.types import Role, Status

_LONGEST = 24  # letters of a name


class Kind(StrEnum):
    """What a mark stands for."""

    CHOSEN = "chosen"
    CANDIDATE = "candidate"
    BASELINE = "baseline"


@dataclass(frozen=True)
class Span:
    """A value, the smallest and the largest of what it is the geometric mean of."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Mark:
    """A path or baseline: its error and its speed over some workloads."""

    label: str
    kind: Kind
    error: Span
    speed: Span


@dataclass(frozen=True)
class Pareto:
    """Speed against error, of one phase and one pair of types.

    Attributes:
        title: The phase and the types.
        marks: One for each path and baseline.
        metric: What the errors are.
        bound: The budget's, of that metric; None for none.
        workloads: How many the means are over.
        relative: Speeds are over a baseline's; else over the fastest path's.
        partial: Whether a mark was measured on less than others; its label says so.
    """

    title: str
    marks: tuple[Mark, ...]
    metric: str
    bound: float | None
    workloads: int
    relative: bool
    partial: bool = False


def pareto(title: str, group: Sequence[Outcome]) -> Pareto:
    """The paths and baselines of some workloads of one phase and one pair of types."""
    errors: dict[str, list[float]] = {}
    speeds: dict[str, list[float]] = {}
    roles: dict[str, Role] = {}
    partial: set[str] = set()
    for outcome in group:
        rows = list(measured(outcome))
        chosen = outcome.chosen
        if chosen is not None:  # which kernel of a path was chosen may not be its fastest
            path = chosen.measurement.path
            rows = [chosen if row.measurement.path == path else row for row in rows]
        base = outcome.baseline or rows[0].measurement
        for row in rows:
            it, error = row.measurement, row.held.largest
            if error is None:  # such as of a baseline without an LSE
                continue
            roles[it.path] = it.role
            partial |= {it.path} if row.held.partial else set()
            errors.setdefault(it.path, []).append(max(error, 1e-12))
            speeds.setdefault(it.path, []).append(base.median_ms / it.median_ms)
    taken = [outcome.chosen.measurement.path for outcome in group if outcome.chosen]
    return Pareto(
        title=title,
        marks=tuple(
            Mark(
                label=_label(path, taken.count(path), len(group), partial=path in partial),
                kind=Kind.CHOSEN if path in taken else Kind(roles[path].value),
                error=_span(errors[path]),
                speed=_span(speeds[path]),
            )
            for path in errors
        ),
        metric=metric(group[0].budget).title,
        bound=bound(group[0].budget),
        workloads=len(group),
        partial=bool(partial),
        relative=all(outcome.baseline for outcome in group),
    )


def frontier(marks: Sequence[Mark]) -> list[Mark]:
    """The marks than which none is both faster and more accurate, the most accurate first."""
    best: list[Mark] = []
    for mark in sorted(marks, key=lambda it: (it.error.mean, -it.speed.mean)):
        if not best or mark.speed.mean > best[-1].speed.mean:
            best.append(mark)
    return best


def measured(outcome: Outcome) -> Iterator[Judged]:
    """What has a time, with the conversion in it: the fastest kernel of each path."""
    seen = set()
    for row in outcome.rows:  # the fastest first
        it = row.measurement
        if it.status is Status.OK and not it.aside and it.path not in seen:
            seen.add(it.path)
            yield row


def short_name(path: str) -> str:
    """A name that a picture can show: of letters, and cut off where it would fill the picture."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in path)
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}…"


def _label(path: str, taken: int, total: int, *, partial: bool) -> str:
    name = short_name(path) + (MARK if partial else "")
    if not taken:
        return name
    return f"{name}, chosen" if taken == total else f"{name}, chosen {taken}/{total}"


def _span(values: Sequence[float]) -> Span:
    return Span(geometric_mean(values) or 0.0, min(values), max(values))
