"""How many draws stand behind a bound.

The largest of n independent draws is above the 95th percentile of all draws with a probability of
1 - 0.95^n, whatever their distribution: 59 draws give 95 %.
"""

import math

PERCENTILE = 0.95
"""The part of draws that a bound is to hold for."""


def draws_needed(confidence: float) -> int:
    """Draws whose largest bounds the 95th percentile with a confidence from 0 to below 1."""
    draws = math.log1p(-confidence) / math.log(PERCENTILE)
    return math.ceil(draws - 1e-4)  # the confidence of n draws, rounded, must not ask for n + 1


def confidence_of(draws: int) -> float:
    """The confidence with which the largest of so many draws bounds the 95th percentile."""
    return 1 - PERCENTILE**draws
