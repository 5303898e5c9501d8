"""Two profiles, row by row: what became faster, what slower, and what only one of them has."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoprec.report.change import Change, change
from autoprec.report.numbers import geometric_mean
from autoprec.report.outcomes import Judged, Outcome, labelled
from autoprec.types import Role, Status, Workload

_Key = tuple[Workload, Role, str, str]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A path of a workload in two profiles; None where a profile does not have it.

    Attributes:
        variant: Of the path, such as ``prepared``; "" for the path as it is chosen.
    """

    workload: Workload
    role: Role
    path: str
    variant: str
    a: Judged | None
    b: Judged | None

    @property
    def label(self) -> str:
        """The path, and its variant where it is one."""
        return labelled(self.path, self.variant)

    @property
    def measured(self) -> bool:
        """Whether one of the profiles has a time."""
        return measured_in(self.a) or measured_in(self.b)

    @functools.cached_property
    def speedup(self) -> float | None:
        """The first median over the second; None where one of them has none."""
        if self.a is None or self.b is None or not (measured_in(self.a) and measured_in(self.b)):
            return None
        return self.a.measurement.median_ms / self.b.measurement.median_ms

    @functools.cached_property
    def step(self) -> Change | None:
        """What became of the time; None where one of them has none."""
        if self.a is None or self.b is None or self.speedup is None:
            return None
        return change(self.a.measurement, self.b.measurement)

    def change(self, label_a: str, label_b: str) -> str:
        """What became of the time, in words: the first profile is where it comes from."""
        if self.step is not None:
            return str(self.step)
        if measured_in(self.a):
            return _without(self.b, label_a, label_b)
        if measured_in(self.b):
            return _without(self.a, label_b, label_a)
        return "measured in neither"


def pairs(a: Sequence[Outcome], b: Sequence[Outcome]) -> list[Pair]:
    """Every path of either profile, workload by workload, as a report of the profile orders them.

    Where several kernels run a path, the fastest stands for it.

    Args:
        a: Every workload of the first profile.
        b: Every workload of the second.
    """
    rows_a, rows_b = _by_path(a), _by_path(b)
    places: dict[Workload, int] = {}
    for outcome in [*a, *b]:
        places.setdefault(outcome.workload, len(places))
    keys = sorted(dict.fromkeys([*rows_a, *rows_b]), key=lambda key: places[key[0]])
    return [
        Pair(
            workload=workload,
            role=role,
            path=path,
            variant=variant,
            a=rows_a.get(key),
            b=rows_b.get(key),
        )
        for key in keys
        for workload, role, path, variant in [key]
    ]


def geometric_means(
    a: Sequence[Outcome], b: Sequence[Outcome], both: Iterable[Pair]
) -> dict[str, tuple[float, int]]:
    """How much faster the second profile is than the first, and over how many rows with both.

    Variants of a path, such as K and V prepared beforehand, are left out: it counts once.
    ``choices`` compares what each profile chose, whatever the path; ``candidates`` and
    ``baselines`` compare the same path in both.
    """
    ratios: dict[str, list[float]] = {"choices": [], "candidates": [], "baselines": []}
    chosen_a = {outcome.workload: outcome.chosen for outcome in a}
    for outcome in b:
        before, now = chosen_a.get(outcome.workload), outcome.chosen
        if before and now:
            ratios["choices"].append(before.measurement.median_ms / now.measurement.median_ms)
    for pair in both:
        if pair.speedup is not None and not pair.variant:
            ratios[f"{pair.role}s"].append(pair.speedup)
    return {
        what: (mean, len(found))
        for what, found in ratios.items()
        if (mean := geometric_mean(found)) is not None
    }


def _by_path(found: Iterable[Outcome]) -> dict[_Key, Judged]:
    rows: dict[_Key, Judged] = {}
    for outcome in found:
        for row in outcome.rows:  # the fastest first
            it = row.measurement
            rows.setdefault((outcome.workload, it.role, it.path, it.variant), row)
    return rows


def _without(other: Judged | None, label: str, other_label: str) -> str:
    if other is None:
        return f"only in {label}"
    return f"{other.verdict} in {other_label}"


def measured_in(row: Judged | None) -> bool:
    """Whether a side of a pair has a time."""
    return row is not None and row.measurement.status is Status.OK
