"""The errors of every path on every input family."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoprec.paths import PATHS
from autoprec.report.figures.pareto import measured, short_name
from autoprec.report.held import bound, metric
from autoprec.report.outcomes import Outcome
from autoprec.types import Role


@dataclass(frozen=True)
class Heat:
    """The largest error of each path on each input family, of one phase and one pair of types.

    Attributes:
        rows: Paths and baselines.
        columns: Families.
        cells: By row and column; None where nothing was measured.
    """

    title: str
    metric: str
    bound: float | None
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]


def heat(title: str, group: Sequence[Outcome]) -> Heat:
    """The workloads of one phase and one pair of types."""
    worst: dict[tuple[str, str], float] = {}
    candidates: set[str] = set()
    baselines: dict[str, None] = {}
    for row in (row for outcome in group for row in measured(outcome)):
        it = row.measurement
        if it.role is Role.CANDIDATE:
            candidates.add(it.path)
        else:
            baselines[it.path] = None
        for family, error in row.held.by_family.items():
            key = (it.path, family)
            worst[key] = max(worst.get(key, 0.0), error)
    rows = [*(path for path in PATHS if path in candidates), *baselines]
    columns = list(dict.fromkeys(family for _, family in worst))
    return Heat(
        title=f"{title}: error by input family",
        metric=metric(group[0].budget).title,
        bound=bound(group[0].budget),
        rows=tuple(short_name(path) for path in rows),
        columns=tuple(short_name(family) for family in columns),
        cells=tuple(tuple(worst.get((path, family)) for family in columns) for path in rows),
    )
