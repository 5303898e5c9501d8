"""What the pictures have in common: titles, plain ticks, and labels that find their place."""

import itertools
import math
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from autoprec.report.figures.placing import Box, place
from autoprec.report.figures.style import INK, MUTED

_PIECE = 6.0  # pixels
_SPACE = "\u2002 "  # a page would make one of several plain ones


def titled(axes: Axes, title: str, aside: str, *beneath: str) -> None:
    """Put a title over a picture, an aside at its right, and beneath it what marks mean."""
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10, pad=19, color=INK)
    axes.set_title(aside, loc="right", fontsize=7.5, pad=19, color=MUTED)
    line = axes.annotate(
        _SPACE.join(beneath), (0, 1), xycoords="axes fraction", xytext=(0, 5),
        textcoords="offset points", fontsize=7.5, color=MUTED,
    )  # fmt: skip
    line.set_in_layout(False)


def plain_log(axes: Axes, suffix: str) -> None:
    """Ticks of a logarithmic y axis at 1, 2 and 5, where there are few decades, as plain text."""
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if math.log10(high / low) < 2.2 else (1,)
    ticks = [
        step * 10.0**i
        for i in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for step in steps
    ]
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{suffix}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def settle(
    axes: Axes, texts: Sequence[Text], points: Sequence[tuple[float, float]], taken: list[Box]
) -> None:
    """Move texts beside their points; one that ends up far away gets a line to its point."""
    pixels = [tuple(map(float, axes.transData.transform(point))) for point in points]
    boxes = [box_of(text) for text in texts]
    sizes = [(box.right - box.left, box.top - box.bottom) for box in boxes]
    frame = axes.get_window_extent()
    room = Box(frame.x0, frame.y0, frame.x1, frame.y1)
    placed = place([(x, y) for x, y in pixels], sizes, room, taken, list(_strokes(axes)))
    back = axes.transData.inverted()
    for text, box, (x, y) in zip(texts, placed, pixels, strict=True):
        text.set_position(tuple(back.transform((box.left, (box.bottom + box.top) / 2))))
        text.set_verticalalignment("center")
        near_x = min(max(x, box.left), box.right)
        near_y = min(max(y, box.bottom), box.top)
        if math.hypot(near_x - x, near_y - y) > 16:
            ends = back.transform([(x, y), (near_x, near_y)])
            axes.plot(ends[:, 0], ends[:, 1], color=text.get_color(), lw=0.5, alpha=0.6, zorder=3)


def _strokes(axes: Axes) -> Iterator[Box]:
    """The lines drawn so far, in short pieces, in pixels."""
    for line in axes.lines:
        corners = line.get_transform().transform(line.get_xydata())
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            pieces = max(1, math.ceil(math.hypot(x1 - x0, y1 - y0) / _PIECE))
            for i in range(pieces):
                t, u = i / pieces, (i + 1) / pieces
                xs = sorted((x0 + t * (x1 - x0), x0 + u * (x1 - x0)))
                ys = sorted((y0 + t * (y1 - y0), y0 + u * (y1 - y0)))
                yield Box(xs[0], ys[0], xs[1], ys[1]).around(0.5)


def box_of(text: Text) -> Box:
    """Where a text stands, in pixels."""
    extent = text.get_window_extent()
    return Box(extent.x0, extent.y0, extent.x1, extent.y1)
