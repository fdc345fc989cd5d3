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
_LARGEST_SLAB = 1 << 25  # numpy asks for large pages where an array is 4 MiB or more
_ALIGNMENT = 64


class _Slab:
    """A piece of memory from which copies take theirs, one behind the other; free again when the last has gone."""

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size, np.uint8)
        self.end = 0
        self.copies = 0


class CopyMemory:
    """The memory for copies, on one rank: kept from save to save, because fresh pages cost more than the copies.

    Args:
        limit: bytes; a single copy may be larger when it is alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slab_bytes = max(min(limit // 16, _LARGEST_SLAB), 1)
        self._slabs: list[_Slab] = []

    @property
    def bytes(self) -> int:
        """What it takes at present."""
        return sum(len(slab.memory) for slab in self._slabs)

    def prepare(self, size: int) -> None:
        """Takes what so many bytes of copies need, within the limit, and touches its pages."""
        while self.bytes + self._slab_bytes <= min(self._limit, size + self._slab_bytes):
            slab = _Slab(self._slab_bytes)
            slab.memory.fill(0)
            self._slabs.append(slab)

    def take(self, size: int) -> tuple[_Slab, np.ndarray] | None:
        """Memory for one copy, or None when there is none within the limit."""
        slab = next((slab for slab in self._slabs if slab.end + size <= len(slab.memory)), None)
        if slab is None:
            needed = max(size, self._slab_bytes)
            if self.bytes + needed > self._limit:
                self._slabs = [slab for slab in self._slabs if slab.copies]
                if self._slabs and self.bytes + needed > self._limit:
                    return None
            slab = _Slab(needed)
            self._slabs.append(slab)
        memory = slab.memory[slab.end : slab.end + size]
        slab.end += -(-size // _ALIGNMENT) * _ALIGNMENT
        slab.copies += 1
        return slab, memory

    def give_back(self, slab: _Slab) -> None:
        slab.copies -= 1
        if slab.copies == 0:
            slab.end = 0

    def forget(self) -> None:
        """No copy is in use any more: after a save, however it ended."""
        for slab in self._slabs:
            slab.end = slab.copies = 0


class CopyBudget:
    """Who may take of that memory in one save, and who waits.

    Attributes:
        condition: held while rows are claimed; notified when memory is given back.
        memory: what copies are taken from.
        waits: how often training had to wait.
    """

    def __init__(self, memory: CopyMemory | int) -> None:
        self.condition = threading.Condition()
        self.memory = CopyMemory(memory) if isinstance(memory, int) else memory
        self.memory.forget()
        self.waits = 0
        self._given_up = False

    @property
    def given_up(self) -> bool:
        """Whether the save has failed or ended, so that nothing needs to be copied any more."""
        return self._given_up

    def give_up(self) -> None:
        """Lets training go on without copies."""
        with self.condition:
            self._given_up = True
            self.condition.notify_all()

    def give_back(self, slab: _Slab) -> None:
        with self.condition:
            self.memory.give_back(slab)
            self.condition.notify_all()


@dataclass
class _Copy:
    """Rows that were copied before they changed: name → ((n, …), the same memory), and how many blocks need them."""

    row_n: np.ndarray
    arrays: dict[str, tuple[mx.nd.NDArray, np.ndarray]]
    slab: _Slab
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
        widest = max(_row_bytes(array) for array in table.arrays.values())
        self._block_rows = block_rows or max(1, BLOCK_BYTES // widest)
        self._exists_R = None if table.exists_R is None else table.exists_R.copy()
        self._small = {name: numbers_R.copy() for name, numbers_R in table.small.items()}
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
        return [*self._table.arrays, *self._small]

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
                row_n = left + (rows.start or 0) if isinstance(rows, slice) else np.sort(rows[left])
                if self._copy(row_n):
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
                small = {name: numbers_R[row_B] for name, numbers_R in self._small.items()}
                yield RowBlock(row_B + self._table.first, self._read(number, row_B) | small)

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
            self._budget.give_back(copy.slab)

    def _copy_everything(self) -> None:
        """Without regard to the bound: what is not watched is small."""
        memory = CopyMemory(1 << 62)
        with self._budget.condition:
            for start in range(0, len(self._table), self._block_rows):
                row_n = start + np.flatnonzero(~self._done_R[start : start + self._block_rows])
                if len(row_n):
                    self._copy(row_n, memory)

    def _copy(self, row_n: np.ndarray, memory: CopyMemory | None = None) -> bool:
        """Pushes the copies of ascending rows, unless there is no memory; the caller holds the condition."""
        sizes = {name: len(row_n) * _row_bytes(array) for name, array in self._table.arrays.items()}
        aligned = {name: -(-size // _ALIGNMENT) * _ALIGNMENT for name, size in sizes.items()}
        taken = (memory or self._budget.memory).take(sum(aligned.values()))
        if taken is None:
            return False
        slab, free = taken
        arrays = {}
        for name, array in self._table.arrays.items():
            piece = free[: sizes[name]].view(array.dtype).reshape(len(row_n), *array.shape[1:])
            free = free[aligned[name] :]
            target = mx.nd.from_numpy(piece, zero_copy=True)
            _push_read(array, row_n, target)
            arrays[name] = (target, piece)
        self._done_R[row_n] = True
        numbers = np.unique(row_n // self._block_rows)
        copy = _Copy(row_n, arrays, slab, len(numbers))
        for number in numbers.tolist():
            self._copies[number].append(copy)
        return True


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
