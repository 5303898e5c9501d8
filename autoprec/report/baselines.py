"""Where a baseline within the budget is faster than what was chosen."""

from autoprec.report.numbers import significant, times
from autoprec.report.outcomes import Outcome
from autoprec.types import Measurement, Role


def faster(outcome: Outcome) -> Measurement | None:
    """The fastest baseline within the budget, where its median is below the choice's."""
    chosen, baseline = outcome.chosen, outcome.baseline
    if chosen is None or baseline is None or not outcome.baseline_within:
        return None
    if chosen.measurement.role is Role.BASELINE or (chosen.speedup or 1.0) >= 1:
        return None
    return baseline


def sentence(outcome: Outcome) -> str:
    """Says so, with both times; "" where none is faster."""
    baseline, chosen = faster(outcome), outcome.chosen
    if baseline is None or chosen is None:
        return ""
    its, mine = baseline.p50_ms or 1.0, chosen.measurement.p50_ms or 0.0
    meet = (chosen.measurement.p20_ms or 0.0) <= (baseline.p80_ms or 0.0)
    return (
        f"{baseline.path} is within the budget and {times(mine / its)} faster than "
        f"{chosen.measurement.path}{', within the spread' if meet else ''} "
        f"({significant(its)} against {significant(mine)} ms)"
    )
