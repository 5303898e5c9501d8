"""Every path that was measured, workload by workload."""

from collections.abc import Iterator, Sequence

from autoprec.report.document import Align, Column, Row, Section
from autoprec.report.held import metric
from autoprec.report.numbers import MISSING, error, percent, significant, times
from autoprec.report.outcomes import Judged, Outcome, Verdict
from autoprec.report.rates import rate_text, unit
from autoprec.types import Phase, Status


def sections(found: Sequence[Outcome], *, unmeasured: bool = False) -> Iterator[Section]:
    """A table for each workload, with a row for everything measured, the fastest first.

    Args:
        found: Every workload of a profile.
        unmeasured: Whether what was not measured has a row too, with the reason.
    """
    for outcome in found:
        measured = [row for row in outcome.rows if row.measurement.status is Status.OK]
        yield Section(
            heading=str(outcome.workload),
            columns=_columns(outcome.workload.phase, metric(outcome.budget).title),
            rows=tuple(
                _row(row, outcome.chosen) for row in (outcome.rows if unmeasured else measured)
            ),
            notes=() if measured else ("nothing was measured",),
            folded=True,
            summary=outcome.chosen.measurement.path if outcome.chosen else "",
        )


def _columns(phase: Phase, title: str) -> tuple[Column, ...]:
    return (
        Column("path"),
        Column("kernel", rank=2),
        Column("p50 ms", Align.POINT),
        Column("p20-p80 ms", Align.RIGHT, rank=4),
        Column(unit(phase), Align.POINT),
        Column("ceiling", Align.RIGHT, rank=1),
        Column(title, Align.RIGHT),
        Column("whole outputs", Align.RIGHT, rank=6),
        Column("worst on", rank=3),
        Column("workspace GiB", Align.POINT, rank=5),
        Column("speedup", Align.RIGHT),
        Column("verdict"),
        Column("reason", fills=True),
    )


def _row(row: Judged, chosen: Judged | None) -> Row:
    it = row.measurement
    cells = (
        row.label,
        it.kernel,
        significant(it.p50_ms),
        MISSING if it.p20_ms is None else f"{significant(it.p20_ms)}-{significant(it.p80_ms)}",
        rate_text(it),
        percent(row.ceiling_share),
        str(row.held),
        error(row.worst(row.held.metric.key)),
        row.held.family,
        significant(it.workspace_gib),
        times(row.speedup),
        _verdict(row, chosen),
        row.reason,
    )
    return Row(cells, marked=row.verdict is Verdict.CHOSEN)


def _verdict(row: Judged, chosen: Judged | None) -> str:
    if row.verdict is Verdict.SLOWER and chosen:
        ratio = row.measurement.median_ms / chosen.measurement.median_ms
        return f"{times(ratio)} slower"
    return row.verdict.value
