"""Noisy labels: wrong ones, and identities under two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from claims_grid import DataSet

from partial_fc.data.open_source import open_source
from partial_fc.data.source import ImageSource

_SEED = 2010_05222  # which labels are wrong: the same in every run


def labelled_source(data: DataSet, directory: Path) -> tuple[ImageSource, np.ndarray, np.ndarray]:
    """The images with the labels of the data set; which kept theirs; and the labels of split identities (K, 2)."""
    source = open_source(directory / "train.rec")
    if not data.wrong_labels and not data.split_identities:
        return source, np.ones(len(source), bool), np.empty((0, 2), np.int64)
    label_N, kept_N, split_K2 = noisy_labels(
        source.labels(),
        source.num_identities,
        wrong_labels=data.wrong_labels,
        split_identities=data.split_identities,
    )
    return RelabelledSource(source, label_N, source.num_identities + len(split_K2)), kept_N, split_K2


class RelabelledSource:
    """A source whose labels are others.

    Args:
        source: the images.
        label_N: (N,) int64, the label of every image.
        num_identities: C.
    """

    def __init__(self, source: ImageSource, label_N: np.ndarray, num_identities: int) -> None:
        self._source = source
        self._label_N = label_N
        self.num_identities = num_identities
        self.name = source.name

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> tuple[bytes, int]:
        return self._source.read(index)[0], int(self._label_N[index])

    def where(self, index: int) -> str:
        return self._source.where(index)

    def key(self, index: int) -> str:
        return self._source.key(index)

    def labels(self) -> np.ndarray:
        return self._label_N

    def close(self) -> None:
        self._source.close()


def noisy_labels(
    label_N: np.ndarray, num_identities: int, *, wrong_labels: float, split_identities: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with two kinds of noise.

    Args:
        label_N: (N,) int64, the true labels, below ``num_identities``.
        wrong_labels: share of the images that get the label of another identity, drawn at random.
        split_identities: share of the identities of which every second image gets a label of its own, from
            ``num_identities`` on.

    Returns:
        The labels (N,) int64; which images kept a label of their own identity, (N,) bool; and the two labels of every
        split identity, (K, 2) int64.
    """
    rng = np.random.default_rng(_SEED)
    split_K = np.sort(rng.choice(num_identities, round(split_identities * num_identities), replace=False))
    second_C = np.full(num_identities, -1)
    second_C[split_K] = num_identities + np.arange(len(split_K))
    order_N = np.argsort(label_N, kind="stable")
    start_C = np.searchsorted(label_N[order_N], np.arange(num_identities))
    place_N = np.empty(len(label_N), np.int64)
    place_N[order_N] = np.arange(len(label_N)) - start_C[label_N[order_N]]  # the number of an image of its identity
    moved_N = (second_C[label_N] >= 0) & (place_N % 2 == 1)
    noisy_N = np.where(moved_N, second_C[label_N], label_N)
    wrong_W = rng.choice(len(label_N), round(wrong_labels * len(label_N)), replace=False)
    offset_W = rng.integers(1, num_identities, len(wrong_W))
    noisy_N[wrong_W] = (label_N[wrong_W] + offset_W) % num_identities
    kept_N = np.ones(len(label_N), bool)
    kept_N[wrong_W] = False
    return noisy_N, kept_N, np.stack([split_K, second_C[split_K]], axis=1)
