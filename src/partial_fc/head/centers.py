"""The class centers of one rank: which rows a step works on, block by block, and their change.

Legend: C_k classes owned by the rank, S rows of a step, B rows of a block, D embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from partial_fc.center_storage import Storage
from partial_fc.head.buffers import Buffers
from partial_fc.head.kernels import RowKernels, UpdateRule
from partial_fc.head.row_store import RowStore, make_stores


@dataclass(frozen=True)
class CenterBlock:
    """Rows of one step that are worked on together.

    Attributes:
        store: where they are kept.
        rows: their numbers within the store: a slice where they follow one another, else (B,) int64 with the store.
        first: the block's first column among the step's S sampled classes.
        size: B.
    """

    store: RowStore
    rows: slice | mx.nd.NDArray
    first: int
    size: int


@dataclass(frozen=True)
class LoadedBlock:
    """A block's rows on the device that computes: a view of the store, or a copy.

    Attributes:
        weight_BD: (B, D) float32.
        inverse_norm_B: (B,) float32.
    """

    weight_BD: mx.nd.NDArray
    inverse_norm_B: mx.nd.NDArray


class ClassCenters:
    """The rows of W that a rank owns, W_k (C_k, D), with their momentum, in stores of bounded size.

    Args:
        first_class: the global number of the rank's first class.
        count: C_k.
        embedding_size: D.
        seed: with the class number, all that decides a row's initial value.
        context: the device that computes.
        storage: where and as what the rows are kept.
        kernels: the work on stored rows.
        block_rows: the most rows of one block.
        rank: goes into the names of files.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        first_class: int,
        count: int,
        embedding_size: int,
        *,
        seed: int,
        context: mx.Context,
        storage: Storage,
        kernels: RowKernels,
        block_rows: int,
        rank: int = 0,
    ) -> None:
        if embedding_size < 1:
            raise ValueError(f"the embedding size must be at least 1, but is {embedding_size}")
        if block_rows < 1:
            raise ValueError(f"a block of classes must hold at least 1 row, but block_rows is {block_rows}")
        self.first_class = first_class
        self.count = count
        self.embedding_size = embedding_size
        self._context = context
        self._kernels = kernels
        self._block_rows = block_rows
        self._buffers = Buffers(context)
        self.stores = make_stores(
            storage,
            first_class=first_class,
            count=count,
            embedding_size=embedding_size,
            seed=seed,
            context=context,
            rank=rank,
        )
        stored = self.stores[0].weight_RD
        self._host_buffers = Buffers(stored.context)
        plain = storage.weight == storage.momentum == "float32"
        self._in_place = plain and storage.tier == "device"

    def initialize_all(self) -> None:
        """Gives every row that no step has touched its initial value: before the rows are saved."""
        for store in self.stores:
            new = store.first_touched(np.arange(len(store), dtype=np.int64))
            if len(new):
                self._kernels.initialize(store, new)

    def blocks(self, rows_S: np.ndarray) -> list[CenterBlock]:
        """Divides a step's rows into blocks, each within one store; rows touched first get their initial value.

        Args:
            rows_S: (S,) int64, ascending and distinct rows of this rank.
        """
        blocks = []
        for store, rows, first in self._split(rows_S):
            new = store.first_touched(rows)
            if len(new):
                self._kernels.initialize(store, new)
            start, stop = int(rows[0]), int(rows[-1]) + 1
            if self._in_place and stop - start == len(rows):
                blocks.append(CenterBlock(store, slice(start, stop), first, len(rows)))
            else:
                stored_rows = mx.nd.array(rows, ctx=store.weight_RD.context, dtype="int64")
                blocks.append(CenterBlock(store, stored_rows, first, len(rows)))
        return blocks

    def _split(self, rows_S: np.ndarray) -> Iterator[tuple[RowStore, np.ndarray, int]]:
        for store in self.stores:
            begin, end = np.searchsorted(rows_S, [store.first, store.first + len(store)])
            for first in range(begin, end, self._block_rows):
                yield store, rows_S[first : min(first + self._block_rows, end)] - store.first, first

    def load(self, block: CenterBlock, slot: int) -> LoadedBlock:
        """Gives the block's rows to the device that computes, and returns without waiting for them.

        Args:
            slot: which piece of memory a copy goes to; what was loaded to it before is lost.
        """
        store = block.store
        if isinstance(block.rows, slice):
            return LoadedBlock(store.weight_RD[block.rows], store.inverse_norm_R[block.rows])
        shape = (block.size, self.embedding_size)
        weight_BD = self._host_buffers.get("weight", slot, shape)
        inverse_norm_B = self._host_buffers.get("inverse norm", slot, shape[:1])
        self._kernels.gather(store, block.rows, weight_BD, inverse_norm_B)
        if weight_BD.context == self._context:
            return LoadedBlock(weight_BD, inverse_norm_B)
        loaded = LoadedBlock(
            self._buffers.get("weight", slot, shape), self._buffers.get("inverse norm", slot, shape[:1])
        )
        weight_BD.copyto(loaded.weight_BD)
        inverse_norm_B.copyto(loaded.inverse_norm_B)
        return loaded

    def update(
        self,
        block: CenterBlock,
        loaded: LoadedBlock,
        gradient_BD: mx.nd.NDArray,
        projection_B: mx.nd.NDArray,
        rule: UpdateRule,
    ) -> None:
        """Changes the block's rows and their momentum by the rule, where they are kept.

        Args:
            loaded: the block's rows as :meth:`load` gave them, unchanged since.
        """
        stored_on = block.store.weight_RD.context
        arrays = (loaded.weight_BD, gradient_BD, projection_B)
        current_BD, gradient_BD, projection_B = (array.as_in_context(stored_on) for array in arrays)
        self._kernels.update(block.store, block.rows, current_BD, gradient_BD, projection_B, rule)
