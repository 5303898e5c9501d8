"""A report as text, for a terminal or a file: aligned, and no number cut off."""

import io
import shutil
import sys
import textwrap

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autoprec.report.document import Document
from autoprec.report.layout import GAP, Laid, laid_out, left_out

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
        colour = Console(file=sys.stdout).color_system is not None
    laid = laid_out(document.sections, width)
    file = io.StringIO()
    console = Console(
        file=file,
        width=max([width, *(table.width for table in laid)]),
        color_system="standard" if colour else None,
        force_terminal=colour,
        legacy_windows=False,
    )
    longest = max((cell_len(name) for name, _ in document.facts), default=0)
    for name, value in document.facts:
        _say(console, value, width, f"{name:<{longest + GAP}}")
    if document.facts and document.sentences:
        console.print()
    for position, sentence in enumerate(document.sentences):
        _say(console, sentence, width, style="" if position else "bold")
    for section, table in zip(document.sections, laid, strict=True):
        console.print()
        _say(console, section.heading, width, style="bold")
        if section.rows:
            console.print(_rich(table))
        for note in section.notes:
            _say(console, note, width, "- ")
        if section.command:
            console.print(Text(section.command), soft_wrap=True)
    notes = [*document.notes, *left_out(document.sections, laid)]
    if notes:
        console.print()
    for note in notes:
        _say(console, note, width, "- ")
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def _say(console: Console, text: str, width: int, indent: str = "", style: str = "") -> None:
    """A paragraph; what hangs from it is indented as far as its start."""
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=" " * cell_len(indent),
        break_long_words=False,  # a path of a file, or a command's option
        break_on_hyphens=False,
    )
    console.print(Text("\n".join(lines), style=style), soft_wrap=True)


def _rich(laid: Laid) -> Table:
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    for column, width in zip(laid.columns, laid.widths, strict=True):
        table.add_column(Text(column.title), width=width, no_wrap=not column.fills, overflow="fold")
    for row in laid.rows:
        table.add_row(*map(Text, row.cells), style="bold green" if row.marked else "")
    return table
