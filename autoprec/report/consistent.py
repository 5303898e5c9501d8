"""What consistent mode costs: a request's output then has the same bits alone and in any batch."""

from collections.abc import Iterator, Sequence

from autoprec.report.document import Align, Column, Row, Section
from autoprec.report.numbers import MISSING, counted, geometric_mean, significant, times
from autoprec.report.outcomes import Outcome
from autoprec.types import Measurement, Status


def sections(found: Sequence[Outcome]) -> Iterator[Section]:
    """A line for each workload whose choice was measured in consistent mode; none without."""
    pairs = [(outcome, row) for outcome in found if (row := _consistent(outcome)) is not None]
    if not pairs:
        return
    ratios = [ratio for outcome, row in pairs if (ratio := _ratio(outcome, row)) is not None]
    mean = geometric_mean(ratios)
    over = counted(len(ratios), "workload")
    notes = [f"{row.workload}: {row.status}: {row.reason}" for _, row in pairs if row.reason]
    if mean is not None:
        notes.insert(0, f"{times(mean)} the time of the choices, in the geometric mean over {over}")
    yield Section(
        heading="consistent mode (load_plan(consistent=True))",
        columns=(
            Column("workload"),
            Column("path"),
            Column("kernel", rank=2),
            Column("p50 ms", Align.POINT),
            Column("otherwise ms", Align.POINT),
            Column("costs", Align.RIGHT),
        ),
        rows=tuple(_row(outcome, row) for outcome, row in pairs),
        notes=tuple(notes),
    )


def _consistent(outcome: Outcome) -> Measurement | None:
    """The choice's path in consistent mode, measured or with the reason why not."""
    rows = [row.measurement for row in outcome.rows if row.measurement.consistent]
    path = outcome.choice.path if outcome.choice else ""
    return next((row for row in rows if row.path == path), None)


def _ratio(outcome: Outcome, row: Measurement) -> float | None:
    """Its median time over that of the choice; None where one was not measured."""
    chosen = outcome.chosen.measurement.p50_ms if outcome.chosen else None
    return row.p50_ms / chosen if row.status is Status.OK and row.p50_ms and chosen else None


def _row(outcome: Outcome, row: Measurement) -> Row:
    chosen = outcome.chosen.measurement.p50_ms if outcome.chosen else None
    cells = (
        str(row.workload),
        row.path,
        row.kernel or MISSING,
        significant(row.p50_ms),
        significant(chosen),
        times(_ratio(outcome, row)),
    )
    return Row(cells)
