"""Few cases in which every two values of different factors meet."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Case = dict[str, Any]
_CANDIDATES = 30  # drawn for each case; the one that meets most new pairs is taken


def pairs(case: Case) -> set[tuple[str, Any, str, Any]]:
    """Every two factors of a case with their values."""
    return {(a, case[a], b, case[b]) for a, b in itertools.combinations(sorted(case), 2)}


def cover(
    factors: Mapping[str, Sequence[Any]], allowed: Callable[[Case], bool], seed: int = 0
) -> list[Case]:
    """Choose cases until every pair of values that an allowed case can hold has met.

    Args:
        factors: The values of each factor, hashable.
        allowed: Whether a case can be.
        seed: The same one gives the same cases.
    """
    draw = random.Random(seed)
    left: dict[tuple[str, Any, str, Any], None] = {}  # a dictionary, for its order
    for a, b in itertools.combinations(sorted(factors), 2):
        left |= {(a, x, b, y): None for x in factors[a] for y in factors[b]}
    cases: list[Case] = []
    while left:
        a, x, b, y = next(iter(left))  # the oldest pair is met now, or never
        met: list[Case] = []
        for _ in range(_CANDIDATES):
            case = {name: draw.choice(values) for name, values in factors.items()}
            case |= {a: x, b: y}
            if allowed(case):
                met.append(case)
        del left[a, x, b, y]
        if met:
            best = max(met, key=lambda case: len(pairs(case) & left.keys()))
            left = {pair: None for pair in left if pair not in pairs(best)}
            cases.append(best)
    return cases
