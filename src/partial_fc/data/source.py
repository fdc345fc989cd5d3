"""The image source: what every reader of training images offers, whatever the files are."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class ImageSource(Protocol):
    """N encoded images, each with the label of its identity.

    Images are numbered 0 to N − 1 in an order that depends on the files alone, so that every rank that
    opens the same files sees the same numbers. All methods but `close` may be called from many threads
    at once.
    """

    @property
    def name(self) -> str:
        """What messages call this source: a path, as a rule."""
        ...

    @property
    def num_identities(self) -> int:
        """C: every label lies in [0, C)."""
        ...

    def __len__(self) -> int:
        """N: how many images there are."""
        ...

    def read(self, index: int) -> tuple[bytes, int]:
        """The encoded bytes (JPEG or PNG) and the label of image `index`, 0 ≤ index < N.

        Raises ValueError that names the file and the record when the record is broken or its label is
        not an integer in [0, C). Whether the bytes decode is not looked at here.
        """
        ...

    def where(self, index: int) -> str:
        """Where image `index` lies, for messages: the file and the record in it."""
        ...

    def key(self, index: int) -> str:
        """What image `index` is called within its set: a path, a key, the number of a record."""
        ...

    def labels(self) -> np.ndarray:
        """The label of every image, int64 (N,), without reading the images."""
        ...

    def close(self) -> None:
        """Gives back files and memory; the source is not used after it."""
        ...
