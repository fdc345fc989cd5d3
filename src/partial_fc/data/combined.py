"""Several image sources as one."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from partial_fc.data.source import ImageSource


class CombinedSource:
    """The images of all `sources`, one source after the other: an `ImageSource`.

    shared_labels = False: the identities of different sources are different people; the labels of each source
    follow on those of the one before it, and C is the sum. True: all sources number one list of identities,
    and C is the largest. A label below 0, of an image without an identity, stays as it is. Closing it closes
    them all. Raises ValueError when there is no source.
    """

    def __init__(self, sources: Sequence[ImageSource], *, shared_labels: bool = False):
        if not sources:
            raise ValueError("a combined set needs at least one set, got none")
        self.sources = list(sources)
        self.shared_labels = shared_labels
        self.name = " + ".join(source.name for source in self.sources)
        identities = [source.num_identities for source in self.sources]
        # Where each source starts, in images and in labels.
        self._starts = [0, *np.cumsum([len(source) for source in self.sources]).tolist()]
        self._first_labels = (
            [0] * len(identities) if shared_labels else [0, *np.cumsum(identities).tolist()[:-1]]
        )
        self.num_identities = max(identities) if shared_labels else sum(identities)

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> tuple[bytes, int]:
        part = bisect.bisect_right(self._starts, index) - 1
        image_bytes, label = self.sources[part].read(index - self._starts[part])
        return image_bytes, label if label < 0 else label + self._first_labels[part]

    def where(self, index: int) -> str:
        part = bisect.bisect_right(self._starts, index) - 1
        return self.sources[part].where(index - self._starts[part])

    def key(self, index: int) -> str:
        part = bisect.bisect_right(self._starts, index) - 1
        return self.sources[part].key(index - self._starts[part])

    def labels(self) -> np.ndarray:
        parts = [source.labels() for source in self.sources]
        return np.concatenate(
            [np.where(part < 0, part, part + first) for part, first in zip(parts, self._first_labels, strict=True)]
        )

    def close(self) -> None:
        for source in self.sources:
            source.close()
