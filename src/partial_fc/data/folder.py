"""Images in a folder of folders, one folder an identity."""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from partial_fc.data.image_files import ImageFiles

log = logging.getLogger("partial_fc")

IMAGE_EXTENSIONS = (b".jpg", b".jpeg", b".png")


class FolderSource(ImageFiles):
    """The `.jpg`, `.jpeg` and `.png` files of each folder in `directory`: an `ImageSource`.

    Labels number the folders that hold an image, in the order of their names' bytes; images stand in the
    order of label and name. Names need not be UTF-8. Folders without an image and other files are counted
    in the log.

    classes: the names of all identities, where folders of other directories are to share their labels with
    this one; it may name more than there are here.

    Memory: an image's name and 12 bytes. Raises FileNotFoundError when there is no such directory, ValueError
    when it holds no image, or an identity that `classes` lacks.
    """

    def __init__(self, directory: str | os.PathLike[str], classes: Sequence[bytes] | None = None):
        if not Path(directory).is_dir():
            raise FileNotFoundError(
                f"there is no folder {directory}: give one with a folder for each identity"
            )
        self._directory = os.fsencode(directory)
        self.name = str(directory)
        self.identity_names: list[bytes] = []
        self._names = bytearray()  # of all images, one after the other
        ends, labels = array("q", [0]), array("i")
        without_image, others = 0, 0
        label_of = None if classes is None else {name: label for label, name in enumerate(classes)}
        for folder in identity_folders(self._directory):
            files = _entries(os.path.join(self._directory, folder), folders=False)
            images = [name for name in files if name.lower().endswith(IMAGE_EXTENSIONS)]
            others += len(files) - len(images)
            if not images:
                without_image += 1
                continue
            label = len(self.identity_names) if label_of is None else label_of.get(folder, -1)
            if label < 0:
                raise ValueError(f"{self.name} holds {folder!r}, which is not among the identities to be shared")
            for image in images:
                self._names += image
                ends.append(len(self._names))
                labels.append(label)
            if label_of is None:
                self.identity_names.append(folder)
        if classes is not None:
            self.identity_names = list(classes)
        if without_image or others:
            log.warning(
                "%s: %d folders hold no image, and %d files are none: left out",
                self.name,
                without_image,
                others,
            )
        if not labels:
            raise ValueError(
                f"{directory} holds no image: it needs a folder for each identity with .jpg or .png"
            )
        self._ends, self._labels = np.array(ends), np.array(labels)
        self.num_identities = len(self.identity_names)

    def path(self, index: int) -> bytes:
        """The path of image `index`, as the file system has it."""
        label = self._labels.item(index)
        name = self._names[self._ends.item(index) : self._ends.item(index + 1)]
        return b"/".join((self._directory, self.identity_names[label], name))

    def key(self, index: int) -> str:
        return os.fsdecode(self.path(index)[len(self._directory) + 1 :])


def identity_folders(directory: str | os.PathLike[str]) -> list[bytes]:
    """The names of the folders in `directory`, in the order of their bytes."""
    return _entries(os.fsencode(directory), folders=True)


def _entries(directory: bytes, *, folders: bool) -> list[bytes]:
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() == folders)
