"""The features of a million images: embedded some at a time, an image's views summed, one float32 row each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.images import ImageFiles

IMAGES_AT_ONCE = 1 << 16
"""Images between two sums: 256 MiB of two views at D = 512."""


def summed_embeddings(embedder: Embedder, name: str, paths: Sequence[Path], *, flip: bool) -> np.ndarray:
    """`features_ND` float32 of image files, on every rank: e(x), or e(x) + e(mirror x) with `flip`; not normalised.

    Raises:
        RankError: on every rank, for what `Embedder.embed` refuses.
    """
    features_ND: np.ndarray | None = None
    for first in range(0, len(paths), IMAGES_AT_ONCE):
        part = paths[first : first + IMAGES_AT_ONCE]
        part_name = name if len(paths) <= IMAGES_AT_ONCE else f"{name} {first}–{first + len(part) - 1}"
        embeddings_VBD = embedder.embed(ImageFiles(part_name, part), flip=flip)
        if features_ND is None:
            features_ND = np.empty((len(paths), embeddings_VBD.shape[2]), np.float32)
        embeddings_VBD.sum(axis=0, out=features_ND[first : first + len(part)])
    assert features_ND is not None, "there are images"
    return features_ND
