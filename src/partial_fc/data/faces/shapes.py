"""Flat coloured shapes in space, of which a face is made.

Space is in pixels of a 112×112 image: x to the right, y down, z to the viewer, the origin in the middle of
the head. P points in all, K expressions.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
"""Blue, green, red in [0, 255], the order that OpenCV draws in."""

EXPRESSIONS = ("smile", "open_mouth", "raise_brows", "frown", "close_eyes", "look_right", "look_down")

ARC = np.linspace(-1.0, 1.0, 9)
"""Places along a feature that is drawn from one corner to the other."""
BUMP = 1.0 - ARC**2
FLAT_BUMP = 1.0 - ARC**4

_TURN = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
DOT = CIRCLE[::2]

_SKULL_WIDTH, _SKULL_HEIGHT, _SKULL_DEPTH = 39.0, 58.0, 30.0


def hsv_to_bgr(hue: float, saturation: float, value: float) -> Colour:
    """The colour of a hue in degrees, saturation and value in [0, 1]."""

    def channel(offset: float) -> float:
        k = (offset + hue / 60.0) % 6.0
        return 255.0 * value * (1.0 - saturation * max(0.0, min(k, 4.0 - k, 1.0)))

    return channel(1.0), channel(3.0), channel(5.0)


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with a share in [0, 1] of `other`."""
    (b, g, r), (b2, g2, r2) = colour, other
    return b + (b2 - b) * share, g + (g2 - g) * share, r + (r2 - r) * share


def shade(colour: Colour, factor: float) -> Colour:
    """`colour` darker (factor < 1) or brighter."""
    b, g, r = colour
    return min(255.0, b * factor), min(255.0, g * factor), min(255.0, r * factor)


def skull_depth(x: np.ndarray, y: np.ndarray | float) -> np.ndarray:
    """z of the front of the head, an ellipsoid, at (x, y)."""
    inside = 1.0 - (x / _SKULL_WIDTH) ** 2 - (y / _SKULL_HEIGHT) ** 2
    return _SKULL_DEPTH * np.sqrt(np.maximum(0.02, inside))


def xy(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    """(n, 2) points from their coordinates, of which one may be a number."""
    points = np.empty((max(np.size(x), np.size(y)), 2))
    points[:, 0] = x
    points[:, 1] = y
    return points


def band(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The closed shape (2n, 2) between two curves over the same n places x."""
    return np.concatenate([xy(x, top), xy(x, bottom)[::-1]])


def there_and_back(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """What belongs to the two curves of a `band`, in the order of its points."""
    return np.concatenate([upper, lower[::-1]])


def mirrored(right_half: np.ndarray) -> np.ndarray:
    """The control points of a symmetric closed outline, whose first and last point lie on the axis."""
    return np.concatenate([right_half, right_half[-2:0:-1] * (-1.0, 1.0)])


def smooth(controls: np.ndarray) -> np.ndarray:
    """A closed Catmull-Rom spline through n control points, as (3n, 2) points of it."""
    return _spline_matrix(len(controls)) @ controls


@functools.cache
def _spline_matrix(controls: int) -> np.ndarray:
    t = np.arange(3)[:, None] / 3.0
    before, after = 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3
    weights = np.hstack([-t + 2 * t**2 - t**3, before, after, t**3 - t**2]) / 2
    matrix = np.zeros((3 * controls, controls))
    for c in range(controls):
        for k in range(4):
            matrix[3 * c : 3 * c + 3, (c + k - 1) % controls] += weights[:, k]
    return matrix


@dataclass(frozen=True, slots=True)
class Part:
    """One shape: the layer it is on, which points of the face are its corners, its colour."""

    layer: str
    points: slice
    colour: Colour


class ShapeList:
    """The shapes of a face, from the back to the front."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._points: list[np.ndarray] = []
        self._moves: list[tuple[int, slice, np.ndarray]] = []
        self._count = 0

    def add(
        self,
        layer: str,
        corners: np.ndarray,
        z: np.ndarray | float,
        colour: Colour,
        moves: Mapping[str, np.ndarray | tuple[float, float]] | None = None,
    ) -> None:
        """Puts a closed shape in front of those before it.

        `corners` (n, 2); `moves` names expressions and says where each takes the corners, (n, 2) or (2,).
        """
        points = np.empty((len(corners), 3))
        points[:, :2] = corners
        points[:, 2] = z
        where = slice(self._count, self._count + len(corners))
        self._count = where.stop
        self._points.append(points)
        self.parts.append(Part(layer, where, colour))
        for expression, move in (moves or {}).items():
            self._moves.append((EXPRESSIONS.index(expression), where, np.asarray(move)))

    def points_P3(self) -> np.ndarray:
        return np.concatenate(self._points)

    def moves_KP2(self) -> np.ndarray:
        """Where each expression takes every point, in full strength."""
        moves_KP2 = np.zeros((len(EXPRESSIONS), self._count, 2))
        for expression, where, move in self._moves:
            moves_KP2[expression, where] = move
        return moves_KP2
