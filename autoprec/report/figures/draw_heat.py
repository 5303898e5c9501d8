"""Drawing the errors as a heat map."""

import math

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from autoprec.report.figures.axes import titled
from autoprec.report.figures.heat import Heat
from autoprec.report.figures.style import INK, MUTED, ON_COLOUR

_WITHIN = LinearSegmentedColormap.from_list("within", ["#e3f3ee", "#4fae92"])
_OVER = LinearSegmentedColormap.from_list("over", ["#f7c79f", "#d8702c"])


def draw(it: Heat, axes: Axes) -> None:
    """Draw it: the nearer to the budget, the darker, and over it in another colour."""
    within = "" if it.bound is None else f"; green: within the budget of {it.bound:g}"
    titled(axes, it.title, "", f"largest {it.metric}{within}")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    known = [_level(cell) for row in it.cells for cell in row if cell is not None]
    bound = max(known) if it.bound is None else _level(it.bound)
    least, most = min([*known, bound - 1]), max([*known, bound + 1])
    for y, row in enumerate(it.cells):
        for x, cell in enumerate(row):
            if cell is None:
                axes.text(x, y, "–", ha="center", va="center", color=MUTED)
                continue
            level = _level(cell)
            colour = _OVER((level - bound) / (most - bound))
            if level <= bound:
                colour = _WITHIN((level - least) / (bound - least))
            axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colour, lw=0))
            axes.text(x, y, f"{cell:.0e}", ha="center", va="center", color=ON_COLOUR, fontsize=7.5)
    axes.set_xlim(-0.5, len(it.columns) - 0.5)
    axes.set_ylim(len(it.rows) - 0.5, -0.5)
    axes.set_yticks(range(len(it.rows)), it.rows, color=INK)
    axes.set_xticks(range(len(it.columns)), it.columns, fontsize=7)


def _level(error: float) -> float:
    return math.log10(max(error, 1e-12))
