"""The contest for one workload: which measured row is taken.

Two rows differ in time where their ranges from the 20th to the 80th percentile do not meet. Of the
rows within the budget that no other is clearly faster than, the most accurate wins. So nothing that
is clearly slower than another row within the budget ever wins, and a looser budget costs no time.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from autoprec.budget import Budget, Reading
from autoprec.types import Measurement, Role, Status


@dataclass(frozen=True)
class Entry:
    """A measured row, with its times and its error in the budget's terms.

    Attributes:
        row: The measurement.
        p20_ms: Its times, milliseconds; likewise p50_ms and p80_ms.
        reading: The error closest to its bound.
    """

    row: Measurement
    p20_ms: float
    p50_ms: float
    p80_ms: float
    reading: Reading

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells rows apart, so that no decision hangs on the order they come in."""
        row = self.row
        return (row.path, row.kernel, row.storage, row.conversion, repr(sorted(row.config.items())))

    @property
    def by_time(self) -> tuple[float, float, tuple[str, ...]]:
        """Sorts the fastest first."""
        return (self.p50_ms, -self.reading.margin, self.identity)

    @property
    def by_error(self) -> tuple[float, float, tuple[str, ...]]:
        """Sorts the most accurate first."""
        return (-self.reading.margin, self.p50_ms, self.identity)


@dataclass(frozen=True)
class Contest:
    """Every row of one workload, and the one that is taken.

    Attributes:
        entries: The rows that were measured.
        unmeasured: The rows that were not, each with its reason.
        eligible: The entries that may be taken.
        level: The eligible entries that no other eligible one is clearly faster than.
    """

    entries: list[Entry]
    unmeasured: list[Measurement]
    eligible: list[Entry]
    level: list[Entry]

    @property
    def winner(self) -> Entry | None:
        """What is taken: the most accurate of the level ones."""
        return min(self.level, key=lambda entry: entry.by_error, default=None)

    @property
    def fastest(self) -> Entry | None:
        """The eligible entry of the lowest median."""
        return min(self.eligible, key=lambda entry: entry.by_time, default=None)

    @property
    def undecided(self) -> bool:
        """Whether no candidate was measured, and some for want of time."""
        measured = any(entry.row.role is Role.CANDIDATE for entry in self.entries)
        skipped = (row.status is Status.SKIPPED for row in self.unmeasured)
        return not measured and any(skipped)


def hold(rows: Iterable[Measurement], budget: Budget, *, allow_baselines: bool) -> Contest:
    """Sort the rows of one workload by what may be taken.

    Rows of K and V prepared beforehand do not take part: each has a row of the same kernel and path
    with the conversion in its time, and that one speaks for the path.

    Args:
        rows: The workload's measurements, in any order.
        budget: The error accepted.
        allow_baselines: Whether a baseline may be taken.
    """
    entries: list[Entry] = []
    unmeasured: list[Measurement] = []
    for row in rows:
        if row.prepared:
            continue
        if row.status is Status.OK and row.p20_ms and row.p50_ms and row.p80_ms:
            nearest = budget.nearest(row.errors)
            entries.append(Entry(row, row.p20_ms, row.p50_ms, row.p80_ms, nearest))
        else:
            unmeasured.append(row)
    eligible = [
        entry
        for entry in entries
        if entry.reading.within and (allow_baselines or entry.row.role is Role.CANDIDATE)
    ]
    earliest_end = min((entry.p80_ms for entry in eligible), default=0.0)
    level = [entry for entry in eligible if entry.p20_ms <= earliest_end]
    return Contest(entries, unmeasured, eligible, level)
