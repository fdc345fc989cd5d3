"""What the steps of all trainers share: the report, the exchange of labels, the stopwatch, the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import mxnet as mx
import numpy as np

from partial_fc.collectives import TOLD_TO_ALL, Collectives, error_text, raise_together
from partial_fc.data.batch import Batch, Loader

_READY, _FAILED, _READY_FOR_THE_LAST_TIME = 0, 1, 2


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Attributes:
        update: updates made so far, this one included.
        epoch: the epoch that its images belong to.
        loss: mean over the global batch in nats.
        learning_rate, loss_scale: what the step used.
        images: of all ranks.
        seconds: of the whole step.
        milliseconds: where they went: ``data`` (waiting for images), ``backbone``, ``head`` and
            ``communication`` (waiting in collectives).
        skipped: why nothing was updated, or only the centers; empty when all was.
        gradient_norm: of the backbone's gradient before it was clipped; None where none is clipped.
        stop_requested: whether a rank was asked to end training.
    """

    update: int
    epoch: int
    loss: float
    learning_rate: float
    loss_scale: float
    images: int
    seconds: float
    milliseconds: dict[str, float]
    skipped: str = ""
    gradient_norm: float | None = None
    stop_requested: bool = False


class Callback(Protocol):
    """What happens beside training. Every rank calls every callback, so that one may use collectives."""

    def after_update(self, report: StepReport) -> bool:
        """Called after each step; False ends training."""

    def at_end(self, report: StepReport) -> None:
        """Called once, after the last step, with its report."""


def run_steps(step: Callable[[], StepReport], updates: int, callbacks: Sequence[Callback]) -> StepReport | None:
    """Makes so many steps, fewer when a rank was asked to end or a callback returns False.

    Returns:
        The last step's report; None when there was no step to make.
    """
    report = None
    for _ in range(updates):
        report = step()
        going_on = all([callback.after_update(report) for callback in callbacks])
        if report.stop_requested or not going_on:
            break
    if report is not None:
        for callback in callbacks:
            callback.at_end(report)
    return report


def next_batch(loader: Loader) -> tuple[Batch | None, str | None]:
    """The next batch, or what went wrong with it, for :func:`exchange_labels` to tell."""
    try:
        return loader.next_batch(), None
    except TOLD_TO_ALL as error:
        return None, error_text(error)


def exchange_labels(
    collectives: Collectives, batch: Batch | None, error: str | None, *, batch_size: int, stop: bool = False
) -> tuple[np.ndarray, bool]:
    """All ranks' labels; a rank without a batch ends the run on all.

    One all-gather of batch_size + 1 int64: whether the rank has a batch, and whether it was asked to end, goes
    with its labels, so that no rank waits in a collective that another will never enter.

    Args:
        batch, error: what :func:`next_batch` gave.
        batch_size: images of this rank, the same on all.
        stop: this rank was asked to end training.

    Returns:
        The labels in rank order, (N,) int64, and whether any rank was asked to end.

    Raises:
        RankError: on every rank, with the error of the first that has no batch.
    """
    message = np.zeros(1 + batch_size, dtype=np.int64)
    message[0] = _FAILED if batch is None else _READY_FOR_THE_LAST_TIME if stop else _READY
    if batch is not None:
        message[1:] = batch.labels_B
    tensor = mx.nd.array(message, ctx=mx.cpu(), dtype=np.int64)
    messages = collectives.all_gather(tensor, "trainer.labels").asnumpy().reshape(collectives.size, -1)
    if (messages[:, 0] == _FAILED).any():
        raise_together(collectives, error, "trainer.batch")
    return messages[:, 1:].reshape(-1), bool((messages[:, 0] == _READY_FOR_THE_LAST_TIME).any())


class Stopwatch:
    """Divides a step's time among its parts; time spent waiting in collectives goes to ``communication``.

    Whoever watches this rank reads there what it is doing, too.
    """

    def __init__(self, collectives: Collectives, update: int) -> None:
        self._collectives = collectives
        self._update = update
        self._part = ""
        self._collectives.seconds = 0.0
        self._start = self._last = time.perf_counter()
        self.milliseconds = {"data": 0.0, "backbone": 0.0, "head": 0.0, "communication": 0.0}

    def begin(self, part: str) -> None:
        """Ends the part before, and begins this one."""
        if self._part:
            self._lap()
        self._part = part
        self._collectives.doing = f"update {self._update}, {part}"

    def end(self) -> None:
        """Ends the last part."""
        self._lap()
        self._collectives.doing = f"after update {self._update}"

    def _lap(self) -> None:
        now = time.perf_counter()
        waited = self._collectives.seconds
        self._collectives.seconds = 0.0
        self.milliseconds[self._part] += 1e3 * (now - self._last - waited)
        self.milliseconds["communication"] += 1e3 * waited
        self._last = now

    @property
    def seconds(self) -> float:
        """From the start to the end of the last part."""
        return self._last - self._start
