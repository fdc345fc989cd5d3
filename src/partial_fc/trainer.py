"""The training loop. One step, from images to changed weights, is :meth:`Trainer.step`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import mxnet as mx
import numpy as np

from partial_fc.backbone import Backbone
from partial_fc.collectives import Collectives, RankError, raise_together
from partial_fc.data.batch import Batch, Loader
from partial_fc.head.partial_fc import PartialFC, SampledClasses
from partial_fc.mixed_precision import LossScale
from partial_fc.optimizer import SGD

_READY, _FAILED = 0, 1


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


class Callback(Protocol):
    """What happens beside training. Every rank calls every callback, so that one may use collectives."""

    def after_update(self, report: StepReport) -> bool:
        """Called after each step; False ends training."""

    def at_end(self, report: StepReport) -> None:
        """Called once, after the last step, with its report."""


@dataclass
class Trainer:
    """The parts of a run on one rank, and the number of updates that they have made."""

    backbone: Backbone
    head: PartialFC
    optimizer: SGD
    loader: Loader
    learning_rate_at: Callable[[int], float]
    loss_scale: LossScale
    collectives: Collectives
    update: int = 0

    def train(self, max_update: int, callbacks: Sequence[Callback] = ()) -> None:
        """Makes steps until ``max_update`` updates are made, or a callback returns False."""
        going_on = True
        report = None
        while going_on and self.update < max_update:
            report = self.step()
            going_on = all([callback.after_update(report) for callback in callbacks])
        if report is not None:
            for callback in callbacks:
                callback.at_end(report)

    def step(self) -> StepReport:
        """Makes one update.

        Every rank raises :class:`partial_fc.collectives.RankError` when one of them has no batch.
        """
        clock = _Stopwatch(self.collectives)
        learning_rate = self.learning_rate_at(self.update)
        loss_scale = self.loss_scale.value
        skipped = ""

        batch, error = self._next_batch()
        clock.lap("data")

        embedding_BD = self.backbone.forward(batch.images_BHWC) if batch else None
        label_N = self._exchange_labels(batch, error)  # from here on beside the backbone's forward pass
        sample = self._sample(label_N)
        embedding_BD.wait_to_read()
        clock.lap("backbone")

        loss = self.head.forward(embedding_BD, sample)
        if math.isfinite(loss):
            gradient_BD = self.head.backward(learning_rate)
            clock.lap("head")
            self.backbone.backward(gradient_BD * loss_scale)
            finite = self.backbone.gradients_finite()
            if finite:
                self.optimizer.update(self.backbone.gradients, learning_rate, loss_scale)
            else:
                skipped = "a gradient of the backbone is not finite"
            self.loss_scale.after_update(finite)
        else:
            clock.lap("head")
            skipped = "the loss is not finite"
        clock.lap("backbone")

        self.update += 1
        return StepReport(
            update=self.update,
            epoch=batch.epoch,
            loss=loss,
            learning_rate=learning_rate,
            loss_scale=loss_scale,
            images=len(label_N),
            seconds=clock.seconds,
            milliseconds=clock.milliseconds,
            skipped=skipped,
        )

    def _sample(self, label_N: np.ndarray) -> SampledClasses:
        """This rank's classes of the step; labels are the same on all ranks, and so is a complaint about them."""
        try:
            return self.head.sample(label_N, self.update)
        except ValueError as error:
            raise RankError(str(error)) from error

    def _next_batch(self) -> tuple[Batch | None, str | None]:
        try:
            return self.loader.next_batch(), None
        except (ValueError, OSError) as error:
            return None, str(error)

    def _exchange_labels(self, batch: Batch | None, error: str | None) -> np.ndarray:
        """All ranks' labels in rank order, (N,) int64; a rank without a batch ends the run on all.

        One all-gather of B + 1 int64: whether the rank has a batch goes with its labels, so that no rank
        waits in a collective that another will never enter.
        """
        message = np.zeros(1 + self.backbone.batch_size, dtype=np.int64)
        message[0] = _FAILED if batch is None else _READY
        if batch is not None:
            message[1:] = batch.labels_B
        tensor = mx.nd.array(message, ctx=mx.cpu(), dtype=np.int64)
        messages = self.collectives.all_gather(tensor, "trainer.labels").asnumpy()
        messages = messages.reshape(self.collectives.size, -1)
        if (messages[:, 0] != _READY).any():
            raise_together(self.collectives, error, "trainer.batch")
        return messages[:, 1:].reshape(-1)


class _Stopwatch:
    """Divides a step's time among its parts; time spent waiting in collectives goes to ``communication``."""

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives
        self._collectives.seconds = 0.0
        self._start = self._last = time.perf_counter()
        self.milliseconds = {"data": 0.0, "backbone": 0.0, "head": 0.0, "communication": 0.0}

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        waited = self._collectives.seconds
        self._collectives.seconds = 0.0
        self.milliseconds[part] += 1e3 * (now - self._last - waited)
        self.milliseconds["communication"] += 1e3 * waited
        self._last = now

    @property
    def seconds(self) -> float:
        return self._last - self._start
