"""Figures as SVG or PNG."""

import contextlib
import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence

import matplotlib as mpl

from autoprec.report.figures.figure import Figure
from autoprec.report.figures.heat import Heat
from autoprec.report.figures.sheet import sheet
from autoprec.report.figures.style import PAPER, STYLE

_WIDTH, _HEIGHT = 4.5, 3.7  # inches: text of 8 points can still be read where 390 pixels are all
_ROW, _AROUND = 0.26, 1.35  # of a heat map, inches

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_NUMBER = re.compile(r"(\d\.\d\d)\d+")
_FONT = re.compile(r"font-family: [^;]*; ")


def svg(figures: Sequence[Figure], salt: str = "", paper: str = PAPER) -> str:
    """Figures as one SVG image, text as text.

    Args:
        figures: At least one.
        salt: Tells the names within this image from those of another one on the same page.
        paper: The colour behind everything.
    """
    with _settings(salt):
        buffer = io.StringIO()
        drawn = sheet(figures, _columns(figures), *_size(figures))
        about = {"Date": None, "Creator": None}
        drawn.savefig(buffer, format="svg", metadata=about, facecolor=paper)
    return buffer.getvalue()


@contextlib.contextmanager
def _settings(salt: str = "") -> Iterator[None]:
    """Our settings of matplotlib, and no word on letters that its font lacks: a page's has them."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"autoprec{salt}"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def inline(figure: Figure, told: str, salt: str) -> str:
    """A figure as an ``<svg>`` element of a page, without what only a file needs.

    Args:
        figure: What to draw.
        told: What it shows, in words.
        salt: As for ``svg``.
    """
    root = ElementTree.fromstring(svg([figure], salt, paper="none"))
    _lighten(root)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {"role": "img", "aria-label": told, "viewBox": box}
    return ElementTree.tostring(root, encoding="unicode")


def _lighten(root: ElementTree.Element) -> None:
    """Take out what a page does not need: groups without a meaning, fonts, spaces, digits."""
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.text, element.tail = (_stripped(it) for it in (element.text, element.tail))
        for name, value in list(element.attrib.items()):
            plain = _NUMBER.sub(r"\1", _FONT.sub("", " ".join(value.split())))
            del element.attrib[name]
            if not plain.startswith("rotate(-0 "):
                element.attrib[name.removeprefix(_XLINK)] = plain
        if element.tag == "g":
            element.attrib.pop("id", None)
    for parent in list(root.iter()):
        for child in [it for it in parent if it.tag in ("metadata", "style")]:
            parent.remove(child)
        while groups := [it for it in parent if it.tag == "g" and not it.attrib]:
            for group in groups:
                at = list(parent).index(group)
                parent[at : at + 1] = list(group)


def _stripped(text: str | None) -> str | None:
    return (text and text.strip()) or None


def png(figures: Sequence[Figure], dpi: int = 160) -> bytes:
    """Figures as one PNG image, on white.

    Args:
        figures: At least one.
        dpi: Pixels per inch.
    """
    with _settings():
        buffer = io.BytesIO()
        drawn = sheet(figures, _columns(figures), *_size(figures))
        drawn.savefig(buffer, format="png", dpi=dpi, facecolor=PAPER)
    return buffer.getvalue()


def _columns(figures: Sequence[Figure]) -> int:
    return min(len(figures), 3 if len(figures) % 3 == 0 else 2)


def _size(figures: Sequence[Figure]) -> tuple[float, float]:
    """Inches of each: a heat map is as high as its rows need."""
    rows = max((len(it.rows) for it in figures if isinstance(it, Heat)), default=0)
    return _WIDTH, _ROW * rows + _AROUND if rows else _HEIGHT
