"""What became of a time between two profiles, with the noise of both taken into account."""

import math
from dataclasses import dataclass
from enum import StrEnum

from autoprec.report.numbers import times
from autoprec.types import Measurement

SAME_WITHIN = 0.03
"""Two times are the same where they surely differ by no more than this part."""

_SURE = 1.96  # standard errors on either side that hold 95 % of what can be
_SPREAD = 1.683  # standard deviations from the 20th to the 80th percentile of a normal spread
_MEDIAN = 1.253  # standard error of a median over that of a mean


class Trend(StrEnum):
    """Which way a time went."""

    SAME = "same"
    FASTER = "faster"
    SLOWER = "slower"
    INCONCLUSIVE = "inconclusive"  # the noise is larger than what is to be known


@dataclass(frozen=True)
class Change:
    """From one time to another.

    Attributes:
        ratio: The second median over the first.
        noise: The natural logarithm of the ratio is off by no more, with 95 % confidence.
    """

    trend: Trend
    ratio: float
    noise: float

    def slower_than(self, limit: float) -> bool:
        """Whether it is surely slower by more than a part, such as 0.05."""
        return self.trend is Trend.SLOWER and (
            math.log(self.ratio) - self.noise > math.log1p(limit)
        )

    def __str__(self) -> str:
        """Such as ``1.25x faster``, ``1.10x slower``, ``same``, ``inconclusive``."""
        if self.trend in (Trend.SAME, Trend.INCONCLUSIVE):
            return self.trend.value
        return faster(1 / self.ratio)


def change(a: Measurement, b: Measurement) -> Change:
    """From one measurement to another; both have times.

    They differ where the medians differ by more than their own uncertainty, and the ranges from
    the 20th to the 80th percentile do not meet: a machine drifts more between two runs than
    within one, which the uncertainty of a median does not know.
    """
    ratio = b.median_ms / a.median_ms
    noise = _SURE * math.hypot(_uncertainty(a), _uncertainty(b))
    step = abs(math.log(ratio))
    if step + noise <= math.log1p(SAME_WITHIN):
        trend = Trend.SAME
    elif a.apart(b) and step > noise:
        trend = Trend.SLOWER if ratio > 1 else Trend.FASTER
    else:
        trend = Trend.INCONCLUSIVE
    return Change(trend, ratio, noise)


def faster(ratio: float) -> str:
    """A ratio of times in words: ``1.25x faster``, ``1.10x slower``, ``as fast``."""
    if times(ratio) == times(1.0):
        return "as fast"
    return f"{times(ratio)} faster" if ratio > 1 else f"{times(1 / ratio)} slower"


def _uncertainty(it: Measurement) -> float:
    """The standard error of a median, as a part of it."""
    low, high = it.spread_ms
    deviation = (high - low) / _SPREAD
    return _MEDIAN * deviation / math.sqrt(max(it.n, 1)) / it.median_ms
