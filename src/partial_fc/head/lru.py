"""Which identity has which slot of a pool, by least recent use: a table that works on arrays of identities at once.

An identity that is used moves to the front. One that is absent takes the free slot of the lowest number, or, where all
are taken, the slot of the identity that was used longest ago. Uses on trial (:meth:`LRU.try_get`) are undone exactly:
slots, identities and order. The work runs in C where it is compiled (``python -m partial_fc.head.kernels.build``), in
plain Python otherwise; both give the same.

Legend: Q slots, L of them in use, N identities of a call.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, Protocol

import numpy as np

from partial_fc.head import lru_native
from partial_fc.head.lru_native import NativeTable
from partial_fc.head.lru_plain import PlainTable

logger = logging.getLogger("partial_fc")

FORMS = ("auto", "C", "plain")
LARGEST_CAPACITY = 2**30  # slots are int32 in the compiled form
_LARGEST_IDENTITY = 2**63 - 1


class Uses(NamedTuple):
    """What the uses of N identities found.

    slot_N: int64, the slot of each. hit_N: bool, whether it was present when its turn came; a repeated identity is
    present the second time.
    """

    slot_N: np.ndarray
    hit_N: np.ndarray


class Table(Protocol):
    """The work itself; identities and slots are int64 arrays that have been checked."""

    name: str

    def __init__(self, capacity: int) -> None: ...

    def __len__(self) -> int: ...

    @property
    def recorded(self) -> int:
        """How many uses can be undone."""

    def access(self, identity_N: np.ndarray, record: bool) -> tuple[np.ndarray, np.ndarray]:
        """Uses the identities in turn: their slots, and whether each was present."""

    def view(self, identity_N: np.ndarray) -> np.ndarray:
        """The identities' slots, −1 for those absent."""

    def rollback(self, count: int) -> None:
        """Undoes the last recorded uses."""

    def forget(self) -> None:
        """Takes the recorded uses as they are."""

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """Identities and their slots, most recently used first."""

    def fill(self, identity_L: np.ndarray, slot_L: np.ndarray) -> None:
        """Fills an empty table, most recently used first."""


class LRU:
    """A table of at most Q identities.

    Args:
        capacity: Q, from 1 to 2³⁰.
        form: ``C``, ``plain``, or ``auto``: C where it can be had.

    Raises:
        ValueError: a capacity out of its range, an unknown form, or C where it is not compiled.
    """

    def __init__(self, capacity: int, form: str = "auto") -> None:
        if not 1 <= capacity <= LARGEST_CAPACITY:
            raise ValueError(f"a pool must have from 1 to {LARGEST_CAPACITY} slots, but has {capacity}")
        self.capacity = int(capacity)
        self._make_table = _select(form)
        self._table = self._make_table(self.capacity)

    @property
    def form(self) -> str:
        """The form that serves: for a log."""
        return self._table.name

    def __len__(self) -> int:
        """L: how many slots are in use."""
        return len(self._table)

    def get(self, identity_N: np.ndarray) -> Uses:
        """Uses N identities in the order of the array, for good: uses on trial before them are kept too.

        Raises:
            ValueError: an identity that is no integer in [0, 2⁶³); nothing is used then.
        """
        identity_N = _identities(identity_N)
        self._table.forget()
        return Uses(*self._table.access(identity_N, record=False))

    def try_get(self, identity_N: np.ndarray) -> Uses:
        """As :meth:`get`, on trial: :meth:`rollback` can undo it."""
        return Uses(*self._table.access(_identities(identity_N), record=True))

    def view(self, identity_N: np.ndarray) -> np.ndarray:
        """(N,) int64, the slot of each identity or −1 where it is absent. Nothing is used.

        Raises:
            ValueError: an identity that is no integer in [0, 2⁶³).
        """
        return self._table.view(_identities(identity_N))

    def keep(self) -> None:
        """Makes the uses on trial so far count for good."""
        self._table.forget()

    def rollback(self, n: int) -> None:
        """Undoes the last ``n`` uses on trial: slots, identities and order are as before them.

        Raises:
            ValueError: fewer uses on trial were made since the last :meth:`get`, :meth:`keep` or :meth:`restore`.
        """
        if not 0 <= n <= self._table.recorded:
            raise ValueError(f"from 0 to {self._table.recorded} uses on trial can be undone, but not {n}")
        self._table.rollback(n)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs: ``capacity``, and the ``identities`` and ``slots`` in use, int64 (L,) each,
        most recently used first. Uses on trial count as made."""
        identity_L, slot_L = self._table.order()
        return {"capacity": self.capacity, "identities": identity_L, "slots": slot_L}

    def restore(self, state: dict[str, Any]) -> None:
        """Becomes what :meth:`state` was taken of; the table is as it was where an error is raised.

        Raises:
            ValueError: another capacity, more identities than slots or otherwise, an identity or a slot twice, an
                identity that is no integer in [0, 2⁶³), a slot outside [0, Q).
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"the saved pool has {state['capacity']} slots and this one has {self.capacity}")
        identity_L, slot_L = _identities(state["identities"]), np.asarray(state["slots"])
        if identity_L.shape != slot_L.shape:
            raise ValueError(
                f"a saved LRU must have a slot for each identity, but has {identity_L.size} and {slot_L.size}"
            )
        if slot_L.size and (slot_L.dtype.kind not in "iu" or slot_L.min() < 0 or slot_L.max() >= self.capacity):
            wrong = slot_L if slot_L.dtype.kind not in "iu" else slot_L[(slot_L < 0) | (slot_L >= self.capacity)]
            raise ValueError(f"slots of a saved LRU must lie in [0, {self.capacity}), but one is {wrong[0]}")
        for what, values in (("slot", slot_L), ("identity", identity_L)):
            distinct, counts = np.unique(values, return_counts=True)
            if len(distinct) != len(values):
                raise ValueError(f"a saved LRU must not hold the same {what} twice, but {distinct[counts > 1][0]} is")
        table = self._make_table(self.capacity)
        table.fill(identity_L, slot_L.astype(np.int64))
        self._table = table


def _select(form: str) -> type[Table]:
    if form not in FORMS:
        raise ValueError(f"the form of an LRU must be one of {', '.join(FORMS)}, but is {form!r}")
    if form == "plain":
        return PlainTable
    try:
        lru_native.load()
    except OSError as error:
        if form == "C":
            raise ValueError(f"the LRU's C form needs its library: {error}") from error
        logger.warning("the LRU runs in plain Python: its C form is not there (%s)", error)
        return PlainTable
    return NativeTable


def _identities(identity_N: np.ndarray) -> np.ndarray:
    """The identities as int64, when they are such."""
    values = np.asarray(identity_N)
    if values.ndim != 1:
        raise ValueError(f"identities must be an array of one axis, but its shape is {values.shape}")
    if values.size == 0:
        return np.empty(0, dtype=np.int64)
    if values.dtype == object:  # Python's own integers past 2⁶⁴
        whole = all(isinstance(value, int) for value in values)
        in_range = whole and all(0 <= value <= _LARGEST_IDENTITY for value in values)
    else:
        whole = values.dtype.kind in "iu"
        in_range = whole and values.min() >= 0 and int(values.max()) <= _LARGEST_IDENTITY
    if not in_range:
        outside = [value for value in values.tolist() if not whole or not 0 <= value <= _LARGEST_IDENTITY]
        raise ValueError(f"an identity must be an integer in [0, 2^63), but one is {outside[0]!r}")
    return values.astype(np.int64)
