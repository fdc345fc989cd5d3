"""The images that a list of pairs names: in a folder, or in a record file with its `.lst`; each embedded once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from partial_fc.data.align import read_landmarks
from partial_fc.data.list_source import read_list
from partial_fc.data.records import RecordSource
from partial_fc.evaluation.images import NAMED_AT_MOST, ImageFiles, Images, RecordImages

SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG")
"""Official lists say `.jpg`; aligned copies are often PNG."""


def distinct(paths: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The distinct paths (U of them) in the order of first use, and which of them each is, int64."""
    place: dict[str, int] = {}
    index = np.fromiter((place.setdefault(path, len(place)) for path in paths), np.int64, len(paths))
    return list(place), index


def open_images(name: str, paths: Sequence[str], images: Path, landmarks: Path | None = None) -> Images:
    """The images at `paths` under the folder `images`, or by these names in a `.rec`.

    In a folder, a file may have another suffix than its list says. A `.rec` needs the `.lst` that it was made from
    beside it, whose n-th line names its n-th image.

    Raises:
        FileNotFoundError: images are not there, all of them told in one message.
        ValueError: `.rec` and `.lst` do not belong together, or landmarks are missing or broken.
    """
    if images.suffix == ".rec":
        if landmarks is not None:
            raise ValueError(f"{name}: images in a .rec are aligned already, and take no landmarks")
        return _record_images(name, paths, images)
    if not images.is_dir():
        raise FileNotFoundError(f"{name}: {images}, where its images should be, is not a folder or a .rec")
    files = [_find_file(images / path) for path in paths]
    points = None if landmarks is None else _landmarks_of(name, paths, landmarks)
    return ImageFiles(name, files, points)


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    return next((other for other in map(path.with_suffix, SUFFIXES) if other.is_file()), path)


def _landmarks_of(name: str, paths: Sequence[str], path: Path) -> np.ndarray:
    points = read_landmarks(path)
    missing = [image for image in paths if image not in points]
    if missing:
        shown = ", ".join(missing[:NAMED_AT_MOST])
        raise ValueError(f"{name}: {path} lacks the landmarks of {len(missing)} of {len(paths)} images: {shown}")
    return np.stack([points[image] for image in paths])


def _record_images(name: str, paths: Sequence[str], rec: Path) -> RecordImages:
    source = RecordSource(rec)
    lst = rec.with_suffix(".lst")
    if not lst.is_file():
        raise FileNotFoundError(f"{name}: {lst}, which names the images of {rec}, is not there: it is made with it")
    place = {os.fsdecode(line.path): number for number, line in enumerate(read_list(lst))}
    if len(place) != len(source):
        raise ValueError(f"{name}: {lst} names {len(place)} images, but {rec} holds {len(source)}")
    places = [place.get(path, place.get(str(Path(path).with_suffix(".png")), -1)) for path in paths]
    missing = [path for path, found in zip(paths, places, strict=True) if found < 0]
    if missing:
        shown = ", ".join(missing[:NAMED_AT_MOST])
        more = f", … and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
        raise FileNotFoundError(f"{name}: {len(missing)} of its {len(paths)} images are not in {lst}: {shown}{more}")
    return RecordImages(name, source, places)
