"""Fitting the columns of sections into a width: which of them stay, and how wide each one is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len

from autoprec.report.document import Align, Column, Row, Section

GAP = 2
"""Spaces between two columns."""

_MARK = "> "
_FILL_AT_LEAST = 32  # sentences in a narrower column are hard to read


@dataclass(frozen=True)
class Laid:
    """The columns of a section that fit, and the rows in them, aligned.

    Attributes:
        columns: Their titles aligned too.
        widths: Of each column, in columns of text.
        rows: Every cell as wide as its column, but those of a column that fills.
    """

    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    rows: tuple[Row, ...]


def laid_out(sections: Sequence[Section], width: int) -> list[Laid]:
    """Lay sections out in a width; those of the same kinds of columns, alike.

    Args:
        sections: What is to be shown.
        width: Columns of text.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, section in enumerate(sections):
        kinds = (
            section.columns and section.columns[0].title,
            *((column.align, column.rank, column.fills) for column in section.columns),
        )
        groups.setdefault(kinds, []).append(position)
    laid: dict[int, Laid] = {}
    for positions in groups.values():
        alike = _alike(_marked([sections[position] for position in positions]), width)
        laid.update(zip(positions, alike, strict=True))
    return [laid[position] for position in range(len(sections))]


def left_out(sections: Sequence[Section], laid: Sequence[Laid]) -> list[str]:
    """A sentence on the columns that did not fit, those that fill too; [] where all did."""
    gone = dict.fromkeys(
        column.title
        for section, its in zip(sections, laid, strict=True)
        if section.rows
        for column in section.columns
        if (column.rank, column.fills) not in {(kept.rank, kept.fills) for kept in its.columns}
    )
    if not gone:
        return []
    return [f"left out for want of width: {', '.join(gone)}; --format markdown has every column"]


def _marked(sections: Sequence[Section]) -> list[Section]:
    """Put the mark before the first cell of marked rows, and as much space before the others."""
    if not any(row.marked for section in sections for row in section.rows):
        return list(sections)
    space = " " * len(_MARK)
    return [
        replace(
            section,
            columns=tuple(
                column if i else replace(column, title=space + column.title)
                for i, column in enumerate(section.columns)
            ),
            rows=tuple(
                Row(((_MARK if row.marked else space) + first, *others), row.marked)
                for row in section.rows
                for first, *others in [row.cells]
            ),
        )
        for section in sections
    ]


def _alike(sections: Sequence[Section], width: int) -> list[Laid]:
    """Lay out sections of the same kinds of columns."""
    columns = sections[0].columns
    cells = [[row.cells[i] for s in sections for row in s.rows] for i in range(len(columns))]
    tails = [
        max(map(_tail, its), default=0) if column.align is Align.POINT else 0
        for column, its in zip(columns, cells, strict=True)
    ]
    needed = [
        max(
            *(cell_len(section.columns[i].title) for section in sections),
            *(_reach(cell, tail) for cell in cells[i]),
            0,
        )
        for i, tail in enumerate(tails)
    ]
    widths = _fitting(columns, needed, width)
    return [
        Laid(
            columns=tuple(
                replace(column, title=_justified(column.title, column, widths[i], 0))
                for i, column in enumerate(section.columns)
                if i in widths
            ),
            widths=tuple(widths.values()),
            rows=tuple(
                Row(
                    tuple(
                        _justified(row.cells[i], columns[i], its, tails[i])
                        for i, its in widths.items()
                    ),
                    row.marked,
                )
                for row in section.rows
            ),
        )
        for section in sections
    ]


def _fitting(columns: Sequence[Column], needed: Sequence[int], width: int) -> dict[int, int]:
    """The places of the columns that stay, and their widths: the highest rank goes first."""
    stay = [i for i, column in enumerate(columns) if not column.fills]
    while sum(needed[i] + GAP for i in stay) - GAP > width:
        last = max(columns[i].rank for i in stay)
        if not last:
            break
        stay = [i for i in stay if columns[i].rank != last]
    room = width - sum(needed[i] + GAP for i in stay)
    fills = [
        i
        for i, column in enumerate(columns)
        if column.fills and room >= min(_FILL_AT_LEAST, needed[i])
    ]
    return {i: min(needed[i], room) if i in fills else needed[i] for i in sorted([*stay, *fills])}


def _tail(cell: str) -> int:
    """How wide the point is, and what follows it."""
    point = cell.find(".")
    return 0 if point < 0 else len(cell) - point


def _reach(cell: str, tail: int) -> int:
    """How wide a cell is with the point in its place."""
    wide = len(cell) if cell.isascii() else cell_len(cell)
    return wide + max(tail - _tail(cell), 0) if tail else wide


def _justified(text: str, column: Column, width: int, tail: int) -> str:
    """A cell or title as wide as its column; sentences that fill are wrapped later."""
    space = " " * (width - _reach(text, tail))
    if column.fills:
        return text
    if column.align is Align.LEFT:
        return text + space
    return space + text + " " * max(tail - _tail(text), 0)
