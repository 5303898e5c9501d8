"""How what was chosen compares with the fastest baseline that keeps to the budget too."""

from autoprec.report.numbers import significant, times
from autoprec.report.outcomes import Outcome
from autoprec.types import Measurement, Role


def faster(outcome: Outcome) -> Measurement | None:
    """The baseline, where it is clearly faster than the choice: their p20 to p80 do not meet."""
    baseline, chosen = _both(outcome)
    if baseline is None or chosen is None or _meet(baseline, chosen):
        return None
    return baseline if _ms(baseline.p50_ms) < _ms(chosen.p50_ms) else None


def as_fast(outcome: Outcome) -> bool:
    """Whether there is no clear difference between the baseline and the choice."""
    baseline, chosen = _both(outcome)
    return baseline is not None and chosen is not None and _meet(baseline, chosen)


def sentence(outcome: Outcome) -> str:
    """Says that a baseline is faster, with both times; "" where none is."""
    baseline, chosen = faster(outcome), outcome.chosen
    if baseline is None or chosen is None:
        return ""
    its, mine = _ms(baseline.p50_ms), _ms(chosen.measurement.p50_ms)
    return (
        f"{baseline.path}, within the budget, is {times(mine / its)} faster than "
        f"{chosen.measurement.path}: {significant(its)} against {significant(mine)} ms"
    )


def _both(outcome: Outcome) -> tuple[Measurement | None, Measurement | None]:
    """The baseline within the budget, and the choice where that is no baseline itself."""
    chosen = outcome.chosen.measurement if outcome.chosen else None
    if chosen and chosen.role is Role.BASELINE:
        chosen = None
    return outcome.baseline if outcome.baseline_within else None, chosen


def _meet(one: Measurement, other: Measurement) -> bool:
    return _ms(one.p20_ms) <= _ms(other.p80_ms) and _ms(other.p20_ms) <= _ms(one.p80_ms)


def _ms(value: float | None) -> float:
    return value or 0.0  # a measured row has its times
