"""Which images show an identity: all of them, without a Python object an image.

    images(c) = order[start[c] : start[c + 1]],    order = argsort(labels), stable
"""

from __future__ import annotations

import numpy as np


class IdentityIndex:
    """The images of each identity, for who draws pairs, or identities instead of images.

    labels_N: int64, as `ImageSource.labels` has them, each in [0, C). num_identities: C; some may be empty.
    Memory: 4 bytes an image (8 from 2³¹ images up) and 8 an identity. Raises ValueError for a label outside.
    """

    def __init__(self, labels_N: np.ndarray, num_identities: int):
        if len(labels_N) and not 0 <= labels_N.min() <= labels_N.max() < num_identities:
            wrong = labels_N.max() if labels_N.min() >= 0 else labels_N.min()
            raise ValueError(f"labels lie in [0, {num_identities}), got {wrong}: relabel the set")
        self.counts_C = np.bincount(labels_N, minlength=num_identities)
        self._starts = np.concatenate([[0], np.cumsum(self.counts_C)])
        kind = np.int32 if len(labels_N) <= 1 << 31 else np.int64
        if (labels_N[1:] >= labels_N[:-1]).all():  # as record files are: nothing to sort
            self._order_N = np.arange(len(labels_N), dtype=kind)
        else:
            self._order_N = np.argsort(labels_N, kind="stable").astype(kind)

    def __len__(self) -> int:
        return len(self.counts_C)

    def images_of(self, identity: int) -> np.ndarray:
        """The numbers of its images in their source, ascending; a view, int32 or int64."""
        return self._order_N[self._starts[identity] : self._starts[identity + 1]]

    def all_images(self) -> np.ndarray:
        """The numbers of all images, those of an identity together, identities ascending; a view."""
        return self._order_N
