"""A picture of the pairs that a model is most wrong about."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

WORST = 10
_SIDE, _TEXT_HEIGHT, _GAP, _COLUMNS = 112, 30, 8, 5


def worst_pairs(distance_P: np.ndarray, is_same_P: np.ndarray, threshold: float, count: int = WORST) -> np.ndarray:
    """The pairs farthest on the wrong side of the threshold, worst first; those nearest to it where few are wrong."""
    wrongness_P = np.where(is_same_P, distance_P - threshold, threshold - distance_P)
    return np.argsort(-wrongness_P, kind="stable")[:count]


def draw_pairs(
    pairs: np.ndarray,
    distance_P: np.ndarray,
    is_same_P: np.ndarray,
    load: Callable[[int, int], np.ndarray],
) -> np.ndarray:
    """`picture_HWC` uint8 RGB: the two images of each of `pairs` side by side, what they are, and their cosine.

    Args:
        load: `load(pair, 0 or 1)` gives an image, uint8 RGB (112, 112, 3).
    """
    rows = -(-len(pairs) // _COLUMNS)
    width, height = 2 * _SIDE + _GAP, _SIDE + _TEXT_HEIGHT + _GAP
    columns = min(_COLUMNS, len(pairs))
    picture = np.full((rows * height + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for place, pair in enumerate(pairs):
        top, left = _GAP + place // _COLUMNS * height, _GAP + place % _COLUMNS * (width + _GAP)
        for half in (0, 1):
            start = left + half * _SIDE
            picture[top : top + _SIDE, start : start + _SIDE] = load(int(pair), half)
        kind, colour = ("one person", (0, 110, 0)) if is_same_P[pair] else ("two people", (170, 0, 0))
        text = f"{pair}: {kind}, cos {1 - distance_P[pair] / 2:.3f}"
        at = (left, top + _SIDE + 18)
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return picture
