"""The formats by name: each makes text of a document."""

from collections.abc import Callable

from autoprec.errors import InputError
from autoprec.report.document import Document
from autoprec.report.formats import csv, json, markdown, table


def _html(document: Document) -> str:
    from autoprec.report.formats import html  # not before it is wanted: it takes long to load

    return html.render(document)


FORMATS: dict[str, Callable[[Document], str]] = {
    "table": table.render,
    "markdown": markdown.render,
    "csv": csv.render,
    "json": json.render,
    "html": _html,
}
"""What ``--format`` takes."""


def write(document: Document, format: str) -> str:
    """A document in a format, ending in a line feed.

    Args:
        document: What to say.
        format: A name of FORMATS.

    Raises:
        InputError: There is no such format.
    """
    if format not in FORMATS:
        raise InputError(
            f"the format {format!r} is not one of {', '.join(FORMATS)}.", "--format table"
        )
    return FORMATS[format](document)
