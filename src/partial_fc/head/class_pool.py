"""The dynamic class pool of F²C: two prototypes a slot, made from features, each slot that of an identity in use.

    a use of an absent identity    writes prototype 0 of its slot, and its pointer becomes 1
    a use of a present one         writes the prototype that the pointer names, and turns the pointer over

Uses go in the order of the gathered batch; where several write the same prototype, the last one stays. The prototypes
are sharded over ranks by slot, contiguous ranges as class centers are; which identity has which slot, the order of use
and the pointers are the same on every rank, because all ranks make the same uses.

A slot that no identity has had yet holds a random direction, a function of the seed and the slot's number alone.

Legend: N features of a gathered batch, Q slots, Q_k of this rank, D embedding size, U slots used by a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from partial_fc.head.initialization import initial_rows
from partial_fc.head.lru import LRU
from partial_fc.head.partition import ClassPartition

nd = mx.nd

LARGEST_ARRAY = 2**31 - 1  # elements of an array of MXNet's
_ROWS_AT_ONCE = 4096  # of the initial prototypes: their hashes take 8 bytes a number


@dataclass(frozen=True)
class _Undo:
    """What a trial must put back."""

    uses: int
    slot_U: np.ndarray
    pointer_U: np.ndarray
    rows: list[tuple[np.ndarray, nd.NDArray] | None]  # of each prototype: this rank's rows, and what they held


class ClassPool:
    """The pool of one rank.

    Args:
        slots: Q.
        embedding_size: D.
        rank, ranks: this rank, and how many there are.
        seed: decides the directions of slots never used.
        context: where the prototypes are and where the features come from.
        lru_form: of :class:`partial_fc.head.lru.LRU`.

    Attributes:
        lru: identity → slot.
        pointer_Q: (Q,) uint8, the prototype that the next use of a present identity writes.
        prototypes: two (Q_k, D) float32, the rank's rows of prototype 0 and of prototype 1.
        context: where they are.
        before_change: called with rows of this rank (distinct, int64) before a prototype of theirs changes.
        first_slot, count: the rank's slots are [first_slot, first_slot + count).

    Raises:
        ValueError: no slot, a rank that would own none, or a part of a rank that no array holds.
    """

    def __init__(
        self,
        slots: int,
        embedding_size: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        seed: int = 0,
        context: mx.Context | None = None,
        lru_form: str = "auto",
    ) -> None:
        if slots < ranks or slots < 1:
            raise ValueError(
                f"every rank owns at least one slot of the pool, but there are {slots} slots for {ranks} ranks: "
                "give the pool more slots (--queue-size)"
            )
        partition = ClassPartition(slots, ranks)
        self.slots = slots
        self.embedding_size = embedding_size
        self.first_slot = partition.start(rank)
        self.count = partition.count(rank)
        self.pointer_Q = np.zeros(slots, dtype=np.uint8)
        if self.count * embedding_size >= LARGEST_ARRAY:
            raise ValueError(
                f"a rank's part of the pool must have fewer than 2^31 numbers, but {self.count} slots × "
                f"{embedding_size} are more: start more ranks, or give the pool fewer slots (--queue-size)"
            )
        self.lru = LRU(slots, lru_form)
        self.context = context if context is not None else mx.cpu()
        self.prototypes = [nd.zeros((self.count, embedding_size), ctx=self.context) for _ in range(2)]
        for start in range(0, self.count, _ROWS_AT_ONCE):
            number = np.arange(start, min(start + _ROWS_AT_ONCE, self.count))
            rows = initial_rows(seed, self.first_slot + number, embedding_size)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            self.prototypes[0][start : start + len(number)] = nd.array(rows, ctx=self.context)
        self.before_change: Callable[[np.ndarray], None] | None = None
        self._undo: _Undo | None = None

    def try_update(self, identity_N: np.ndarray, feature_ND: nd.NDArray) -> np.ndarray:
        """Uses the identities of a gathered batch, on trial: :meth:`keep` or :meth:`rollback` must follow.

        Args:
            identity_N: (N,) integers in [0, 2⁶³), the same on every rank.
            feature_ND: (N, D) float32 of unit length, the same on every rank.

        Returns:
            int64, ascending: the slots whose identity was used while it was present, on any rank.

        Raises:
            ValueError: more identities than slots, or one that is no integer in [0, 2⁶³); nothing has changed then.
        """
        assert self._undo is None, "the last trial must be kept or rolled back first"
        distinct = len(np.unique(identity_N))
        if distinct > self.slots:
            raise ValueError(
                f"the pool must have a slot for each identity of one gathered batch, but it has {self.slots} slots "
                f"and the batch {distinct} identities: give the pool more slots (--queue-size)"
            )
        uses = self.lru.try_get(identity_N)
        order_N = np.argsort(uses.slot_N, kind="stable")
        slot_U, first_U, count_U = np.unique(uses.slot_N[order_N], return_index=True, return_counts=True)
        pointer_U = self.pointer_Q[slot_U]
        # No identity of the batch gives way to another one of it: only its first use can have found it absent.
        start_U = np.where(uses.hit_N[order_N[first_U]], pointer_U, 0)
        rows = []
        for prototype in range(2):
            # The last use of each slot, or the last but one, wrote this prototype.
            last_U = (start_U + count_U - 1) % 2
            back_U = np.where(last_U == prototype, 0, 1)
            wrote_U = back_U < count_U
            source = order_N[(first_U + count_U - 1 - back_U)[wrote_U]]
            rows.append(self._write(prototype, slot_U[wrote_U], source, feature_ND))
        self.pointer_Q[slot_U] = (start_U + count_U) % 2
        self._undo = _Undo(len(identity_N), slot_U, pointer_U, rows)
        return np.unique(uses.slot_N[uses.hit_N])

    def keep(self) -> None:
        """Makes the trial's changes for good."""
        assert self._undo is not None
        self.lru.keep()
        self._undo = None

    def rollback(self) -> None:
        """Undoes the trial: prototypes, pointers, slots and the order of use are exactly as before it."""
        undo, self._undo = self._undo, None
        assert undo is not None
        self.lru.rollback(undo.uses)
        self.pointer_Q[undo.slot_U] = undo.pointer_U
        for prototype, saved in enumerate(undo.rows):
            if saved is not None:
                self._copy_rows(prototype, *saved)

    def own(self, slots: np.ndarray) -> np.ndarray:
        """Which of some slots this rank holds, bool."""
        return (slots >= self.first_slot) & (slots < self.first_slot + self.count)

    def put_rows(self, rows: np.ndarray, prototypes: Sequence[np.ndarray]) -> None:
        """Takes both prototypes, (n, D) each, of some of this rank's rows from a checkpoint."""
        for number, values in enumerate(prototypes):
            if values.shape != (len(rows), self.embedding_size):
                raise ValueError(f"a saved prototype has the shape {values.shape}, not (rows, {self.embedding_size})")
            self._copy_rows(number, rows, nd.array(values, ctx=self.context, dtype="float32"))

    def _write(
        self, prototype: int, slots: np.ndarray, source: np.ndarray, feature_ND: nd.NDArray
    ) -> tuple[np.ndarray, nd.NDArray] | None:
        """Writes features to this rank's rows among some distinct slots; the rows and what they held."""
        own = self.own(slots)
        if not own.any():
            return None
        rows = slots[own] - self.first_slot
        before = nd.take(self.prototypes[prototype], self._index(rows))
        self._copy_rows(prototype, rows, nd.take(feature_ND, self._index(source[own])))
        return rows, before

    def _copy_rows(self, prototype: int, rows: np.ndarray, values: nd.NDArray) -> None:
        if self.before_change is not None:
            self.before_change(rows)
        stored = self.prototypes[prototype]
        nd.contrib.index_copy(stored, self._index(rows), values, out=stored)

    def _index(self, rows: np.ndarray) -> nd.NDArray:
        return nd.array(rows, ctx=self.context, dtype="int64")
