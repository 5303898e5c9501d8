"""Colours and settings of all pictures."""

from typing import Any

INK, MUTED, FAINT, PAPER = "#1b1f23", "#5c6670", "#d5dae0", "#fffffe"
ON_COLOUR = "#101214"
CHOSEN, OVER = "#0a7a5f", "#b8480e"
SERIES = ("#0a7a5e", "#2f6fc4", "#c0700c", "#a83f86", "#6a5fd0", "#607a14")
"""Colours; a page may replace each by another that stands on a dark ground."""
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "text.parse_math": False,
}
"""Settings of matplotlib under which everything is drawn."""
