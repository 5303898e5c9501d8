import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprec.report.numbers import (
    counted,
    error,
    geometric_mean,
    listed,
    percent,
    significant,
    times,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04213, "0.0421"),
        (1.2, "1.20"),
        (9.996, "10.0"),
        (99.96, "100"),
        (0.09996, "0.100"),
        (2851.0, "2850"),
        (51.0, "51.0"),
        (785.4, "785"),
        (123456.0, "123000"),
        (0, "0"),
        (None, "-"),
        (math.nan, "-"),
    ],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-6, 1e9))
def test_no_more_than_half_of_the_third_digit_is_lost(value: float) -> None:
    assert abs(float(significant(value)) - value) <= 0.5e-2 * value * (1 + 1e-12)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.26, "26%"),
        (0.0314, "3.1%"),
        (0.0996, "10%"),
        (0.0994, "9.9%"),
        (1.12, "112%"),
        (None, "-"),
    ],
)
def test_percentages_are_whole_from_ten_on(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (5.016, "5.02x"),
        (0.862, "0.86x"),
        (0.0682, "0.07x"),
        (9.996, "10.0x"),
        (12.53, "12.5x"),
        (0.004213, "0.00421x"),
        (None, "-"),
        (math.inf, "-"),
    ],
)
def test_ratios_have_two_decimals_where_they_are_small(ratio: float | None, text: str) -> None:
    assert times(ratio) == text


def test_errors_have_an_exponent() -> None:
    assert error(4.104e-4) == "4.10e-04"
    assert error(None) == "-"


def test_geometric_mean() -> None:
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([]) is None


def test_words() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert counted(1, "row") == "1 row"
    assert counted(0, "row") == "0 rows"
