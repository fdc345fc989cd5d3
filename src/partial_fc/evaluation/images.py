"""Lists of face images to embed: encoded images in memory, files, records; aligned by five landmarks or as they are.

N images of a list, S the side of a model's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from partial_fc.data.align import align
from partial_fc.data.decode import DecodeError, decode
from partial_fc.data.source import ImageSource

NAMED_AT_MOST = 10
"""How many of many missing images an error names."""


class Images(Protocol):
    """N images in an order that the protocols index by.

    Attributes:
        name: of the list, for messages.
        landmarks_N52: (N, 5, 2) float32, x and y of left eye, right eye, nose, left and right mouth corner, by
            which an image is aligned; None where the images are faces that are aligned already.
    """

    name: str
    landmarks_N52: np.ndarray | None

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The encoded image. Safe from many threads. Raises OSError, or ValueError for a record that is broken."""
        ...

    def where(self, index: int) -> str:
        """What to call the image in a message."""
        ...


class EncodedImages:
    """Images whose bytes are in memory, as those of a `.bin` are."""

    landmarks_N52 = None

    def __init__(self, name: str, images: Sequence[bytes]) -> None:
        self.name = name
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> bytes:
        return self._images[index]

    def where(self, index: int) -> str:
        return f"image {index} of {self.name}"


class ImageFiles:
    """Image files, all of which are looked for at once.

    Raises:
        FileNotFoundError: files are not there: how many, and the first ten.
        ValueError: there is no file, or the landmarks are not (N, 5, 2) finite numbers.
    """

    def __init__(self, name: str, paths: Sequence[Path], landmarks_N52: np.ndarray | None = None) -> None:
        self.name = name
        self.landmarks_N52 = None if landmarks_N52 is None else np.asarray(landmarks_N52, np.float32)
        self._paths = paths
        check_files(name, paths)
        if self.landmarks_N52 is not None:
            self._check_landmarks(self.landmarks_N52)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        return self._paths[index].read_bytes()

    def where(self, index: int) -> str:
        return str(self._paths[index])

    def _check_landmarks(self, landmarks_N52: np.ndarray) -> None:
        if landmarks_N52.shape != (len(self), 5, 2):
            raise ValueError(
                f"{self.name}: {len(self)} images need landmarks ({len(self)}, 5, 2), not {landmarks_N52.shape}"
            )
        broken = np.flatnonzero(~np.isfinite(landmarks_N52).all(axis=(1, 2)))
        if len(broken):
            first = self.where(int(broken[0]))
            raise ValueError(
                f"{self.name}: the landmarks of {len(broken)} images are not finite (the first: {first})"
            )


class RecordImages:
    """The images of a `.rec`, all or those at the given places of it, in that order."""

    landmarks_N52 = None

    def __init__(self, name: str, source: ImageSource, places: Sequence[int] | None = None) -> None:
        self.name = name
        self._source = source
        self._places = range(len(source)) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, index: int) -> bytes:
        return self._source.read(self._places[index])[0]

    def where(self, index: int) -> str:
        return self._source.where(self._places[index])


def check_files(name: str, paths: Sequence[Path]) -> None:
    """Raises FileNotFoundError for files that are not there, all of them in one message; ValueError for no file."""
    if len(paths) == 0:
        raise ValueError(f"{name} names no images")
    missing = [path for path in dict.fromkeys(paths) if not path.is_file()]
    if missing:
        shown = ", ".join(map(str, missing[:NAMED_AT_MOST]))
        more = f", … and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
        raise FileNotFoundError(
            f"{name}: {len(missing)} of its {len(set(paths))} images are not there: {shown}{more}"
        )


def load_pixels(images: Images, index: int, image_size: int) -> np.ndarray:
    """`image_HWC` uint8 RGB (S, S, 3) of image `index`, aligned by its landmarks, or resized if not that large.

    Raises:
        ValueError: the image, which is named, does not decode or cannot be aligned.
        OSError: it cannot be read.
    """
    encoded = images.read(index)
    try:
        if images.landmarks_N52 is None:
            return decode(encoded, (image_size, image_size))
        return align(decode(encoded), images.landmarks_N52[index], image_size)
    except DecodeError as error:
        raise ValueError(f"{images.where(index)} {error}") from error
    except ValueError as error:
        raise ValueError(f"{images.where(index)}: {error}") from error
