"""Faces to their place: a similarity transform that takes five landmarks to a template.

    M = argmin Σ_k |s·R·p_k + t − q_k|²          over scale s > 0, rotation R, shift t; p landmarks, q template

Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two Point Patterns" (PAMI 1991). In the plane,
points as complex numbers and p̄, q̄ their means, its closed form is one quotient:

    s·e^{iφ} = Σ conj(p_k − p̄)(q_k − q̄) / Σ |p_k − p̄|²          t = q̄ − s·e^{iφ}·p̄

K points. H, W height and width of an image in pixels, C its channels.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

TEMPLATE_52 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2) float64: x and y of left eye, right eye, nose, left and right mouth corner (left and right as one looks at
the image) in a 112×112 image. Glint360K, MS1M and the verification sets of InsightFace are aligned to it."""

TEMPLATE_SIDE = 112

_LEAST_CORRELATION = 1e-6
_LANDMARK_NUMBERS = 10


def template(image_size: int | tuple[int, int] = TEMPLATE_SIDE) -> np.ndarray:
    """`TEMPLATE_52` for an image of `image_size`, (H, W) or one number for both: (5, 2) float64.

    It is scaled by H/112 and centred in the width: (112, 96) is the older, narrow form, 8 pixels less on each side.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise ValueError(f"the image size is at least 1 pixel, got {image_size}")
    scale = height / TEMPLATE_SIDE
    return scale * TEMPLATE_52 - [(scale * TEMPLATE_SIDE - width) / 2, 0]


def estimate_similarity(source_K2: np.ndarray, target_K2: np.ndarray) -> np.ndarray:
    """`matrix_23` float64 with `target ≈ matrix_23 @ (x, y, 1)`, the least squares above.

    Args:
        source_K2, target_K2: (K, 2) x and y of the same K ≥ 2 points.

    Raises:
        ValueError: other shapes, numbers that are not finite, points that all fall together, or points whose best
            rotation is undetermined.
    """
    source_K2, target_K2 = np.asarray(source_K2, np.float64), np.asarray(target_K2, np.float64)
    if source_K2.shape != target_K2.shape or source_K2.ndim != 2 or source_K2.shape[1] != 2 or len(source_K2) < 2:
        raise ValueError(
            f"a similarity is estimated from two arrays (K, 2), K ≥ 2, got {source_K2.shape} and {target_K2.shape}"
        )
    if not (np.isfinite(source_K2).all() and np.isfinite(target_K2).all()):
        raise ValueError("a point to align by is not finite: detect the face again or leave it out")
    source_K, target_K = source_K2 @ [1, 1j], target_K2 @ [1, 1j]
    source_mean, target_mean = source_K.mean(), target_K.mean()
    source_K, target_K = source_K - source_mean, target_K - target_mean
    source_norm, target_norm = np.linalg.norm(source_K), np.linalg.norm(target_K)
    # Beside their distance from the origin: that is what their differences are rounded to.
    if source_norm <= 1e-9 * (1 + abs(source_mean)) or target_norm <= 1e-9 * (1 + abs(target_mean)):
        raise ValueError("the points to align by fall together: detect the face again or leave it out")
    correlation = np.vdot(source_K, target_K) / (source_norm * target_norm)
    if abs(correlation) < _LEAST_CORRELATION:
        raise ValueError("the points to align by have no best rotation: their order is not that of the template")
    turn = correlation * target_norm / source_norm
    shift = target_mean - turn * source_mean
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align(
    image_HWC: np.ndarray, landmarks_52: np.ndarray, size: int | tuple[int, int] = TEMPLATE_SIDE
) -> np.ndarray:
    """The face, its landmarks as near to `template(size)` as a similarity brings them, bilinear; outside is 0.

    Args:
        image_HWC: uint8 (H, W, C).
        landmarks_52: (5, 2) x and y in pixels of `image_HWC`, in the order of `TEMPLATE_52`.
        size: (height, width) of the result, or one number for both.

    Returns:
        uint8 (height, width, C), C-contiguous.

    Raises:
        ValueError: landmarks that are not five finite, different points.
    """
    matrix_23 = estimate_similarity(landmarks_52, template(size))
    height, width = (size, size) if isinstance(size, int) else size
    try:
        return cv2.warpAffine(image_HWC, matrix_23, (width, height), flags=cv2.INTER_LINEAR, borderValue=0)
    except cv2.error as error:
        raise ValueError(f"cannot be aligned ({error.err})") from None


def read_landmarks(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads lines `file x1 y1 … x5 y5`: (5, 2) float64 of each file, in the order of the lines.

    Between the numbers stand blanks or tabs; a file's name may hold blanks itself, and bytes that are not UTF-8 come
    as `os.fsdecode` gives them. Blank lines and Windows line ends are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a name and ten finite numbers, or names a file again: its number is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no list of landmarks {path}: give lines of a file and ten numbers")
    landmarks: dict[str, np.ndarray] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        words = line.strip().rsplit(None, _LANDMARK_NUMBERS)
        if not words:
            continue
        points_52 = _parse_points(words[1:])
        if points_52 is None:
            raise ValueError(f"{path}: line {number} is not `file x1 y1 … x5 y5`: a name and ten finite numbers")
        name = os.fsdecode(words[0])
        if name in landmarks:
            raise ValueError(f"{path}: line {number} gives landmarks of {name!r} a second time")
        landmarks[name] = points_52
    if not landmarks:
        raise ValueError(f"{path} is empty: it needs lines of a file and ten numbers")
    return landmarks


def _parse_points(words: list[bytes]) -> np.ndarray | None:
    try:
        points = np.array([float(word) for word in words])
    except ValueError:
        return None
    whole = len(points) == _LANDMARK_NUMBERS and np.isfinite(points).all()
    return points.reshape(-1, 2) if whole else None
