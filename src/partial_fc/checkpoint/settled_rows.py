"""Class centers of a run whose unsampled rows move on: saved as they are kept, read up to date.

A row is saved with how many updates it has had, and the updates that were made once for all ranks.

Legend: T updates, B rows of a block, D embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mxnet as mx
import numpy as np

from partial_fc.checkpoint.state import RowBlock, SavedPart
from partial_fc.head.decay_history import DecayHistory, settled
from partial_fc.head.stored_rows import momentum_as_float32

UPDATES = "lazy_updates"
"""The value that says how many updates were made; a part without it has no such rows."""
LAST_UPDATE = "last_update"
_FILE, _ARRAY = "centers-updates.params", "decay_and_momentum"


def history_state(history: DecayHistory | None) -> tuple[dict[str, Any], dict[str, dict[str, mx.nd.NDArray]]]:
    """The values and files by which a history is saved; none of None."""
    if history is None:
        return {}, {}
    steps_T2 = history.steps_T2
    files = {_FILE: {_ARRAY: mx.nd.array(steps_T2, ctx=mx.cpu(), dtype="float64")}} if len(steps_T2) else {}
    return {UPDATES: len(steps_T2)}, files


def read_history(saved: SavedPart) -> DecayHistory | None:
    """The updates of the run that saved the part; None where unsampled rows stayed as they were.

    Raises:
        ValueError: they are not what was saved.
    """
    updates = saved.values.get(UPDATES)
    if updates is None or updates == 0:
        return None if updates is None else DecayHistory()
    steps_T2 = saved.arrays(_FILE).get(_ARRAY)
    fits = steps_T2 is not None and steps_T2.dtype == np.float64 and steps_T2.shape == (updates, 2)
    if not fits or not np.isfinite(steps_T2).all():
        raise ValueError(f"{_FILE} does not hold the weight decay and momentum of {updates} updates")
    return DecayHistory(steps_T2)


def check_last_updates(arrays: dict[str, np.ndarray], history: DecayHistory | None) -> None:
    """Raises ValueError where saved rows do not say how many of the updates they have had."""
    if history is None:
        return
    last_B = arrays.get(LAST_UPDATE)
    if last_B is None or last_B.dtype != np.int32 or last_B.ndim != 1:
        raise ValueError("the saved class centers do not say which update each has had last, but their run counted it")
    if len(last_B) and not 0 <= last_B.min() <= last_B.max() <= len(history):
        raise ValueError(f"saved class centers have had updates outside the {len(history)} that were made")


class SettledRows:
    """The class centers of a checkpoint as the dense update has them, whether their run was lazy or not."""

    def __init__(self, saved: SavedPart) -> None:
        self._saved = saved
        self._history = read_history(saved)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[RowBlock]:
        """The saved rows with numbers in [start, stop), ascending: ``weight`` and ``momentum``, float32."""
        for numbers_B, arrays in self._saved.rows(start, stop):
            weight_BD = arrays["weight"].astype(np.float32)
            momentum_BD = np.zeros_like(weight_BD)
            if "momentum" in arrays:
                momentum_BD = momentum_as_float32(arrays["momentum"], arrays.get("scale"))
            check_last_updates(arrays, self._history)
            if self._history is not None:
                factors_B4 = self._history.factors(arrays[LAST_UPDATE])
                weight_BD, momentum_BD = settled(weight_BD, momentum_BD, factors_B4)
            yield RowBlock(numbers_B, {"weight": weight_BD, "momentum": momentum_BD})

    def untouched(self, numbers_B: np.ndarray, initial_BD: np.ndarray) -> RowBlock:
        """Rows that were not saved, because no update has sampled them: from their initial values on."""
        momentum_BD = np.zeros_like(initial_BD)
        if self._history is not None:
            factors_B4 = self._history.factors(np.zeros(len(initial_BD), np.int32))
            initial_BD, momentum_BD = settled(initial_BD, momentum_BD, factors_B4)
        return RowBlock(numbers_B, {"weight": initial_BD, "momentum": momentum_BD})
