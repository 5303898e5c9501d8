"""What a report says, before it has a format: facts, sections of rows, sentences, records."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from autoprec.report.figures.figure import Figure

if TYPE_CHECKING:  # it takes longer to load than most reports take to make
    import pandas as pd


class Align(Enum):
    """How a column's cells stand under its title."""

    LEFT = "left"
    RIGHT = "right"
    POINT = "point"  # numbers, their decimal points below each other


@dataclass(frozen=True)
class Column:
    """A column of a section.

    Attributes:
        title: With the unit.
        align: How its cells stand.
        rank: Where there is no room for all columns, the highest rank goes first; 0 stays.
        fills: It takes the room that is left, over several lines, or goes where there is little.
    """

    title: str
    align: Align = Align.LEFT
    rank: int = 0
    fills: bool = False


@dataclass(frozen=True)
class Row:
    """Cells, one for each column of the section; ``marked`` is the row to look at."""

    cells: tuple[str, ...]
    marked: bool = False


@dataclass(frozen=True)
class Section:
    """Rows under one heading, sentences below them, and a command to copy.

    Attributes:
        folded: A page shows only the heading and the summary until it is asked for more.
        summary: What comes of it, in a word.
    """

    heading: str
    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    folded: bool = False
    summary: str = ""


@dataclass(frozen=True)
class Document:
    """A report for people, and the same for programs.

    Attributes:
        facts: What it is about, as (name, value).
        sentences: What there is to know, most important first.
        sections: The tables.
        notes: Remarks after the tables.
        records: Makes ``frame``; what is not asked for is not made.
        kicker: Device and date in a line, for the top of a page.
        verdict: The whole report in one sentence, for the top of a page; else the first sentence.
        figures: What a page shows as pictures.
        folded_heading: What all folded sections are.
    """

    facts: tuple[tuple[str, str], ...]
    sentences: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    records: Callable[[], "pd.DataFrame"]
    kicker: str = ""
    verdict: str = ""
    figures: tuple[Figure, ...] = ()
    folded_heading: str = ""

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """One row per record, for the formats that programs read."""
        return self.records()
