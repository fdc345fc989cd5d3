"""The rows of one update while training goes on: copied before the first change after it, or when they are written.

Legend: R rows of a table, B rows of a block, n rows of a copy.

A table is written block by block in ascending order by a thread of its own. A row that training is about to change is
copied first, unless its block has been. The copies are operations of MXNet's engine, which runs those on the same array
in the order in which they were pushed: nobody waits for them but who writes. What is copied ahead is bounded: past the
bound, training waits until enough blocks are written.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from partial_fc.checkpoint.state import RowBlock, RowTable

BLOCK_BYTES = 1 << 22
_SLAB_BYTES = 1 << 25  # numpy asks for large pages where an array is 4 MiB or more, and fresh small ones are dear
_ALIGNMENT = 64


class CopyBudget:
    """The memory for rows that are copied ahead of their being written, on one rank.

    Args:
        limit: bytes; a single copy may be larger when it is alone.

    Attributes:
        condition: held while rows are claimed; notified when memory is given back.
        peak: the most bytes that were in use at once.
        waits: how often training had to wait.
    """

    def __init__(self, limit: int) -> None:
        self.condition = threading.Condition()
        self.peak = 0
        self.waits = 0
        self._limit = limit
        self._used = 0
        self._slab = np.empty(0, np.uint8)
        self._slab_used = 0
        self._given_up = False

    @property
    def given_up(self) -> bool:
        """Whether the save has failed, so that nothing needs to be copied any more."""
        return self._given_up

    def give_up(self) -> None:
        """Lets training go on without copies."""
        with self.condition:
            self._given_up = True
            self.condition.notify_all()

    def fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._limit

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Memory for one array; the caller holds the condition, and gives the bytes back by :meth:`give_back`."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start = -(-self._slab_used // _ALIGNMENT) * _ALIGNMENT
        if start + size > len(self._slab):
            self._slab, start = np.empty(max(_SLAB_BYTES, size), np.uint8), 0
        self._slab_used = start + size
        self._used += size
        self.peak = max(self.peak, self._used)
        return self._slab[start : start + size].view(dtype).reshape(shape)

    def give_back(self, size: int) -> None:
        with self.condition:
            self._used -= size
            if self._used == 0:
                self._slab = np.empty(0, np.uint8)  # the memory goes when the last copy in it has gone
            self.condition.notify_all()


@dataclass
class _Copy:
    """Rows that were copied before they changed: name → ((n, …), the same memory), and how many blocks need them."""

    row_n: np.ndarray
    arrays: dict[str, tuple[mx.nd.NDArray, np.ndarray]]
    bytes: int
    blocks: int


class TableSnapshot:
    """One table as it is now.

    Args:
        budget: shared by all tables of a save.
        block_rows: rows of the table that are written together; by default 4 MiB of its widest array.
    """

    def __init__(self, table: RowTable, budget: CopyBudget, block_rows: int | None = None) -> None:
        self._table = table
        self._budget = budget
        self._bytes_per_row = sum(_row_bytes(array) for array in table.arrays.values())
        widest = max(_row_bytes(array) for array in table.arrays.values())
        self._block_rows = block_rows or max(1, BLOCK_BYTES // widest)
        self._exists_R = None if table.exists_R is None else table.exists_R.copy()
        # True where nothing is left to be copied: the row is on its way to the disk, or has no value.
        self._done_R = np.zeros(len(table), bool) if self._exists_R is None else ~self._exists_R
        self._copies: dict[int, list[_Copy]] = defaultdict(list)
        if table.watch is not None:
            table.watch(self.before_change)
        else:
            self._copy_everything()

    @property
    def first(self) -> int:
        return self._table.first

    @property
    def stop(self) -> int:
        return self._table.first + len(self._table)

    @property
    def array_names(self) -> list[str]:
        return list(self._table.arrays)

    def count_blocks(self) -> int:
        """How many blocks have a row that exists."""
        starts = np.arange(0, len(self._table), self._block_rows)
        if self._exists_R is None or len(starts) == 0:
            return len(starts)
        return int(np.logical_or.reduceat(self._exists_R, starts).sum())

    def before_change(self, rows: slice | np.ndarray) -> None:
        """Copies those of the rows that are not on their way to the disk; called on the thread that trains."""
        budget = self._budget
        with budget.condition:
            while not budget.given_up:
                left = np.flatnonzero(~self._done_R[rows])
                if len(left) == 0:
                    return
                if budget.fits(len(left) * self._bytes_per_row):
                    row_n = left + (rows.start or 0) if isinstance(rows, slice) else np.sort(rows[left])
                    self._copy(row_n)
                    return
                budget.waits += 1
                budget.condition.wait()

    def end(self) -> None:
        """Training changes rows without a word from now on."""
        if self._table.watch is not None:
            self._table.watch(None)

    def blocks(self) -> Iterator[RowBlock]:
        """The rows block by block, on the thread that writes."""
        for number, start in enumerate(range(0, len(self._table), self._block_rows)):
            stop = min(start + self._block_rows, len(self._table))
            row_B = np.arange(start, stop)
            if self._exists_R is not None:
                row_B = row_B[self._exists_R[start:stop]]
            if len(row_B):
                yield RowBlock(row_B + self._table.first, self._read(number, row_B))

    def _read(self, number: int, row_B: np.ndarray) -> dict[str, np.ndarray]:
        with self._budget.condition:
            unchanged = bool((~self._done_R[row_B]).any())
            pushed = {name: _push_read(array, row_B) for name, array in self._table.arrays.items()} if unchanged else {}
            self._done_R[row_B] = True
            copies = self._copies.pop(number, [])
        arrays = {name: array.asnumpy() for name, array in pushed.items()}
        if not unchanged:
            arrays = {
                name: np.empty((len(row_B), *array.shape[1:]), array.dtype)
                for name, array in self._table.arrays.items()
            }
        for copy in copies:
            self._patch(arrays, row_B, copy)
        return arrays

    def _patch(self, arrays: dict[str, np.ndarray], row_B: np.ndarray, copy: _Copy) -> None:
        begin, end = np.searchsorted(copy.row_n, [row_B[0], row_B[-1] + 1])
        place = np.searchsorted(row_B, copy.row_n[begin:end])
        for name, (array, memory) in copy.arrays.items():
            array.wait_to_read()
            arrays[name][place] = memory[begin:end]
        copy.blocks -= 1
        if copy.blocks == 0:
            copy.arrays = {}
            self._budget.give_back(copy.bytes)

    def _copy_everything(self) -> None:
        with self._budget.condition:
            for start in range(0, len(self._table), self._block_rows):
                row_n = start + np.flatnonzero(~self._done_R[start : start + self._block_rows])
                if len(row_n):
                    self._copy(row_n)

    def _copy(self, row_n: np.ndarray) -> None:
        """Pushes the copies of ascending rows; the caller holds the condition."""
        arrays = {}
        for name, array in self._table.arrays.items():
            memory = self._budget.take((len(row_n), *array.shape[1:]), array.dtype)
            target = mx.nd.from_numpy(memory, zero_copy=True)
            _push_read(array, row_n, target)
            arrays[name] = (target, memory)
        self._done_R[row_n] = True
        numbers = np.unique(row_n // self._block_rows)
        copy = _Copy(row_n, arrays, len(row_n) * self._bytes_per_row, len(numbers))
        for number in numbers.tolist():
            self._copies[number].append(copy)


def _row_bytes(array: mx.nd.NDArray) -> int:
    return int(np.prod(array.shape[1:])) * np.dtype(array.dtype).itemsize


def _push_read(array: mx.nd.NDArray, rows: np.ndarray, target: mx.nd.NDArray | None = None) -> mx.nd.NDArray:
    """Pushes a copy of ascending rows to the machine's memory: to ``target``, or to what is returned."""
    start, stop = int(rows[0]), int(rows[-1]) + 1
    if stop - start == len(rows):
        piece = array[start:stop]  # a view
        return piece.copyto(target if target is not None else mx.cpu())
    index = mx.nd.array(rows, ctx=array.context, dtype="int64")
    if target is not None and array.context == target.context:
        return mx.nd.take(array, index, out=target)
    taken = mx.nd.take(array, index)
    return taken if target is None else taken.copyto(target)
