"""A report as GitHub markdown."""

import re
from collections.abc import Iterable

from autoprec.report.document import Align, Document, Row, Section

# What GitHub would read as markup; an underscore inside a word is none.
_MARKUP = re.compile(r"[\\`*|<>\[\]~&#]|(?<![^\W_])_|_(?![^\W_])")


def render(document: Document) -> str:
    """The facts and sentences, a table for each section, the notes; ends in a line feed."""
    blocks = [
        _list(f"**{escaped(name)}**: {escaped(value)}" for name, value in document.facts),
        *(escaped(sentence) for sentence in document.sentences),
        *(block for section in document.sections for block in _section(section)),
        _list(escaped(note) for note in document.notes),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(text: str) -> str:
    """The text on one line, with nothing in it that GitHub takes for markup."""
    return _MARKUP.sub(lambda match: "\\" + match[0], " ".join(text.split()))


def _section(section: Section) -> Iterable[str]:
    yield f"### {escaped(section.heading)}"
    if section.rows:
        titles = " | ".join(escaped(column.title) for column in section.columns)
        rules = " | ".join(
            "---" if column.align is Align.LEFT else "---:" for column in section.columns
        )
        rows = (f"| {_cells(row)} |" for row in section.rows)
        yield "\n".join([f"| {titles} |", f"| {rules} |", *rows])
    yield _list(escaped(note) for note in section.notes)
    if section.command:
        yield f"```\n{section.command}\n```"


def _cells(row: Row) -> str:
    first, *others = (escaped(cell) for cell in row.cells)
    return " | ".join([f"**{first}**" if row.marked else first, *others])


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
