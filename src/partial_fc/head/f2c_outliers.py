"""F²C's samples whose identity is not in the pool: their largest cosines, pushed down to 0.

    loss = Σ over both matrices (1/(O·k)) Σ_n Σ of the k largest max(cos[n, ·], 0)      over the slots of all ranks

Legend: N probe samples of the global batch, O of them whose identity is not in the pool, S columns of a block, k hard
negatives, D embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.head.f2c_columns import Block, PoolColumns

nd = mx.nd


def hard_negatives(slots: int) -> int:
    """k = min(max(int(0.0002·Q), 3), 10), and no more than there are slots."""
    return min(max(int(0.0002 * slots), 3), 10, slots)


@dataclass(frozen=True)
class Outliers:
    """The loss of the samples out of the pool, as one rank needs it for its gradients.

    Attributes:
        loss: Σ over both matrices of the mean of max(cos, 0) over the O samples' k largest cosines; the same on every
            rank.
        matrix_E, sample_E, column_E: the entries of this rank whose cosine counts, int64: the matrix, the sample in
            [0, O), the column.
        weight: d loss / d cosine of each, 1/(O·k).
    """

    loss: float
    matrix_E: np.ndarray
    sample_E: np.ndarray
    column_E: np.ndarray
    weight: float


def _largest(parts: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest cosines of each sample among a rank's columns, (O, k) float32, and their columns.

    Args:
        parts: cosines and columns, (O, …) each, of the rank's blocks. Where they are fewer than k, −2 fills up.
    """
    cosine = np.concatenate([cosine for cosine, _ in parts], axis=1)
    column = np.concatenate([column for _, column in parts], axis=1)
    missing = max(0, k - cosine.shape[1])
    cosine = np.pad(cosine, ((0, 0), (0, missing)), constant_values=-2.0)
    column = np.pad(column, ((0, 0), (0, missing)))
    best = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosine, best, axis=1), np.take_along_axis(column, best, axis=1)


def merge_outliers(
    cosine_2Ok: np.ndarray, column_2Ok: np.ndarray, samples: int, collectives: Collectives
) -> Outliers:
    """Finds the k largest cosines over all ranks. One all-gather of 2·N·k float32: as many for every O.

    Args:
        cosine_2Ok: (2, O, k) float32, this rank's k largest cosines of each sample in each matrix, descending.
        column_2Ok: (2, O, k), their columns.
        samples: N.
    """
    _, outliers, k = cosine_2Ok.shape
    message = np.zeros((1, 2, samples, k), dtype=np.float32)
    message[0, :, :outliers] = cosine_2Ok
    gathered = collectives.all_gather(mx.nd.array(message, ctx=mx.cpu()), "head.hard_negatives").asnumpy()
    cosine_2OC = gathered[:, :, :outliers].transpose(1, 2, 0, 3).reshape(2, outliers, -1)
    best_2Ok = np.argsort(-cosine_2OC, axis=2, kind="stable")[:, :, :k]
    largest_2Ok = np.take_along_axis(cosine_2OC, best_2Ok, axis=2)
    loss = float(np.maximum(largest_2Ok, 0.0, dtype=np.float64).mean(axis=(1, 2)).sum())
    counts = (best_2Ok // k == collectives.rank) & (largest_2Ok > 0)
    matrix_E, sample_E, place_E = np.nonzero(counts)
    column_E = column_2Ok[matrix_E, sample_E, best_2Ok[matrix_E, sample_E, place_E] % k]
    return Outliers(loss, matrix_E, sample_E, column_E, 1.0 / (outliers * k))


class OutlierSearch:
    """Collects the largest cosines of O samples while the blocks of the logits pass by."""

    def __init__(self, k: int, scale: float) -> None:
        self._k = k
        self._scale = np.float32(scale)
        self._found: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]

    def add(self, block: Block, matrix: int, logits_OS: nd.NDArray) -> None:
        """Takes the largest of a block's cosines times s."""
        logit_Ok, column_Ok = nd.topk(logits_OS, k=min(self._k, block.size), ret_typ="both", dtype="int32")
        columns = column_Ok.asnumpy().astype(np.int64) + block.first
        self._found[matrix].append((logit_Ok.asnumpy() / self._scale, columns))

    def merge(self, samples: int, collectives: Collectives) -> Outliers:
        """The outcome over all ranks, of a global batch of so many samples."""
        parts = [_largest(found, self._k) for found in self._found]
        cosine_2Ok, column_2Ok = (np.stack(part) for part in zip(*parts, strict=True))
        return merge_outliers(cosine_2Ok, column_2Ok, samples, collectives)


def outlier_gradient(outliers: Outliers, samples: int, columns: PoolColumns) -> nd.NDArray | None:
    """(O, D), this rank's part of d loss / d direction of the O samples; None where it has no part."""
    entries = len(outliers.column_E)
    if entries == 0:
        return None
    weight_OE = np.zeros((samples, entries), dtype=np.float32)
    weight_OE[outliers.sample_E, np.arange(entries)] = outliers.weight
    prototype_ED = columns.prototypes(outliers.column_E)
    return nd.dot(nd.array(weight_OE, ctx=prototype_ED.context), prototype_ED)
