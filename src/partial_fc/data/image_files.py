"""Image sources whose every image is a file of its own."""

from __future__ import annotations

import numpy as np


class ImageFiles:
    """N images in files: what folders and lists of them have in common as an `ImageSource`.

    `_labels` is an integer array (N,), the label of each image; :meth:`path` says where it lies.
    """

    _labels: np.ndarray

    def __len__(self) -> int:
        return len(self._labels)

    def path(self, index: int) -> bytes:
        """The path of image `index`, as the file system has it."""
        raise NotImplementedError

    def read(self, index: int) -> tuple[bytes, int]:
        """The file's bytes, as they are, and the label. Raises ValueError, naming the file that cannot be read."""
        try:
            with open(self.path(index), "rb", buffering=0) as file:
                return file.read(), self._labels.item(index)
        except OSError as error:
            raise ValueError(f"{self.where(index)} cannot be read ({error.strerror})") from None

    def where(self, index: int) -> str:
        """The path, for messages."""
        return self.path(index).decode(errors="backslashreplace")

    def labels(self) -> np.ndarray:
        """The label of every image, int64 (N,)."""
        return self._labels.astype(np.int64)

    def close(self) -> None:
        """There is nothing to give back."""
