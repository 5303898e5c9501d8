"""Drawing speed against the number of keys."""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autoprec.report.figures.axes import plain_log, settle, titled
from autoprec.report.figures.speed import Speed
from autoprec.report.figures.style import MUTED, SERIES


def draw(it: Speed, axes: Axes) -> Callable[[], None]:
    """Draw it; what is returned puts the labels in their places, once the layout is known."""
    left = f"{it.left_out} more not shown" if it.left_out else ""
    titled(axes, it.title, left, "— chosen", "┄ fastest baseline", "grey: what the ceilings allow")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("keys of each request, kv_len")
    axes.set_ylabel(it.unit)
    labels: list[tuple[Text, tuple[float, float]]] = []
    for roof in it.roofs:
        axes.plot(*zip(*roof.points, strict=True), color=MUTED, lw=1.4, alpha=0.6)
    for line, colour in zip(it.lines, SERIES, strict=False):
        for points, style, size in ((line.chosen, "-", 3.6), (line.baseline, ":", 2)):
            if points:
                xs, ys = zip(*points, strict=True)
                axes.plot(xs, ys, color=colour, ls=style, lw=1.6, marker="o", ms=size)
        if line.chosen:
            text = axes.text(0, 0, line.label, color=colour, fontsize=8, fontweight="bold")
            labels.append((text, line.chosen[-1]))
    for roof in it.roofs:
        text = axes.text(0, 0, roof.label, color=MUTED, fontsize=8)
        labels.append((text, roof.points[len(roof.points) // 2]))
    _limits(axes, it)
    return lambda: settle(axes, [text for text, _ in labels], [point for _, point in labels], [])


def _limits(axes: Axes, it: Speed) -> None:
    """Room at the right for the names of the lines."""
    lines = [points for line in it.lines for points in (line.chosen, line.baseline)]
    every = [point for points in (*lines, *(roof.points for roof in it.roofs)) for point in points]
    if not every:
        return
    lengths, rates = zip(*every, strict=True)
    short, long = min(lengths), max(lengths)
    axes.set_xlim(short / 1.25, long * 1.3 * (long / short) ** 0.22)
    axes.set_ylim(min(rates) / 1.4, max(rates) * 1.7)
    ticks = [2.0**i for i in range(40) if short <= 2**i <= long]
    axes.xaxis.set_major_locator(FixedLocator(ticks or sorted(set(lengths))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    plain_log(axes, "")
