"""The class centers of one rank: their rows, the rows' momentum, and the norms beside them.

Legend: C_k classes owned by the rank, S rows of a step, B rows of a block, D embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from partial_fc.head.initialization import initial_rows
from partial_fc.head.kernels import BlockKernels, UpdateRule
from partial_fc.head.kernels.ndarray import inverse_norms

# MXNet indexes an array's elements with 31 bits; a store of rows stays clear of that and of huge allocations.
_LARGEST_STORE_ELEMENTS = 2**28


@dataclass
class RowStore:
    """A contiguous part of a rank's rows.

    Attributes:
        first: number of its first row among the rank's rows.
        weight_RD, momentum_RD: (rows, D) float32; momentum holds the last change of the row, as MXNet's SGD does.
        inverse_norm_R: (rows,) float32, 1/|w|.
    """

    first: int
    weight_RD: mx.nd.NDArray
    momentum_RD: mx.nd.NDArray
    inverse_norm_R: mx.nd.NDArray

    def __len__(self) -> int:
        return self.weight_RD.shape[0]


@dataclass
class CenterBlock:
    """Rows of one step that are worked on together.

    Attributes:
        store: where they belong.
        rows_B: (B,) int64 within the store, or None for the contiguous rows that ``weight_BD`` is a view of.
        column: the block's first column among the step's S sampled classes.
        weight_BD, inverse_norm_B: the rows and their inverse norms, a view of the store's or a copy.
    """

    store: RowStore
    rows_B: mx.nd.NDArray | None
    column: int
    weight_BD: mx.nd.NDArray
    inverse_norm_B: mx.nd.NDArray
    momentum_BD: mx.nd.NDArray | None = None

    def __len__(self) -> int:
        return self.weight_BD.shape[0]


class ClassCenters:
    """The rows of W that a rank owns, W_k (C_k, D), and their momentum, in stores of bounded size.

    Args:
        first_class: the global number of the rank's first class.
        count: C_k.
        embedding_size: D.
        seed: with the class number, all that decides a row's initial value.
        context: the device that holds and computes.
        block_rows: the most rows of one block.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self, first_class: int, count: int, embedding_size: int, seed: int, context: mx.Context, block_rows: int
    ) -> None:
        if embedding_size < 1:
            raise ValueError(f"the embedding size must be at least 1, but is {embedding_size}")
        if block_rows < 1:
            raise ValueError(f"a block of classes must hold at least 1 row, but block_rows is {block_rows}")
        self.first_class = first_class
        self.count = count
        self.embedding_size = embedding_size
        self._context = context
        self._block_rows = block_rows
        store_rows = max(1, _LARGEST_STORE_ELEMENTS // embedding_size)
        self.stores = [
            self._make_store(first, min(store_rows, count - first), seed) for first in range(0, count, store_rows)
        ]

    def _make_store(self, first: int, rows: int, seed: int) -> RowStore:
        weight = mx.nd.empty((rows, self.embedding_size), ctx=self._context)
        step = max(1, 2**22 // self.embedding_size)  # rows made at a time: their hashes take 8 bytes an element
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            classes = np.arange(start, stop, dtype=np.int64) + (self.first_class + first)
            weight[start:stop] = initial_rows(seed, classes, self.embedding_size)
        return RowStore(first, weight, mx.nd.zeros_like(weight), inverse_norms(weight))

    def blocks(self, rows_S: np.ndarray) -> list[CenterBlock]:
        """Divides a step's rows into blocks, each within one store, and starts the gather of those that need one.

        Args:
            rows_S: (S,) int64, sorted and distinct rows of this rank.
        """
        blocks: list[CenterBlock] = []
        for store, within, column in self._split(rows_S):
            start, stop = int(within[0]), int(within[-1]) + 1
            if stop - start == len(within):
                weight, inverse_norm = store.weight_RD[start:stop], store.inverse_norm_R[start:stop]
                blocks.append(CenterBlock(store, None, column, weight, inverse_norm, store.momentum_RD[start:stop]))
            else:
                rows = mx.nd.array(within, ctx=self._context, dtype="int64")
                weight, inverse_norm = mx.nd.take(store.weight_RD, rows), mx.nd.take(store.inverse_norm_R, rows)
                blocks.append(CenterBlock(store, rows, column, weight, inverse_norm))
        return blocks

    def _split(self, rows_S: np.ndarray) -> Iterator[tuple[RowStore, np.ndarray, int]]:
        for store in self.stores:
            begin, end = np.searchsorted(rows_S, [store.first, store.first + len(store)])
            for column in range(begin, end, self._block_rows):
                yield store, rows_S[column : min(column + self._block_rows, end)] - store.first, column

    def update(
        self,
        block: CenterBlock,
        gradient_BD: mx.nd.NDArray,
        projection_B: mx.nd.NDArray,
        rule: UpdateRule,
        kernels: BlockKernels,
    ) -> None:
        """Changes the block's rows and their momentum by the rule, in the store."""
        if block.rows_B is None:
            kernels.update(
                block.weight_BD, block.momentum_BD, block.inverse_norm_B, gradient_BD, projection_B, rule
            )
            return
        momentum_BD = mx.nd.take(block.store.momentum_RD, block.rows_B)
        kernels.update(block.weight_BD, momentum_BD, block.inverse_norm_B, gradient_BD, projection_B, rule)
        for stored, changed in (
            (block.store.weight_RD, block.weight_BD),
            (block.store.momentum_RD, momentum_BD),
            (block.store.inverse_norm_R, block.inverse_norm_B),
        ):
            mx.nd.contrib.index_copy(stored, block.rows_B, changed, out=stored)
