"""The least-recently-used table in plain Python: a linked list in lists, a dictionary, a log of what to undo.

Serves where the compiled form (:mod:`partial_fc.head.lru_native`) is missing, and is what that is measured against.
"""

from __future__ import annotations

import numpy as np

_NONE = -1


class PlainTable:
    """See :class:`partial_fc.head.lru.Table` for what each method does."""

    name = "plain Python"

    def __init__(self, capacity: int) -> None:
        self._slot_of: dict[int, int] = {}
        self._identity = [_NONE] * capacity
        self._previous = [_NONE] * capacity
        self._next = [_NONE] * capacity
        self._free = list(range(capacity - 1, -1, -1))
        self._head = self._tail = _NONE
        # One entry a recorded access: (was present, the slot used next after it, the identity that it replaced).
        self._log: list[tuple[bool, int, int]] = []

    def __len__(self) -> int:
        return len(self._slot_of)

    @property
    def recorded(self) -> int:
        return len(self._log)

    def access(self, identity_N: np.ndarray, record: bool) -> tuple[np.ndarray, np.ndarray]:
        slots, hits = [], []
        for identity in identity_N.tolist():
            slot = self._slot_of.get(identity, _NONE)
            hit, previous, replaced = slot != _NONE, _NONE, _NONE
            if hit:
                previous = self._previous[slot]
                self._take_out(slot)
            elif self._free:
                slot = self._free.pop()
            else:
                slot = self._tail
                replaced = self._identity[slot]
                del self._slot_of[replaced]
                self._take_out(slot)
            if not hit:
                self._slot_of[identity] = slot
                self._identity[slot] = identity
            self._put_behind(slot, _NONE)
            if record:
                self._log.append((hit, previous, replaced))
            slots.append(slot)
            hits.append(hit)
        return np.array(slots, dtype=np.int64), np.array(hits, dtype=bool)

    def view(self, identity_N: np.ndarray) -> np.ndarray:
        return np.array([self._slot_of.get(identity, _NONE) for identity in identity_N.tolist()], dtype=np.int64)

    def rollback(self, count: int) -> None:
        for _ in range(count):
            hit, previous, replaced = self._log.pop()
            slot = self._head
            self._take_out(slot)
            if hit:
                self._put_behind(slot, previous)
                continue
            del self._slot_of[self._identity[slot]]
            if replaced == _NONE:
                self._free.append(slot)
            else:
                self._slot_of[replaced] = slot
                self._identity[slot] = replaced
                self._put_behind(slot, self._tail)

    def forget(self) -> None:
        self._log.clear()

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        slots, slot = [], self._head
        while slot != _NONE:
            slots.append(slot)
            slot = self._next[slot]
        identities = [self._identity[slot] for slot in slots]
        return np.array(identities, dtype=np.int64), np.array(slots, dtype=np.int64)

    def fill(self, identity_L: np.ndarray, slot_L: np.ndarray) -> None:
        taken = set(slot_L.tolist())
        self._free = [slot for slot in self._free if slot not in taken]
        for identity, slot in zip(identity_L[::-1].tolist(), slot_L[::-1].tolist(), strict=True):
            self._slot_of[identity] = slot
            self._identity[slot] = identity
            self._put_behind(slot, _NONE)

    def _take_out(self, slot: int) -> None:
        previous, following = self._previous[slot], self._next[slot]
        if previous == _NONE:
            self._head = following
        else:
            self._next[previous] = following
        if following == _NONE:
            self._tail = previous
        else:
            self._previous[following] = previous

    def _put_behind(self, slot: int, previous: int) -> None:
        """Puts a slot behind another one, or at the head."""
        following = self._head if previous == _NONE else self._next[previous]
        self._previous[slot], self._next[slot] = previous, following
        if previous == _NONE:
            self._head = slot
        else:
            self._next[previous] = slot
        if following == _NONE:
            self._tail = slot
        else:
            self._previous[following] = slot
