"""From an image source to a new set: which images, under which labels, changed or as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from partial_fc.data.decode import decode, read_size
from partial_fc.data.image_writer import open_writer
from partial_fc.data.in_order import map_in_order
from partial_fc.data.source import ImageSource

Change = Callable[[ImageSource, int, bytes], bytes]
"""What becomes of an image: (source, its number, its bytes) → the bytes to write. ValueError leaves it out."""


@dataclass
class Selection:
    """M images of a source, in the order in which they are to be written.

    images_M: their numbers. labels_M: their new labels, int64. num_identities: C of the new set; labels ascend
    unless `in_order` is False.
    """

    images_M: np.ndarray | range
    labels_M: np.ndarray
    num_identities: int
    in_order: bool = True

    def __len__(self) -> int:
        return len(self.images_M)


class LeftOut(NamedTuple):
    """An image that is not in the new set, and why."""

    where: str
    why: str


def left_out(source: ImageSource, index: int, error: ValueError) -> LeftOut:
    """Image `index`, left out for `error`, whose message may or may not begin with where the image is."""
    where, why = source.where(index), str(error)
    return LeftOut(where, why.removeprefix(where).lstrip(": "))


@dataclass
class CopyReport:
    """What was written: how many images each identity got (C,), and how many there are of a (height, width).

    left_out: the images that are not in the new set.
    """

    images_of_C: np.ndarray
    left_out: list[LeftOut] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def written(self) -> int:
        return self.sizes.total()

    @property
    def empty_identities(self) -> int:
        return int((self.images_of_C == 0).sum())


class _Image(NamedTuple):
    bytes: bytes
    size: tuple[int, int]


def checked_labels(source: ImageSource) -> np.ndarray:
    """`source.labels()`. Raises ValueError, naming the image, for one outside [0, C)."""
    labels_N = source.labels()
    wrong = np.flatnonzero((labels_N < 0) | (labels_N >= source.num_identities))
    if len(wrong):
        raise ValueError(
            f"{source.where(int(wrong[0]))} has the label {labels_N[wrong[0]]}, and labels lie in "
            f"[0, {source.num_identities}): correct `property`, or delete it to have the labels counted"
        )
    return labels_N


def sorted_selection(images_M: np.ndarray | range, labels_M: np.ndarray, num_identities: int) -> Selection:
    """The images by ascending label, in the given order within each."""
    if (labels_M[1:] < labels_M[:-1]).any():
        order_M = np.argsort(labels_M, kind="stable")
        images_M, labels_M = np.asarray(images_M)[order_M], labels_M[order_M]
    return Selection(images_M, labels_M, num_identities)


def shuffled_selection(selection: Selection, seed: int) -> Selection:
    """The same images in an order that `seed` decides, the same on every machine."""
    order_M = np.random.Generator(np.random.PCG64(seed)).permutation(len(selection))
    images_M = np.asarray(selection.images_M)[order_M]
    return Selection(images_M, selection.labels_M[order_M], selection.num_identities, in_order=False)


def keep(source: ImageSource, index: int, image_bytes: bytes) -> bytes:
    """The bytes as they are, once they have been seen to decode. Raises DecodeError."""
    decode(image_bytes)
    return image_bytes


def encode(image_HWC: np.ndarray, quality: int) -> bytes:
    """JPEG of RGB pixels."""
    bgr_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()


def resize_to(size: int, quality: int) -> Change:
    """Another size, encoded anew as JPEG; images of size × size pixels keep their bytes."""

    def change(source: ImageSource, index: int, image_bytes: bytes) -> bytes:
        image_HWC = decode(image_bytes, (size, size))
        return image_bytes if read_size(image_bytes) == (size, size) else encode(image_HWC, quality)

    return change


def copy_images(
    source: ImageSource,
    selection: Selection,
    destination: Path,
    *,
    change: Change = keep,
    workers: int = 1,
    progress: Callable[[], object] = lambda: None,
) -> CopyReport:
    """Writes the selected images to `destination`, NAME.rec or NAME.lmdb, which appears complete or not at all.

    An image that cannot be read or that `change` refuses is left out and told of; its identity keeps its label.
    `progress` is called after each image.

    Raises:
        ValueError: no image is left.
        OSError: the destination cannot be written; nothing is there then.
    """
    report = CopyReport(np.zeros(selection.num_identities, np.int64))
    results = map_in_order(lambda image: _prepare(source, image, change), selection.images_M, workers)
    writer = open_writer(destination, in_order=selection.in_order, num_identities=selection.num_identities)
    with closing(results), writer:
        for image, label in zip(results, selection.labels_M, strict=True):
            if isinstance(image, LeftOut):
                report.left_out.append(image)
            else:
                writer.add(image.bytes, int(label))
                report.images_of_C[label] += 1
                report.sizes[image.size] += 1
            progress()
        if not report.written:
            raise ValueError(f"{destination} would hold no image: {_why_none(report)}")
        writer.image_size = report.sizes.most_common(1)[0][0]
    return report


def _prepare(source: ImageSource, index: int, change: Change) -> _Image | LeftOut:
    try:
        image_bytes = change(source, index, source.read(index)[0])
        return _Image(image_bytes, read_size(image_bytes))
    except ValueError as error:
        return left_out(source, index, error)


def _why_none(report: CopyReport) -> str:
    if not report.left_out:
        return "none was chosen"
    first = report.left_out[0]
    return f"all {len(report.left_out)} were left out, the first, {first.where}, because it {first.why}"
