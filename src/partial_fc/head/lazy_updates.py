"""Momentum and weight decay of the rows that an update does not sample, made up for when they are next sampled.

The dense update moves every row in every update: a row without a gradient by its momentum and by weight decay. Here
each row keeps how many updates it has had, 4 bytes on the host; what it has missed is four numbers a row
(:mod:`partial_fc.head.decay_history`), applied where the row is read and where it is written next.
"""

from __future__ import annotations

from collections.abc import Sequence

import mxnet as mx
import numpy as np

from partial_fc.head.decay_history import DecayHistory, settled
from partial_fc.head.row_store import RowStore
from partial_fc.head.stored_rows import momentum_as_float32, put_rows

_ELEMENTS_AT_ONCE = 1 << 22


class LazyUpdates:
    """The updates made, and how many of them each row of a rank has had.

    Args:
        stores: of the rows, which count as having had no update yet; ``put_rows`` says otherwise.
        history: the updates.
    """

    def __init__(self, stores: Sequence[RowStore], history: DecayHistory) -> None:
        self._stores = stores
        self.history = history
        for store in stores:
            store.last_R = np.zeros(len(store), np.int32)

    def missed(self, store: RowStore, rows_B: np.ndarray) -> np.ndarray | None:
        """(B, 4) float32, the factors that bring rows of a store up to date; None where no row has missed an update."""
        last_B = store.last_R[rows_B]
        return self.history.factors(last_B) if (last_B < len(self.history)).any() else None

    def any_missed(self) -> bool:
        """Whether any row of the rank has missed an update."""
        return any((store.last_R < len(self.history)).any() for store in self._stores)

    def updated(self, rows_S: np.ndarray, decay: float, momentum: float) -> None:
        """An update with ηλ = ``decay`` and μ = ``momentum`` was made, and these rows, (S,) ascending, have had it."""
        self.history.append(decay, momentum)
        for store in self._stores:
            begin, end = np.searchsorted(rows_S, [store.first, store.first + len(store)])
            store.last_R[rows_S[begin:end] - store.first] = len(self.history)

    def settle_all(self) -> None:
        """Brings every row up to date where it is stored; all have a value. Smaller types round to the nearest."""
        for store in self._stores:
            behind = np.flatnonzero(store.last_R < len(self.history))
            step = max(1, _ELEMENTS_AT_ONCE // store.weight_RD.shape[1])
            for start in range(0, len(behind), step):
                self._settle(store, behind[start : start + step])

    def _settle(self, store: RowStore, rows_B: np.ndarray) -> None:
        if store.before_change is not None:
            store.before_change(rows_B)
        factors_B4 = self.history.factors(store.last_R[rows_B])
        scale_B1 = None if store.scale_R1 is None else _take(store.scale_R1, rows_B)
        momentum_BD = momentum_as_float32(_take(store.momentum_RD, rows_B), scale_B1)
        weight_BD = _take(store.weight_RD, rows_B).astype(np.float32)
        weight_BD, momentum_BD = settled(weight_BD, momentum_BD, factors_B4)
        last_B = np.full(len(rows_B), len(self.history), np.int32)
        put_rows(store, rows_B, {"weight": weight_BD, "momentum": momentum_BD, "last_update": last_B})


def _take(stored: mx.nd.NDArray, rows_B: np.ndarray) -> np.ndarray:
    return mx.nd.take(stored, mx.nd.array(rows_B, ctx=stored.context, dtype="int64")).asnumpy()
