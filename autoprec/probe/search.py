"""Which configuration is fastest: successive halving, and samples taken in turn.

Nothing here knows of kernels or clocks: ``time`` takes one sample of one arm, in milliseconds,
or gives infinity where the arm broke.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

Arm = TypeVar("Arm")

SLOW = 8.0
"""What is this many times slower than the fastest so far gets one sample and no more."""

_CHEAP_MS = 50.0

# One sample is off by this at most: what is further behind is slower. The mean of n by 1/√n of it.
_NOISE = 0.25


def sample(
    arms: Sequence[Arm],
    time: Callable[[Arm], float],
    taken: dict[Arm, list[float]],
    *,
    rounds: int,
    stop: Callable[[int], bool],
) -> None:
    """Take samples of every arm in turn, so that a drifting clock is the same for all.

    Args:
        arms: What to sample.
        time: Takes one sample.
        taken: Samples by arm, added to; what is there already counts for what is slow.
        rounds: Samples to add to each arm.
        stop: Given how many samples an arm has, whether there is no time for another. Every arm
            gets its first one.
    """
    fastest = min((ms for samples in taken.values() for ms in samples), default=math.inf)
    for _ in range(rounds):
        for arm in arms:
            samples = taken.setdefault(arm, [])
            if samples and (min(samples) > SLOW * fastest or stop(len(samples))):
                continue
            ms = time(arm)
            if SLOW * fastest < ms < _CHEAP_MS and not samples:
                again = time(arm)  # one hiccup must not decide
                ms = min(ms, again) if math.isfinite(again) else again
            samples.append(ms)
            fastest = min(fastest, ms)


def halve(
    groups: Sequence[Sequence[Arm]],
    time: Callable[[Arm], float],
    *,
    rounds: Sequence[int],
    stop: Callable[[int], bool],
    taken: dict[Arm, list[float]] | None = None,
) -> list[tuple[Arm, list[float]]]:
    """Find the fastest arm of each group, all groups side by side.

    Args:
        groups: The arms of each group, one or more, the safest first.
        time: Takes one sample.
        rounds: Samples that each arm still in the running gets in each round, until its group
            is decided.
        stop: As for ``sample``.
        taken: Where samples go; None where nobody wants them.

    Returns:
        For each group its fastest arm by the median, and the arm's samples.
    """
    taken = {} if taken is None else taken
    alive = [list(group) for group in groups]
    for number, count in enumerate(rounds):
        undecided = alive if number == 0 else [group for group in alive if len(group) > 1]
        sample(in_turn(undecided), time, taken, rounds=count, stop=stop)
        alive = [_still_running(group, taken) for group in alive]
    return [(group[0], taken[group[0]]) for group in alive]


def near(group: Sequence[Arm], taken: Mapping[Arm, list[float]]) -> list[Arm]:
    """Those of a group that are not far behind its fastest, the fastest first."""
    ranked, behind = _ranked(group, taken)
    return [arm for arm in ranked if behind[arm] <= 2 * _NOISE]


def _still_running(group: list[Arm], taken: dict[Arm, list[float]]) -> list[Arm]:
    """The faster half without what is far behind, and all that may be the fastest; in order."""
    ranked, behind = _ranked(group, taken)
    noise = _NOISE / math.sqrt(len(taken[ranked[0]]))
    close, not_far = (sum(it <= times * noise for it in behind.values()) for times in (1, 2))
    return ranked[: max(close, min(math.ceil(len(ranked) / 2), not_far))]


def _ranked(
    group: Sequence[Arm], taken: Mapping[Arm, list[float]]
) -> tuple[list[Arm], dict[Arm, float]]:
    """A group by the median, and how far each is behind the first: 0.5 takes half as long again."""
    median = {arm: statistics.median(taken[arm]) for arm in group}
    ranked = sorted(group, key=lambda arm: median[arm])
    best = median[ranked[0]]
    return ranked, {
        arm: 0.0 if ms == best else ms / best - 1 if best else math.inf
        for arm, ms in median.items()
    }


def in_turn(groups: Iterable[Sequence[Arm]]) -> list[Arm]:
    """The first arm of each group, then the second of each, and so on."""
    return [arm for arms in itertools.zip_longest(*groups) for arm in arms if arm is not None]
