"""The class centers of one rank: which rows a step works on, block by block, and their change.

Legend: C_k classes owned by the rank, S rows of a step, B rows of a block, D embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import mxnet as mx
import numpy as np

from partial_fc.center_storage import Storage
from partial_fc.head.buffers import Buffers
from partial_fc.head.decay_history import DecayHistory
from partial_fc.head.kernels import RowKernels, UpdateRule
from partial_fc.head.lazy_updates import LazyUpdates
from partial_fc.head.row_store import RowStore, make_stores
from partial_fc.head.stored_rows import put_rows


@dataclass(frozen=True)
class CenterBlock:
    """Rows of one step that are worked on together.

    Attributes:
        store: where they are kept.
        rows: their numbers within the store: a slice where they follow one another, else (B,) int64 with the store.
        first: the block's first column among the step's S sampled classes.
        size: B.
        numbers: their numbers once more, on the host: a slice, or (B,) int64.
        factors_B4: what brings them up to date, float32 with the store; None where they have missed no update.
    """

    store: RowStore
    rows: slice | mx.nd.NDArray
    first: int
    size: int
    numbers: slice | np.ndarray
    factors_B4: mx.nd.NDArray | None = None

    @cached_property
    def part(self) -> RowStore:
        """The rows themselves as a store, where they follow one another."""
        assert isinstance(self.rows, slice)
        return self.store.part(self.rows)


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

    Attributes:
        lazy: what the rows have missed, where those that are not sampled move on by momentum and weight decay; else
            None.

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
        self._all_blocks: list[CenterBlock] | None = None  # of a step on all rows: the same each time
        self.lazy: LazyUpdates | None = None

    def follow(self, history: DecayHistory) -> None:
        """From now on rows that are not sampled move on; none has had an update of the history yet."""
        self.lazy = LazyUpdates(self.stores, history)

    def stop_following(self) -> None:
        """Brings every row up to date; from now on those that are not sampled stay as they are."""
        self.settle_all()
        for store in self.stores:
            store.last_R = None
        self.lazy = None

    def settle_all(self) -> None:
        """Brings every row up to date where it is stored: for whoever reads them all, between two steps.

        Nothing to do where unsampled rows stay as they are.
        """
        if self.lazy is not None:
            self.initialize_all()
            self.lazy.settle_all()

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
        everything = len(rows_S) == self.count and not (self.lazy is not None and self.lazy.any_missed())
        if everything and self._all_blocks is not None:
            return self._all_blocks
        blocks: list[CenterBlock] = []
        for store in self.stores:
            begin, end = np.searchsorted(rows_S, [store.first, store.first + len(store)])
            if begin < end:
                blocks += self._blocks_of(store, rows_S[begin:end] - store.first, int(begin))
        if everything:
            self._all_blocks = blocks
        return blocks

    def _blocks_of(self, store: RowStore, rows: np.ndarray, first: int) -> Iterator[CenterBlock]:
        """Blocks of a store's ``rows``, which are the columns from ``first`` on."""
        new = store.first_touched(rows)
        if len(new):
            self._kernels.initialize(store, new)
        missed = None if self.lazy is None else self.lazy.missed(store, rows)
        in_place = self._in_place and missed is None
        stored_on = store.weight_RD.context
        factors = None if missed is None else mx.nd.array(missed, ctx=stored_on, dtype="float32")
        stored_rows: mx.nd.NDArray | None = None
        for begin in range(0, len(rows), self._block_rows):
            end = min(begin + self._block_rows, len(rows))
            start, stop = int(rows[begin]), int(rows[end - 1]) + 1
            if in_place and stop - start == end - begin:
                part = slice(start, stop)
                yield CenterBlock(store, part, first + begin, end - begin, part)
                continue
            if stored_rows is None:
                stored_rows = mx.nd.array(rows, ctx=stored_on, dtype="int64")
            part, factors_B4 = stored_rows[begin:end], None if factors is None else factors[begin:end]
            yield CenterBlock(store, part, first + begin, end - begin, rows[begin:end], factors_B4)

    def load(self, block: CenterBlock, slot: int) -> LoadedBlock:
        """Gives the block's rows, up to date, to the device that computes, and returns without waiting for them.

        Args:
            slot: which piece of memory a copy goes to; what was loaded to it before is lost.
        """
        store = block.store
        if isinstance(block.rows, slice):
            return LoadedBlock(block.part.weight_RD, block.part.inverse_norm_R)
        shape = (block.size, self.embedding_size)
        weight_BD = self._host_buffers.get("weight", slot, shape)
        inverse_norm_B = self._host_buffers.get("inverse norm", slot, shape[:1])
        self._kernels.gather(store, block.rows, weight_BD, inverse_norm_B, block.factors_B4)
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
        if block.store.before_change is not None:
            block.store.before_change(block.numbers)
        stored_on = block.store.weight_RD.context
        arrays = (loaded.weight_BD, gradient_BD, projection_B)
        current_BD, gradient_BD, projection_B = (array.as_in_context(stored_on) for array in arrays)
        store, rows = (block.part, slice(0, block.size)) if isinstance(block.rows, slice) else (block.store, block.rows)
        self._kernels.update(store, rows, current_BD, gradient_BD, projection_B, rule, block.factors_B4)

    def updated(self, rows_S: np.ndarray, rule: UpdateRule) -> None:
        """All blocks of a step have been updated: ``rows_S`` as :meth:`blocks` got them."""
        if self.lazy is not None:
            self.lazy.updated(rows_S, rule.decay, rule.momentum)

    def lengths(self, rows_B: np.ndarray) -> np.ndarray:
        """|w| of rows that have a value, (B,) float64; 0 for a row of zeros."""
        inverse_B = np.zeros(len(rows_B))
        for store in self.stores:
            begin, end = np.searchsorted(rows_B, [store.first, store.first + len(store)])
            if begin < end:
                index = mx.nd.array(rows_B[begin:end] - store.first, ctx=store.inverse_norm_R.context, dtype="int64")
                inverse_B[begin:end] = mx.nd.take(store.inverse_norm_R, index).asnumpy()
        return np.divide(1.0, inverse_B, out=np.zeros_like(inverse_B), where=inverse_B > 0)

    def put_rows(self, rows_B: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Gives rows the values that a checkpoint holds; other types than the storage's are converted.

        Args:
            rows_B: (B,) int64, ascending rows of this rank.
            arrays: ``weight`` (B, D); ``momentum`` (B, D), zeros where it is not there; ``scale`` (B, 1) of an int8
                momentum; ``inverse_norm`` (B,), which is computed where it is not there or the types differ;
                ``last_update`` (B,), how many updates the row has had: all where it is not there.

        Raises:
            ValueError: the shapes do not fit.
        """
        d = self.embedding_size
        for name in ("weight", "momentum"):
            if name in arrays and arrays[name].shape != (len(rows_B), d):
                shape = arrays[name].shape
                raise ValueError(f"the saved {name} of class centers has the shape {shape}, not (rows, {d})")
        if self.lazy is not None and "last_update" not in arrays:
            arrays = arrays | {"last_update": np.full(len(rows_B), len(self.lazy.history), np.int32)}
        for name in ("inverse_norm", "scale", "last_update"):
            if name in arrays and arrays[name].size != len(rows_B):
                raise ValueError(f"the saved {name} of class centers has not one number a row")
        for store in self.stores:
            begin, end = np.searchsorted(rows_B, [store.first, store.first + len(store)])
            if begin < end:
                part = {name: values[begin:end] for name, values in arrays.items()}
                put_rows(store, rows_B[begin:end] - store.first, part)
