"""The least-recently-used table in C (``kernels/lru.c``), over memory of numpy's."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np

from partial_fc.head.kernels.build import LRU_SOURCE, library_path

_NONE = -1
_NODE = np.dtype([("identity", np.int64), ("previous", np.int32), ("next", np.int32)])
_INT64, _INT32, _POINTER = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p


class _Lru(ctypes.Structure):
    """Field for field the structure of lru.c."""

    _fields_ = [
        *((name, _POINTER) for name in ("node", "free", "table")),
        ("mask", _INT64),
        ("free_count", _INT64),
        ("head", _INT32),
        ("tail", _INT32),
        ("log_identity", _POINTER),
        ("log_previous", _POINTER),
        ("log_count", _INT64),
    ]


_ARGUMENTS = {
    "lru_access": [_POINTER, _INT64, _POINTER, _POINTER, _INT32],
    "lru_view": [_POINTER, _INT64, _POINTER],
    "lru_rollback": [_INT64],
    "lru_order": [_POINTER],
    "lru_fill": [_POINTER, _POINTER, _INT64],
}


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL:
    """The library.

    Raises:
        OSError: it has not been built for this machine, or does not load.
    """
    library = ctypes.CDLL(str(library_path(LRU_SOURCE)))
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes = [ctypes.POINTER(_Lru), *arguments]
        function.restype = _INT64 if name == "lru_order" else None
    return library


class NativeTable:
    """See :class:`partial_fc.head.lru.Table` for what each method does.

    Memory: 36 to 52 bytes a slot, and 12 a recorded access.
    """

    name = "C"

    def __init__(self, capacity: int) -> None:
        self._library = load()
        self._capacity = capacity
        size = 1 << (4 * capacity - 1).bit_length()
        self._node_Q = np.full(capacity, _NONE, dtype=_NODE)
        self._free_Q = np.arange(capacity - 1, -1, -1, dtype=np.int32)
        self._table = np.full(size, _NONE, dtype=np.int32)
        self._state = _Lru(
            node=self._node_Q.ctypes.data,
            free=self._free_Q.ctypes.data,
            table=self._table.ctypes.data,
            mask=size - 1,
            free_count=capacity,
            head=_NONE,
            tail=_NONE,
        )
        self._make_log(0)

    def __len__(self) -> int:
        return self._capacity - self._state.free_count

    @property
    def recorded(self) -> int:
        return self._state.log_count

    def access(self, identity_N: np.ndarray, record: bool) -> tuple[np.ndarray, np.ndarray]:
        identity_N = np.ascontiguousarray(identity_N)
        n = len(identity_N)
        if record and self.recorded + n > len(self._log_identity):
            self._make_log(2 * (self.recorded + n))
        slot_N, hit_N = np.empty(n, dtype=np.int64), np.empty(n, dtype=bool)
        pointers = identity_N.ctypes.data, n, slot_N.ctypes.data, hit_N.ctypes.data
        self._library.lru_access(self._state, *pointers, int(record))
        return slot_N, hit_N

    def view(self, identity_N: np.ndarray) -> np.ndarray:
        identity_N = np.ascontiguousarray(identity_N)
        slot_N = np.empty(len(identity_N), dtype=np.int64)
        self._library.lru_view(self._state, identity_N.ctypes.data, len(identity_N), slot_N.ctypes.data)
        return slot_N

    def rollback(self, count: int) -> None:
        self._library.lru_rollback(self._state, count)

    def forget(self) -> None:
        self._state.log_count = 0

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        slot_L = np.empty(len(self), dtype=np.int64)
        count = self._library.lru_order(self._state, slot_L.ctypes.data)
        assert count == len(slot_L), (count, len(slot_L))
        return self._node_Q["identity"][slot_L], slot_L

    def fill(self, identity_L: np.ndarray, slot_L: np.ndarray) -> None:
        is_free_Q = np.ones(self._capacity, dtype=bool)
        is_free_Q[slot_L] = False
        free = np.flatnonzero(is_free_Q)[::-1]
        self._free_Q[: len(free)] = free
        self._state.free_count = len(free)
        identity_L, slot_L = np.ascontiguousarray(identity_L), np.ascontiguousarray(slot_L)
        self._library.lru_fill(self._state, identity_L.ctypes.data, slot_L.ctypes.data, len(slot_L))

    def _make_log(self, size: int) -> None:
        """A log with room for ``size`` entries that begins as the one before."""
        count = self.recorded
        identity, previous = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int32)
        if count:
            identity[:count], previous[:count] = self._log_identity[:count], self._log_previous[:count]
        self._log_identity, self._log_previous = identity, previous
        self._state.log_identity, self._state.log_previous = identity.ctypes.data, previous.ctypes.data
