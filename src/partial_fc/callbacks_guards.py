"""Callbacks that end a run which has gone wrong, before it costs more time."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import numpy as np

from partial_fc.backbone import Backbone
from partial_fc.collectives import Collectives
from partial_fc.guards import NumbersWentWrongError, RanksDifferError
from partial_fc.step import StepReport


class LimitSkippedUpdates:
    """Ends training when more updates in a row were skipped than are allowed.

    Args:
        limit: the most skipped updates in a row.
        last_checkpoint: gives the newest complete checkpoint, or None: for the message.
    """

    def __init__(self, limit: int, last_checkpoint: Callable[[], Path | None]) -> None:
        self._limit = limit
        self._last_checkpoint = last_checkpoint
        self._in_a_row = 0

    def after_update(self, report: StepReport) -> bool:
        """Raises NumbersWentWrongError, on every rank, at the first update past the limit."""
        self._in_a_row = self._in_a_row + 1 if report.skipped else 0
        if self._in_a_row <= self._limit:
            return True
        checkpoint = self._last_checkpoint()
        good = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was saved before"
        raise NumbersWentWrongError(
            f"{self._in_a_row} updates in a row were skipped, up to update {report.update} ({report.skipped}), and "
            f"--max-skipped-updates allows {self._limit}: {good}; lower --lr, or set --clip-norm"
        )

    def at_end(self, report: StepReport) -> None:
        """Nothing."""


class CompareBackbones:
    """Ends training when the ranks' backbones, which are equal to the last bit, are not.

    A fault of a memory or a processor does this, or a driver's. One object gather of a number a parameter.

    Args:
        every_updates: 0 never compares.
        save_every_updates: compares before each save too, so that no checkpoint holds what differs; 0: no saves.
        last_update: compares at this one, too, for what is saved at the end.
    """

    def __init__(
        self,
        every_updates: int,
        backbone: Backbone,
        collectives: Collectives,
        save_every_updates: int = 0,
        last_update: int | None = None,
    ) -> None:
        self._every = every_updates
        self._save_every = save_every_updates
        self._last = last_update
        self._backbone = backbone
        self._collectives = collectives

    def after_update(self, report: StepReport) -> bool:
        """Raises RanksDifferError, on every rank."""
        periods = [period for period in (self._every, self._save_every) if period]
        due = any(report.update % period == 0 for period in periods) or report.update == self._last
        if self._every and due and self._collectives.size > 1:
            compare_arrays(self._backbone.parameters, self._collectives, f"after update {report.update}")
        return True

    def at_end(self, report: StepReport) -> None:
        """Nothing."""


def compare_arrays(arrays: dict[str, mx.nd.NDArray], collectives: Collectives, when: str) -> None:
    """Compares the CRC-32 of each array over ranks; one object gather.

    Raises:
        RanksDifferError: on every rank; the message names the ranks that differ from most, and the first array.
    """
    own = [zlib.crc32(np.ascontiguousarray(array.asnumpy())) for array in arrays.values()]
    ranks = collectives.gather_objects(own, "guards.checksums")
    for name, sums in zip(arrays, zip(*ranks, strict=True), strict=True):
        (most, count), *others = Counter(sums).most_common()
        if not others:
            continue
        if 2 * count > len(sums):
            odd = [rank for rank, value in enumerate(sums) if value != most]
            who = f"rank{'s' if len(odd) > 1 else ''} {', '.join(map(str, odd))} of {len(sums)} differ from the others"
        else:
            who = "the ranks differ, no majority of them agreeing: " + ", ".join(
                f"rank {rank} {value:08x}" for rank, value in enumerate(sums)
            )
        raise RanksDifferError(
            f"the backbones are not equal {when}: in {name!r} {who}; a checkpoint before this is the place to go on "
            "from, and the machine of such a rank is to be tested"
        )
