"""Images in a folder and the folders below it, whosever they are."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from partial_fc.data.folder import IMAGE_EXTENSIONS
from partial_fc.data.image_files import ImageFiles

NO_IDENTITY = -1
"""The label of an image of which nobody says whose it is."""


class PlainFolderSource(ImageFiles):
    """The `.jpg`, `.jpeg` and `.png` files in `directory` and at any depth below: an `ImageSource` without identities.

    Images stand in the order of their paths' bytes, which need not be UTF-8. Every label is `NO_IDENTITY`, and C is 0.

    is_by_identity: whether all images lie in the folders of `directory`, as those of a folder for each identity do.

    Memory: an image's path and 16 bytes. Raises FileNotFoundError when there is no such directory, ValueError when it
    holds no image.
    """

    num_identities = 0

    def __init__(self, directory: str | os.PathLike[str]):
        if not Path(directory).is_dir():
            raise FileNotFoundError(f"there is no folder {directory}: give one with images")
        self._directory = os.fsencode(directory)
        self.name = str(directory)
        self._paths = bytearray()  # of all images, one after the other
        ends = array("q", [0])
        self.is_by_identity = True
        for path in _image_paths(self._directory):
            self._paths += path
            ends.append(len(self._paths))
            self.is_by_identity &= path.count(b"/") == 1
        if len(ends) == 1:
            raise ValueError(f"{directory} holds no image: it needs .jpg or .png, in it or in folders below it")
        self._ends = np.array(ends)
        self._labels = np.full(len(ends) - 1, NO_IDENTITY, np.int64)

    def path(self, index: int) -> bytes:
        """The path of image `index`, as the file system has it."""
        return os.path.join(self._directory, self._path(index))

    def key(self, index: int) -> str:
        return os.fsdecode(self._path(index))

    def _path(self, index: int) -> bytes:
        return bytes(self._paths[self._ends.item(index) : self._ends.item(index + 1)])


def _image_paths(directory: bytes) -> Iterator[bytes]:
    """The images' paths below `directory`, ascending. A link back to a folder that one is in is not followed."""
    start = os.stat(directory)
    # What is still to be looked at, the next one last: a path, and the folders that it is in if it is one itself.
    left: list[tuple[bytes, tuple[tuple[int, int], ...] | None]] = [(b"", ((start.st_dev, start.st_ino),))]
    while left:
        path, inside = left.pop()
        if inside is None:
            yield path
            continue
        found = []
        with os.scandir(os.path.join(directory, path)) as entries:
            for entry in entries:
                own = os.path.join(path, entry.name)
                if entry.is_dir():
                    status = entry.stat()
                    place = (status.st_dev, status.st_ino)
                    if place not in inside:
                        found.append((own + b"/", own, (*inside, place)))
                elif entry.name.lower().endswith(IMAGE_EXTENSIONS) and entry.is_file():
                    found.append((own, own, None))
        found.sort(reverse=True, key=lambda item: item[0])
        left += [(own, folders) for _, own, folders in found]
