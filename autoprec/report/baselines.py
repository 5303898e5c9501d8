"""How what was chosen compares with the fastest baseline that keeps to the budget too."""

from autoprec.report.numbers import significant, times
from autoprec.report.outcomes import Outcome
from autoprec.types import Measurement, Role

LEVEL = 1.25
"""Times whose medians are further apart, as a ratio, are not level, however noisy they are."""


def faster(outcome: Outcome) -> Measurement | None:
    """The baseline, where it is clearly faster than the choice: their p20 to p80 do not meet."""
    baseline, chosen = _both(outcome)
    if baseline is None or chosen is None or not baseline.apart(chosen):
        return None
    return baseline if baseline.median_ms < chosen.median_ms else None


def as_fast(outcome: Outcome) -> bool:
    """Whether the baseline and the choice are level: their p20 to p80 meet, near their medians."""
    ratio = _ratio(outcome)
    return ratio is not None and 1 / LEVEL <= ratio <= LEVEL


def inconclusive(outcome: Outcome) -> bool:
    """Whether their p20 to p80 meet although their medians are far apart: it is all noise."""
    return _ratio(outcome) is not None and not as_fast(outcome)


def _ratio(outcome: Outcome) -> float | None:
    """The baseline's median over the choice's, where their p20 to p80 meet; else None."""
    baseline, chosen = _both(outcome)
    if baseline is None or chosen is None or baseline.apart(chosen):
        return None
    return baseline.median_ms / chosen.median_ms


def sentence(outcome: Outcome) -> str:
    """Says that a baseline is faster, with both times; "" where none is."""
    baseline, chosen = faster(outcome), outcome.chosen
    if baseline is None or chosen is None:
        return ""
    its, mine = baseline.median_ms, chosen.measurement.median_ms
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
