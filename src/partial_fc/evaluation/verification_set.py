"""Verification sets: pairs of face images, of one person or of two, and InsightFace's files of them."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partial_fc.evaluation.plain_pickle import read_plain_pickle


@dataclass(frozen=True)
class VerificationSet:
    """P pairs of encoded images: pair i is `images[2i]` and `images[2i + 1]`.

    `images` are 2P JPEG or PNG files as bytes, `is_same` (P,) bool says which pairs show one person. The
    order is part of the set: the folds of cross-validation are contiguous runs of pairs.

    Raises:
        ValueError: the lengths do not fit, or there is no pair.
    """

    name: str
    images: list[bytes]
    is_same: np.ndarray

    def __post_init__(self) -> None:
        if self.is_same.dtype != np.bool_ or self.is_same.ndim != 1:
            raise ValueError(f"{self.name}: is_same must be a vector of bools, not {self.is_same.dtype}")
        if len(self.is_same) == 0:
            raise ValueError(f"{self.name} holds no pairs")
        if len(self.images) != 2 * len(self.is_same):
            raise ValueError(
                f"{self.name} must hold two images a pair: it has {len(self.images)} images "
                f"and {len(self.is_same)} pairs"
            )

    def __len__(self) -> int:
        return len(self.is_same)

    def unique_images(self) -> tuple[list[bytes], np.ndarray]:
        """The distinct images (U of them), and for each of the 2P images which of them it is: (2P,) int64.

        The published sets hold an image again for each pair that it is in: LFW's 12,000 are 7,701.
        """
        place: dict[bytes, int] = {}
        index = np.fromiter((place.setdefault(image, len(place)) for image in self.images), np.int64)
        return list(place), index


def load_bin(path: str | Path) -> VerificationSet:
    """Reads an InsightFace `.bin`, a pickle of `(2P images, P bools)`, as a set named after the file.

    An image is bytes or a uint8 array of the encoded file, `is_same` a list or an array of bools (or 0 and
    1). The file cannot run anything: see `plain_pickle`.

    Raises:
        ValueError: the file, which is named, holds anything else.
        OSError: it cannot be read.
    """
    path = Path(path)
    value = read_plain_pickle(path)
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{path} must hold a verification set (images, is_same), not {_describe(value)}")
    images, is_same = value
    return VerificationSet(path.stem, _as_images(path, images), _as_bools(path, is_same))


def save_bin(path: str | Path, images: Sequence[bytes], is_same: Sequence[bool] | np.ndarray) -> None:
    """Writes InsightFace's `.bin`: pickle protocol 2 of `(list of bytes, list of bool)`, for Python 2 and 3.

    The file appears complete or not at all: it is written under a temporary name beside `path` and renamed.

    Raises:
        ValueError: there are not two images a pair.
        OSError: the file cannot be written.
    """
    path = Path(path)
    checked = VerificationSet(path.stem, list(images), np.asarray(is_same, dtype=bool))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            pickle.dump((checked.images, checked.is_same.tolist()), file, protocol=2)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _as_images(path: Path, images: Any) -> list[bytes]:
    if not isinstance(images, list | tuple):
        raise ValueError(f"{path}: its images must be a list, not {_describe(images)}")
    converted = []
    for i, image in enumerate(images):
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 1:
            image = image.tobytes()
        if not isinstance(image, bytes):
            raise ValueError(f"{path}: image {i} must be bytes of an encoded image, not {_describe(image)}")
        converted.append(image)
    return converted


def _as_bools(path: Path, is_same: Any) -> np.ndarray:
    if isinstance(is_same, np.ndarray) and is_same.ndim == 1:
        is_same = is_same.tolist()
    if not isinstance(is_same, list | tuple):
        raise ValueError(f"{path}: is_same must be a list of bools, not {_describe(is_same)}")
    for i, flag in enumerate(is_same):
        if not isinstance(flag, int | float | np.bool_ | np.number) or flag not in (0, 1):
            raise ValueError(f"{path}: is_same of pair {i} must be True or False, not {_describe(flag)}")
    return np.array([bool(flag) for flag in is_same], dtype=bool)


def _describe(value: Any) -> str:
    """What a value is, at a bounded length whatever it holds."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} values"
    return f"a value of type {type(value).__name__}"
