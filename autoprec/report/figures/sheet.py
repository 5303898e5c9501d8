"""Figures on one sheet."""

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Sheet

from autoprec.report.figures import draw_heat, draw_pareto, draw_speed
from autoprec.report.figures.figure import Figure
from autoprec.report.figures.heat import Heat
from autoprec.report.figures.pareto import Pareto
from autoprec.report.figures.speed import Speed


def sheet(figures: Sequence[Figure], columns: int, width: float, height: float) -> Sheet:
    """Figures on one sheet, in rows.

    Args:
        figures: At least one.
        columns: In a row.
        width: Of each, inches.
        height: Of each, inches.
    """
    rows = math.ceil(len(figures) / columns)
    paper = Sheet(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(paper)
    grid = list(paper.subplots(rows, columns, squeeze=False).flat)
    settle = [_draw(figure, axes) for figure, axes in zip(figures, grid, strict=False)]
    for axes in grid[len(figures) :]:
        axes.remove()
    paper.draw_without_rendering()
    paper.set_layout_engine("none")  # labels are placed by pixel now
    for put in settle:
        put()
    return paper


def _draw(figure: Figure, axes: Axes) -> Callable[[], None]:
    """Draw a figure; what is returned puts the labels in their places."""
    match figure:
        case Pareto():
            return draw_pareto.draw(figure, axes)
        case Speed():
            return draw_speed.draw(figure, axes)
        case Heat():
            draw_heat.draw(figure, axes)
            return lambda: None
