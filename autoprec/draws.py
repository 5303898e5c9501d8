"""How many draws stand behind a bound.

The largest of n independent draws is above the 95th percentile of all draws with a probability of
1 - 0.95^n, whatever their distribution: 59 draws give 95 %.
"""

import math
from collections.abc import Iterable, Mapping

PERCENTILE = 0.95
"""The part of draws that a bound is to hold for."""


def draws_needed(confidence: float) -> int:
    """Draws whose largest bounds the 95th percentile with a confidence from 0 to below 1."""
    draws = math.log1p(-confidence) / math.log(PERCENTILE)
    return math.ceil(draws - 1e-4)  # the confidence of n draws, rounded, must not ask for n + 1


def confidence_of(draws: int) -> float:
    """The confidence with which the largest of so many draws bounds the 95th percentile."""
    return 1 - PERCENTILE**draws


def percent_sure(confidence: float) -> str:
    """A confidence in percent, such as ``96``, ``99.5`` and ``99.99``: never certainty."""
    texts = (f"{100 * confidence:.{digits}f}" for digits in range(3))
    return next((text for text in texts if float(text) < 100), "over 99.99")


def fewest(captured: Iterable[Mapping[str, int]], below: int) -> tuple[str, int] | None:
    """The captured family with the fewest heads, and how many; None where all have enough.

    Args:
        captured: Of rows: families all of whose heads were drawn, and how many these are.
        below: What is enough.
    """
    few = [it for its in captured for it in its.items() if it[1] < below]
    return min(few, key=lambda it: it[1], default=None)


def all_heads(family: str, heads: int) -> str:
    """Such as ``all 30 heads of captured``."""
    return f"all {heads} heads of {family}" if heads > 1 else f"the one head of {family}"


def beside(draws: int, captured: Mapping[str, int]) -> str:
    """What to say behind a number of draws where captured families had fewer heads; or ""."""
    few = fewest([captured], draws)
    return f", and {percent_sure(confidence_of(few[1]))} % from {all_heads(*few)}" if few else ""
