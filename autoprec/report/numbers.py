"""Numbers as people read them: three significant digits, never cut off."""

import math
from collections.abc import Iterable

MISSING = "-"
"""What stands where there is no number."""


def significant(value: float | None) -> str:
    """Three significant digits without an exponent: ``0.0421``, ``1.20``, ``2850``."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")  # first, so that 9.996 becomes 10.0 and not 10.00
    decimals = 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{max(decimals, 0)}f}"


def error(value: float | None) -> str:
    """A relative error: ``4.10e-04``."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.2e}"


def percent(share: float | None) -> str:
    """A share as a percentage, whole from 10 on: ``26%``, ``3.1%``."""
    if share is None or not math.isfinite(share):
        return MISSING
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.1f}%"


def times(ratio: float | None) -> str:
    """A ratio, with two decimals where it is small: ``0.86x``, ``5.02x``, ``12.5x``."""
    if ratio is None or not math.isfinite(ratio):
        return MISSING
    return f"{ratio:.2f}x" if 0.00995 <= ratio < 9.995 else f"{significant(ratio)}x"


def geometric_mean(ratios: Iterable[float]) -> float | None:
    """The geometric mean; None of nothing."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


def listed(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def counted(count: int, thing: str) -> str:
    """``1 workload``, ``2 workloads``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
