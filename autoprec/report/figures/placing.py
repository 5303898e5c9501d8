"""Where labels of points go, so that none lies on another, on a point, or outside the picture."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

_Boxes = NDArray[numpy.float64]  # [count, 4]: left, bottom, right, top

_DISTANCES = (7, 13, 21, 32, 46, 62, 80)
_ANGLES = (0, 180, 45, 315, 135, 225, 90, 270, 22, 338, 158, 202, 67, 293, 113, 247)
_APART = 1.5
_DOT = 4  # half the width of a point's mark

# What a place costs, in pixels of distance from its point: reaching outside, for each pixel;
# covering something; covering a short piece of a line.
_OUTSIDE, _COVERED, _CROSSED = 100.0, 300.0, 2.5


class Box(NamedTuple):
    """A rectangle, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def around(self, pad: float) -> "Box":
        """The rectangle with a margin."""
        return Box(self.left - pad, self.bottom - pad, self.right + pad, self.top + pad)


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    room: Box,
    taken: Sequence[Box] = (),
    lines: Sequence[Box] = (),
) -> list[Box]:
    """Put a label beside each point, the first points first.

    Args:
        points: In pixels.
        sizes: Width and height of each one's label.
        room: What labels must stay within.
        taken: What they must not cover, beside the points and each other.
        lines: Short pieces of what they had better not cover.

    Returns:
        Each label's rectangle: near its point and free; where there is no such place, the one that
        costs least.
    """
    blocked = [*taken, *(Box(x, y, x, y).around(_DOT) for x, y in points)]
    soft = _boxes(lines)
    placed: list[Box] = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        distances, places = _beside(x, y, width, height)
        roomy = places + _APART * numpy.array((-1, -1, 1, 1))
        areas = _shared(roomy, _boxes([*blocked, *placed]))
        reach = (numpy.array(room) - roomy) * (1, 1, -1, -1)
        cost = (
            distances
            + _OUTSIDE * numpy.maximum(reach, 0).sum(1)
            + (areas + _COVERED * (areas > 0)).sum(1)
            + _CROSSED * (_shared(places, soft) > 0).sum(1)
        )
        placed.append(Box(*map(float, places[cost.argmin()])))
    return placed


def _boxes(boxes: Sequence[Box]) -> _Boxes:
    return numpy.array(boxes, dtype=numpy.float64).reshape(-1, 4)


def _shared(these: _Boxes, those: _Boxes) -> NDArray[numpy.float64]:
    """The areas that rectangles share, ``[these, those]``."""
    low = numpy.maximum(these[:, None, :2], those[None, :, :2])
    high = numpy.minimum(these[:, None, 2:], those[None, :, 2:])
    shared: NDArray[numpy.float64] = numpy.maximum(high - low, 0).prod(2)
    return shared


def _beside(
    x: float, y: float, width: float, height: float
) -> tuple[NDArray[numpy.float64], _Boxes]:
    """Places for a label, and how far each is from the point; of equals the best angle first."""
    distances, places = [], []
    for distance in _DISTANCES:
        for rank, angle in enumerate(_ANGLES):
            c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            # straight above or below the label stands over its point, else beside it
            centre = x + (c * (distance + width / 2) if abs(c) > 0.3 else c * width)
            middle = y + s * (distance + height / 2)
            distances.append(distance + rank / 100)
            places.append(Box(centre, middle, centre, middle))
    half = numpy.array((-width, -height, width, height)) / 2
    return numpy.array(distances), _boxes(places) + half
