"""Drawing speed against error."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autoprec.report.figures.axes import box_of, plain_log, settle, titled
from autoprec.report.figures.pareto import Kind, Mark, Pareto, frontier
from autoprec.report.figures.placing import Box
from autoprec.report.figures.style import CHOSEN, INK, MUTED, OVER, PAPER
from autoprec.report.held import MARK

_MARKS: dict[Kind, dict[str, Any]] = {
    Kind.CHOSEN: {"marker": "o", "ms": 6.6, "mfc": CHOSEN, "mec": CHOSEN, "zorder": 5},
    Kind.CANDIDATE: {"marker": "o", "ms": 5, "mfc": PAPER, "mec": INK, "zorder": 4},
    Kind.BASELINE: {"marker": "s", "ms": 4.8, "mfc": PAPER, "mec": MUTED, "zorder": 4},
}
_TEXT = {Kind.CHOSEN: CHOSEN, Kind.CANDIDATE: INK, Kind.BASELINE: MUTED}


def draw(it: Pareto, axes: Axes) -> Callable[[], None]:
    """Draw it; what is returned puts the labels in their places, once the layout is known."""
    over = f"mean of {it.workloads} workloads, bars: range" if it.workloads > 1 else ""
    signs = ["● chosen", "○ path", "□ baseline", "– best of each error"]
    titled(axes, it.title, over, *signs, *([f"{MARK} of fewer inputs"] if it.partial else []))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"error, {it.metric}  (less is to the left)")
    axes.set_ylabel(f"speed, times the {'fastest baseline' if it.relative else 'fastest'}")
    for mark in it.marks:
        x, y = mark.error, mark.speed
        for bar in ([x.low, x.high], [y.mean, y.mean]), ([x.mean, x.mean], [y.low, y.high]):
            axes.plot(*bar, color=_TEXT[mark.kind], lw=0.7, alpha=0.5)
        axes.plot(x.mean, y.mean, mew=1.1, **_MARKS[mark.kind])
    _limits(axes, it)
    best = [(mark.error.mean, mark.speed.mean) for mark in frontier(it.marks)]
    steps = [corner for (_, y), to in itertools.pairwise(best) for corner in ((to[0], y), to)]
    axes.plot(*zip(best[0], *steps, strict=True), color=CHOSEN, lw=1, alpha=0.45, zorder=2)
    axes.axhline(1, color=MUTED, lw=0.7, alpha=0.7)
    budget = [] if it.bound is None else [_budget(axes, it.bound)]
    first = sorted(it.marks, key=lambda mark: (list(Kind).index(mark.kind), mark.error.mean))
    return lambda: _label(axes, first, budget, it.bound)


def _budget(axes: Axes, bound: float) -> Text:
    """The line beyond which errors are over the budget, and its name."""
    axes.axvspan(bound, axes.get_xlim()[1], color=OVER, alpha=0.07, lw=0)
    axes.axvline(bound, color=OVER, lw=1.1, ls=(0, (4, 2)))
    return axes.annotate(
        f"budget {bound:g}", (bound, 1), xycoords=("data", "axes fraction"),
        xytext=(-3, -3), textcoords="offset points", ha="right", va="top", color=OVER,
    )  # fmt: skip


def _limits(axes: Axes, it: Pareto) -> None:
    """Room around the marks for their labels; at least two decades of error."""
    errors = [value for mark in it.marks for value in (mark.error.low, mark.error.high)]
    speeds = [value for mark in it.marks for value in (mark.speed.low, mark.speed.high)]
    errors += [] if it.bound is None else [it.bound]
    low, high = math.log10(min(errors)), math.log10(max(errors))
    pad = max(0.09 * (high - low), (2 - (high - low)) / 2, 0.15)
    axes.set_xlim(10 ** (low - pad), 10 ** (high + pad))
    low, high = math.log10(min(*speeds, 1)), math.log10(max(*speeds, 1))
    pad = max(0.1 * (high - low), (0.5 - (high - low)) / 2, 0.05)
    axes.set_ylim(10 ** (low - pad), 10 ** (high + 1.4 * pad))
    axes.xaxis.set_major_locator(FixedLocator(_decades(axes.get_xlim())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axes.xaxis.set_minor_locator(NullLocator())
    plain_log(axes, "x")


def _decades(limits: tuple[float, float]) -> list[float]:
    low, high = (math.log10(value) for value in limits)
    step = max(1, math.ceil((high - low) / 6))
    return [10.0**i for i in range(math.ceil(low), math.floor(high) + 1, step)]


def _label(axes: Axes, marks: Sequence[Mark], taken: Sequence[Text], bound: float | None) -> None:
    """Put the labels beside their marks, each on one side of the budget's line."""
    texts = [
        axes.text(
            0, 0, mark.label, color=_TEXT[mark.kind], fontsize=8,
            fontweight="bold" if mark.kind is Kind.CHOSEN else "normal", zorder=6,
        )
        for mark in marks
    ]  # fmt: skip
    points = [(mark.error.mean, mark.speed.mean) for mark in marks]
    boxes = [box_of(text) for text in taken]
    if bound is not None:
        at, frame = float(axes.transData.transform((bound, 1))[0]), axes.get_window_extent()
        boxes.append(Box(at, frame.y0, at, frame.y1).around(1))
    settle(axes, texts, points, boxes)
