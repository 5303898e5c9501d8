"""The contest for one workload: which measured row is taken.

Two rows differ in time where their ranges from the 20th to the 80th percentile do not meet. Of the
rows within the budget that no other is clearly faster than, the most accurate wins. So nothing that
is clearly slower than another row within the budget ever wins, and a looser budget costs no time.

Only rows with draws enough take part, as long as one of them keeps to the budget; else those with
the most. Rows of a profile without bounds are taken at their word.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autoprec.budget import Budget, Reading
from autoprec.draws import draws_needed
from autoprec.policy.apriori import LEFT_OUT
from autoprec.policy.standard import Standard, standard
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
    def draws(self) -> float:
        """Independent draws behind it; without end for a row that is taken at its word."""
        return float("inf") if self.row.n_draws is None else self.row.n_draws

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
        standard: What they were held to.
        needed: Draws that a row needs for the confidence asked.
        allow_baselines: Whether a baseline may be taken.
        level: The eligible entries that no other eligible one is clearly faster than.
    """

    entries: list[Entry]
    unmeasured: list[Measurement]
    eligible: list[Entry]
    level: list[Entry]
    standard: Standard
    needed: int
    allow_baselines: bool

    @property
    def winner(self) -> Entry | None:
        """What is taken: the most accurate of the level ones."""
        return min(self.level, key=lambda entry: entry.by_error, default=None)

    @property
    def fastest(self) -> Entry | None:
        """The eligible entry of the lowest median."""
        return min(self.eligible, key=lambda entry: entry.by_time, default=None)

    @property
    def ran(self) -> bool:
        """Whether anything ran that may be taken, or would have, whatever its error."""
        measured = (entry.row for entry in self.entries)
        left_out = (row for row in self.unmeasured if row.reason.startswith(LEFT_OUT))
        return any(
            self.allow_baselines or row.role is Role.CANDIDATE for row in (*measured, *left_out)
        )

    @property
    def undecided(self) -> bool:
        """Whether no candidate was measured, and some for want of time."""
        measured = any(entry.row.role is Role.CANDIDATE for entry in self.entries)
        skipped = (row.status is Status.SKIPPED for row in self.unmeasured)
        return not measured and any(skipped)


def hold(
    rows: Sequence[Measurement],
    budget: Budget,
    *,
    allow_baselines: bool,
    confidence: float,
    layer: int | None = None,
) -> Contest:
    """Sort the rows of one workload by what may be taken.

    Variants of a path do not take part (K and V prepared beforehand or in a cache in another form,
    consistent mode): each has a row of the same kernel and path as it is chosen, which speaks for
    the path.

    Args:
        rows: The workload's measurements, in any order.
        budget: The error accepted.
        allow_baselines: Whether a baseline may be taken.
        confidence: Wanted of a bound, from 0 to below 1.
        layer: The layer that is chosen for; None for one that the budget does not name.
    """
    held_to = standard(rows, budget, layer)
    entries: list[Entry] = []
    unmeasured: list[Measurement] = []
    for row in rows:
        if row.aside:
            continue
        if row.status is Status.OK and row.p20_ms and row.p50_ms and row.p80_ms:
            reading = held_to.reading(row)
            entries.append(Entry(row, row.p20_ms, row.p50_ms, row.p80_ms, reading))
        else:
            unmeasured.append(row)
    within = [
        entry
        for entry in entries
        if entry.reading.within and (allow_baselines or entry.row.role is Role.CANDIDATE)
    ]
    needed = draws_needed(confidence)
    enough = min(needed, max((entry.draws for entry in within), default=0))
    eligible = [entry for entry in within if entry.draws >= enough]
    earliest_end = min((entry.p80_ms for entry in eligible), default=0.0)
    level = [entry for entry in eligible if entry.p20_ms <= earliest_end]
    return Contest(entries, unmeasured, eligible, level, held_to, needed, allow_baselines)
