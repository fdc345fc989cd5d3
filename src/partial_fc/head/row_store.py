"""Where a rank's class centers are: stores of rows, in a device's memory, the machine's, or in files.

Rows cost memory when they are first touched: before, host memory and files hold zeros that nobody has written.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call

from partial_fc.center_storage import Storage
from partial_fc.collectives import Collectives

# MXNet counts an array's elements with 31 bits; a store stays far below, so that no single allocation is huge.
LARGEST_STORE_ELEMENTS = 2**28
_LARGE_PAGE_BYTES = 2**21
# MXNet takes no int8 memory from outside: int8 is kept as its bit pattern.
_MXNET_TYPE = {"float32": "float32", "float16": "float16", "int8": "uint8"}


@dataclass
class RowStore:
    """A contiguous part of a rank's rows, R of them.

    Attributes:
        first: number of its first row among the rank's rows.
        first_class: the class of its first row.
        seed: decides the rows' initial values.
        weight_RD, momentum_RD: rows and momentum, in the storage's types; int8 as its bit pattern in uint8.
        scale_R1: (R, 1) float32, what an int8 momentum is multiplied by; None for other types.
        inverse_norm_R: (R,) float32, 1/|w|.
        touched_R: (R,) bool, whether a row has its initial value yet.
        untouched: how many have not.
        last_R: (R,) int32, how many updates a row has had, where unsampled rows move on too; else None.
        before_change: called, where it is set, with the numbers of rows before they change: whoever saves the rows of
            an earlier moment copies them then.
    """

    first: int
    first_class: int
    seed: int
    weight_RD: mx.nd.NDArray
    momentum_RD: mx.nd.NDArray
    scale_R1: mx.nd.NDArray | None
    inverse_norm_R: mx.nd.NDArray
    touched_R: np.ndarray = field(init=False)
    untouched: int = field(init=False)
    last_R: np.ndarray | None = field(init=False, default=None)
    before_change: Callable[[slice | np.ndarray], None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.touched_R = np.zeros(len(self), dtype=bool)
        self.untouched = len(self)

    def __len__(self) -> int:
        return self.weight_RD.shape[0]

    def part(self, rows: slice) -> RowStore:
        """The store of some of its rows, in the same memory; itself for all of them."""
        start, stop, _ = rows.indices(len(self))
        if stop - start == len(self):
            return self
        arrays = (self.weight_RD, self.momentum_RD, self.scale_R1, self.inverse_norm_R)
        views = [array if array is None else array[rows] for array in arrays]
        return RowStore(self.first + start, self.first_class + start, self.seed, *views)

    def first_touched(self, rows: np.ndarray) -> np.ndarray:
        """Marks rows as touched and returns those that were not."""
        if self.untouched == 0:
            return rows[:0]
        new = rows[~self.touched_R[rows]]
        self.touched_R[new] = True
        self.untouched -= len(new)
        return new


def make_stores(
    storage: Storage, *, first_class: int, count: int, embedding_size: int, seed: int, context: mx.Context, rank: int
) -> list[RowStore]:
    """Makes the stores of a rank's ``count`` rows.

    Args:
        context: the device that computes; the tier ``device`` keeps the rows there.
        rank: goes into the files' names.

    Raises:
        ValueError: the disk has no room for the files.
        OSError: the directory cannot be written; nothing is left in it.
    """
    rows_per_store = max(1, LARGEST_STORE_ELEMENTS // embedding_size)
    maker = _Maker(storage, context, rank)
    stores = []
    for first in range(0, count, rows_per_store):
        rows = min(rows_per_store, count - first)
        store = RowStore(
            first,
            first_class + first,
            seed,
            maker.zeros(f"weight-{first}", (rows, embedding_size), storage.weight),
            maker.zeros(f"momentum-{first}", (rows, embedding_size), _MXNET_TYPE[storage.momentum]),
            maker.zeros(f"scale-{first}", (rows, 1), "float32") if storage.momentum == "int8" else None,
            maker.zeros(f"norm-{first}", (rows,), "float32"),
        )
        arrays = (store.weight_RD, store.momentum_RD, store.scale_R1, store.inverse_norm_R)
        # At the process's end its memory goes with it, and an operation may wait for a rank that is no more.
        weakref.finalize(store, _wait_until_unused, arrays).atexit = False
        stores.append(store)
    return stores


def _wait_until_unused(arrays: tuple[mx.nd.NDArray | None, ...]) -> None:
    """Waits for the operations that read or write the arrays.

    MXNet keeps its own memory until they are done, but gives up NumPy's as soon as nobody holds the array.
    """
    for array in arrays:
        if array is not None:
            check_call(_LIB.MXNDArrayWaitToWrite(array.handle))


def check_room(
    storage: Storage, *, num_classes: int, embedding_size: int, context: mx.Context, collectives: Collectives
) -> None:
    """Refuses class centers that the machine cannot hold, before anything is made.

    Raises:
        ValueError: the memory or the disk has less room than the ranks of this machine need.
    """
    rows = -(-num_classes // collectives.size) * collectives.local_size
    needed = rows * storage.bytes_per_row(embedding_size)
    if storage.tier == "file":
        assert storage.directory is not None
        storage.directory.mkdir(parents=True, exist_ok=True)
        if not os.access(storage.directory, os.W_OK):
            raise ValueError(f"the directory of the class centers, {storage.directory}, cannot be written to")
        status = os.statvfs(storage.directory)
        room, where = status.f_bavail * status.f_frsize, f"the disk of {storage.directory} has"
    elif storage.tier == "host" or context.device_type == "cpu":
        room, where = available_memory(), "this machine's memory has"
    else:
        room, where = mx.context.gpu_memory_info(context.device_id)[0], "the GPU has"
        needed //= collectives.local_size
    if needed > room:
        raise ValueError(
            f"{num_classes} class centers kept as {storage} take {needed / 2**30:.1f} GiB here, but {where} "
            f"{room / 2**30:.1f} GiB left: use more machines, or --storage with smaller types or another tier"
        )


def available_memory() -> int:
    """Bytes of memory that new allocations can have, as Linux estimates them; a container's limit counts.

    What of a container's memory only caches files can be taken back, as in Linux's own estimate.
    """
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    limit, used, parts = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        cached = 0
        if parts.exists():
            statistics = dict(line.split() for line in parts.read_text().splitlines())
            cached = int(statistics.get("inactive_file", 0))
        available = min(available, int(limit.read_text()) - int(used.read_text()) + cached)
    return max(0, available)


@dataclass
class _Maker:
    """Makes arrays of zeros in a tier."""

    storage: Storage
    context: mx.Context
    rank: int

    def zeros(self, name: str, shape: tuple[int, ...], dtype: str) -> mx.nd.NDArray:
        if self.storage.tier == "device" and self.context.device_type != "cpu":
            return mx.nd.zeros(shape, ctx=self.context, dtype=dtype)
        if self.storage.tier == "file" and len(shape) == 2 and shape[1] > 1:
            return mx.nd.from_numpy(self._map_file(f"centers-{self.rank}-{name}", shape, dtype), zero_copy=True)
        return mx.nd.from_numpy(_untouched_memory(shape, dtype), zero_copy=True)

    def _map_file(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        assert self.storage.directory is not None
        self.storage.directory.mkdir(parents=True, exist_ok=True)
        path = self.storage.directory / name
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with path.open("wb+") as file:
            # Only the mapping keeps the file: it goes with the process, however that ends.
            path.unlink()
            try:
                # Room is taken now: a mapped file that meets a full disk later kills the process.
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise OSError(f"no room for {size / 2**30:.1f} GiB of class centers in {path.parent}: "
                              f"{error.strerror}") from None  # fmt: skip
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)


def _untouched_memory(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Zeros that take no memory before they are written (MXNet's own are written at once), on page boundaries.

    Large pages: rows are read in random order, and each would miss the processor's table of small ones.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _LARGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=dtype).reshape(shape)
