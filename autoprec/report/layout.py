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
    """The columns of a section that fit, their widths, and the rows' cells in them."""

    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def width(self) -> int:
        """Columns of text that a line takes."""
        return sum(self.widths) + GAP * len(self.widths)


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
        alike = _fitted(_pointed(_marked([sections[i] for i in positions])), width)
        laid.update(zip(positions, alike, strict=True))
    return [laid[position] for position in range(len(sections))]


def left_out(sections: Sequence[Section], laid: Sequence[Laid]) -> list[str]:
    """A sentence on the columns that did not fit; [] where all did, but for those that fill."""
    gone = dict.fromkeys(
        column.title
        for section, its in zip(sections, laid, strict=True)
        for column in section.columns
        if not column.fills and column.rank not in {kept.rank for kept in its.columns}
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
            columns=(
                replace(section.columns[0], title=space + section.columns[0].title),
                *section.columns[1:],
            ),
            rows=tuple(
                replace(
                    row, cells=((_MARK if row.marked else space) + row.cells[0], *row.cells[1:])
                )
                for row in section.rows
            ),
        )
        for section in sections
    ]


def _pointed(sections: Sequence[Section]) -> list[Section]:
    """Pad numbers on their right, so that in a flush right column the points stand in line."""
    columns = sections[0].columns
    tails = [
        max((len(_tail(row.cells[i])) for section in sections for row in section.rows), default=0)
        if column.align is Align.POINT
        else 0
        for i, column in enumerate(columns)
    ]
    return [
        replace(
            section,
            rows=tuple(
                replace(
                    row,
                    cells=tuple(
                        cell + " " * max(tail - len(_tail(cell)), 0)
                        for cell, tail in zip(row.cells, tails, strict=True)
                    ),
                )
                for row in section.rows
            ),
        )
        for section in sections
    ]


def _tail(cell: str) -> str:
    """The point and what follows it."""
    return "".join(cell.partition(".")[1:])


def _fitted(sections: Sequence[Section], width: int) -> list[Laid]:
    """Leave columns out, the highest rank first, until the others fit."""
    columns = sections[0].columns
    needed = [
        max(cell_len(text) for s in sections for text in (s.columns[i].title, *_cells(s, i)))
        for i in range(len(columns))
    ]
    stay = [i for i, column in enumerate(columns) if not column.fills]
    while sum(needed[i] + GAP for i in stay) - GAP > width:
        first = max(stay, key=lambda i: columns[i].rank)
        if not columns[first].rank:
            break
        stay = [i for i in stay if columns[i].rank != columns[first].rank]
    for i, column in enumerate(columns):
        room = width - sum(needed[j] + GAP for j in stay)
        if column.fills and room >= min(_FILL_AT_LEAST, needed[i]):
            needed[i] = min(room, needed[i])
            stay.append(i)
    return [
        Laid(
            tuple(section.columns[i] for i in stay),
            tuple(needed[i] for i in stay),
            tuple(replace(row, cells=tuple(row.cells[i] for i in stay)) for row in section.rows),
        )
        for section in sections
    ]


def _cells(section: Section, i: int) -> list[str]:
    return [row.cells[i] for row in section.rows]
