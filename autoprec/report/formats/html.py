"""A report as one page: no file beside it, nothing from a network, below 500 kB."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jinja2
from markupsafe import Markup, escape

from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.figures import pictures
from autoprec.report.figures.figure import Figure, told
from autoprec.report.figures.style import CHOSEN, FAINT, INK, MUTED, OVER, PAPER, SERIES
from autoprec.report.numbers import counted

MAX_BYTES = 500_000
"""No page is larger."""

_FIGURES_BYTES = 260_000
_FRAME_BYTES = 15_000  # of the page around what is counted

_COLOURS = {
    INK: "--ink", MUTED: "--muted", FAINT: "--faint", PAPER: "--paper", CHOSEN: "--chosen",
    OVER: "--over", **{colour: f"--s{i}" for i, colour in enumerate(SERIES)},
}  # fmt: skip

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class _Head:
    """A column's title, and whether numbers stand below it."""

    title: str
    number: bool


@dataclass(frozen=True)
class _Shown:
    """A section as the template needs it; sections of one kind have the same columns."""

    heading: str
    summary: str
    kind: int
    columns: tuple[_Head, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    command: str


def render(document: Document) -> str:
    """The verdict, the pictures, the tables, and what they are of; ends in a line feed.

    What would make it larger than MAX_BYTES is left out, and a note says so: pictures of later
    phases, and sections that are shown folded.

    Args:
        document: What to say.
    """
    kinds: dict[tuple[Column, ...], int] = {}
    for section in document.sections:
        kinds.setdefault(section.columns, len(kinds))
    shown = [(section.folded, _shown(section, kinds)) for section in document.sections]
    always = [it for folded, it in shown if not folded]
    folded = [it for folded, it in shown if folded]
    drawn = _as_many(_drawn(document.figures), _FIGURES_BYTES, len)
    rest = MAX_BYTES - _FRAME_BYTES - sum(len(it.encode()) for it in drawn)
    rest -= sum(map(_bytes, always)) + sum(len(note.encode()) + 10 for note in document.notes)
    kept = _as_many(folded, rest, _bytes)
    verdict, *sentences = [*filter(None, (document.verdict, *document.sentences)), ""]
    page = _template().render(
        title=f"autoprec: {verdict}" if verdict else "autoprec",
        kicker=document.kicker,
        verdict=verdict,
        sentences=[sentence for sentence in sentences if sentence],
        figures=[Markup(it) for it in drawn],
        always=always,
        folded=kept,
        folded_heading=document.folded_heading,
        facts=document.facts,
        notes=(*document.notes, *_left_out(document, len(drawn), len(folded) - len(kept))),
        rules=Markup("\n".join(_rules(kinds))),
    )
    return f"{page.rstrip()}\n"


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("autoprec.report.formats", "page")
    return jinja2.Environment(loader=loader, autoescape=True).get_template("page.html")


def _shown(section: Section, kinds: dict[tuple[Column, ...], int]) -> _Shown:
    return _Shown(
        heading=section.heading,
        summary=section.summary,
        kind=kinds[section.columns],
        columns=tuple(_Head(it.title, it.align is not Align.LEFT) for it in section.columns),
        rows=section.rows,
        notes=section.notes,
        command=section.command,
    )


def _drawn(figures: Sequence[Figure]) -> Iterator[str]:
    """Each figure as an element, in the page's own colours."""
    for number, figure in enumerate(figures):
        text = pictures.inline(figure, told(figure), str(number))
        for colour, name in _COLOURS.items():
            text = text.replace(f": {colour}", f": var({name})")
        yield text


def _as_many(parts: Iterable[_Part], room: int, size: Callable[[_Part], int]) -> list[_Part]:
    """The first of the parts, as many as there is room for."""
    kept: list[_Part] = []
    for part in parts:
        room -= size(part)
        if room < 0:
            break
        kept.append(part)
    return kept


def _bytes(section: _Shown) -> int:
    """About how long a section is on the page; no less."""
    cells = (cell for row in section.rows for cell in row.cells)
    texts = [section.heading, section.summary, *section.notes, section.command]
    return (
        200
        + 80 * len(section.columns)
        + sum(len(str(escape(text)).encode()) + 10 for text in texts)
        + sum(len(str(escape(cell)).encode()) + 4 for cell in cells)
        + 16 * len(section.rows)
    )


def _left_out(document: Document, drawn: int, folded: int) -> Iterator[str]:
    """What there was no room for."""
    pictures_ = len(document.figures) - drawn
    if pictures_:
        yield (
            f"{counted(pictures_, 'picture')} left out to keep this page below "
            f"{MAX_BYTES // 1000} kB; --format png has all of them"
        )
    if folded:
        yield (
            f"the tables of {counted(folded, 'workload')} left out to keep this page below "
            f"{MAX_BYTES // 1000} kB; --format markdown has all of them"
        )


def _rules(kinds: Iterable[tuple[Column, ...]]) -> Iterator[str]:
    """Style rules: numbers stand at the right; on a phone every cell says what it is."""
    for kind, columns in enumerate(kinds):
        for place, column in enumerate(columns, start=1):
            cell = f".k{kind} td:nth-child({place})"
            if column.align is not Align.LEFT:
                yield f"{cell} {{ text-align: right; white-space: nowrap; }}"
            if place == 1:
                continue
            if column.align is Align.LEFT and not column.fills and not column.rank:
                yield f"@media screen {{ {cell} {{ white-space: nowrap; }} }}"
            wide = f" {cell} {{ grid-column: 1 / -1; }}" if column.fills else ""
            label = f"{cell}::before {{ content: {_quoted(column.title)}; }}"
            yield f"@media screen and (max-width: 60rem) {{ {label}{wide} }}"


def _quoted(text: str) -> str:
    """A string of CSS that nothing in the text can end."""
    plain = "".join(c if c.isalnum() or c in " _-/%" else f"\\{ord(c):x} " for c in text)
    return f'"{plain}"'
