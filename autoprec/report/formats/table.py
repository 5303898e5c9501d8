"""A report as text, for a terminal or a file: aligned, and no number cut off."""

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

from autoprec.report.document import Document, Section
from autoprec.report.formats.layout import GAP, Laid, laid_out, left_out

Paint = Callable[[str, str], str]
"""``(line, style)`` → the line, with what makes a terminal show it so."""

_PIPED_WIDTH = 100


def render(document: Document, width: int | None = None, colour: bool | None = None) -> str:
    """The facts, the sentences, the sections and the notes; ends in a line feed.

    Columns of a high rank are left out where there is no room. What is still too wide then stays
    too wide: nothing is cut off.

    Args:
        document: What to say.
        width: Columns of text; None for the terminal's, or 100 where there is none.
        colour: Whether to use colours and bold type; None for yes in a terminal.
    """
    width = width or shutil.get_terminal_size((_PIPED_WIDTH, 24)).columns
    if colour is None:
        console = Console(file=sys.stdout)
        colour = console.color_system is not None and not console.no_color
    paint = _coloured if colour else _plain
    laid = laid_out(document.sections, width)
    blocks = [
        _facts(document, width),
        [
            paint(line, "" if position else "bold")
            for position, sentence in enumerate(document.sentences)
            for line in _wrapped(sentence, width)
        ],
        *(
            list(_section(section, table, width, paint))
            for section, table in zip(document.sections, laid, strict=True)
        ),
        _notes((*document.notes, *left_out(document.sections, laid)), width),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _plain(line: str, style: str) -> str:
    return line.rstrip()


def _coloured(line: str, style: str) -> str:
    return Style.parse(style).render(line.rstrip(), color_system=ColorSystem.STANDARD)


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """The lines of a paragraph; what hangs from it is indented as far as its start."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=" " * cell_len(indent),
        break_long_words=False,  # a path of a file, or a command's option
        break_on_hyphens=False,
    )


def _facts(document: Document, width: int) -> list[str]:
    longest = max((cell_len(name) for name, _ in document.facts), default=0)
    return [
        line
        for name, value in document.facts
        for line in _wrapped(value, width, f"{name:<{longest + GAP}}")
    ]


def _notes(notes: tuple[str, ...], width: int) -> list[str]:
    return [line for note in notes for line in _wrapped(note, width, "- ")]


def _section(section: Section, laid: Laid, width: int, paint: Paint) -> Iterator[str]:
    yield paint(section.heading, "bold")
    if section.rows:
        yield paint(_joined([column.title for column in laid.columns]), "dim")
    for row in laid.rows:
        for line in _lines(row.cells, laid):
            yield paint(line, "bold green" if row.marked else "")
    yield from _notes(section.notes, width)
    if section.command:
        yield section.command


def _lines(cells: tuple[str, ...], laid: Laid) -> Iterator[str]:
    """A row's lines: more than one where a sentence fills its column."""
    stacks = [
        textwrap.wrap(cell, width) or [""] if column.fills else [cell]
        for cell, column, width in zip(cells, laid.columns, laid.widths, strict=True)
    ]
    for position in range(max(map(len, stacks))):
        yield _joined([
            stack[position] if position < len(stack) else " " * width
            for stack, width in zip(stacks, laid.widths, strict=True)
        ])  # fmt: skip


def _joined(cells: list[str]) -> str:
    return (" " * GAP).join(cells)
