"""Same, faster, slower, or inconclusive: what two times say once their noise is known."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import measurement

from autoprec.report.change import SAME_WITHIN, Trend, change

TIGHT = {"n": 100}


def spread(p50_ms: float, part: float, **more: Any) -> Any:
    """A measurement whose p20 and p80 are a part away from the median."""
    return measurement(
        "fp16", p50_ms, p20_ms=p50_ms * (1 - part), p80_ms=p50_ms * (1 + part), **more
    )


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (spread(1.0, 0.01), spread(1.005, 0.01), "same"),
        (spread(1.0, 0.01), spread(1.1, 0.01), "1.10x slower"),
        (spread(1.1, 0.01), spread(1.0, 0.01), "1.10x faster"),
        (spread(1.0, 0.2), spread(1.1, 0.2), "inconclusive"),  # the ranges meet
        (spread(1.0, 0.02, n=1), spread(1.0, 0.02, n=1), "inconclusive"),  # one sample tells little
        (spread(1.0, 0.001), spread(1.04, 0.001), "1.04x slower"),
        (spread(1.0, 0.001), spread(1.02, 0.001), "same"),  # surely apart, and surely near
    ],
)
def test_what_is_said(a: Any, b: Any, said: str) -> None:
    assert str(change(a, b)) == said


times = st.builds(
    spread, st.floats(1e-3, 1e3), st.floats(0, 0.5), n=st.integers(min_value=1, max_value=200)
)


@given(times, times)
def test_the_other_way_round_is_the_opposite(a: Any, b: Any) -> None:
    there, back = change(a, b), change(b, a)
    opposite = {Trend.FASTER: Trend.SLOWER, Trend.SLOWER: Trend.FASTER}
    assert back.trend == opposite.get(there.trend, there.trend)
    assert back.ratio == pytest.approx(1 / there.ratio)


@given(times, times)
def test_what_is_said_is_never_within_the_noise(a: Any, b: Any) -> None:
    it = change(a, b)
    if it.trend in (Trend.FASTER, Trend.SLOWER):
        assert abs(math.log(it.ratio)) > it.noise
    if it.trend is Trend.SAME:
        assert abs(math.log(it.ratio)) + it.noise <= math.log1p(SAME_WITHIN)


def test_slower_than_a_limit_is_surely_slower() -> None:
    step = change(spread(1.0, 0.02, **TIGHT), spread(1.06, 0.02, **TIGHT))
    assert step.trend is Trend.SLOWER
    assert step.slower_than(0.04)
    assert not step.slower_than(0.06)  # 1.06 might be 1.05 as well
    assert not change(spread(1.0, 0.3), spread(1.2, 0.3)).slower_than(0.05)
