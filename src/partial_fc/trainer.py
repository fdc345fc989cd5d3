"""The training loop. One step, from images to changed weights, is :meth:`Trainer.step`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from partial_fc.backbone import Backbone
from partial_fc.collectives import Collectives, RankError
from partial_fc.data.batch import Loader
from partial_fc.guards import GradientClip, StopRequest
from partial_fc.head.partial_fc import PartialFC, SampledClasses
from partial_fc.mixed_precision import LossScale
from partial_fc.optimizer import SGD
from partial_fc.step import Callback, StepReport, Stopwatch, exchange_labels, next_batch, run_steps


@dataclass
class Trainer:
    """The parts of a run on one rank, and the number of updates that they have made.

    Attributes:
        clip: clips the backbone's gradient; None leaves it as it is.
        stop: the wish that training ends, made to this rank.
        stopped: whether training ended by such a wish, of any rank.
        update: updates made.
    """

    backbone: Backbone
    head: PartialFC
    optimizer: SGD
    loader: Loader
    learning_rate_at: Callable[[int], float]
    loss_scale: LossScale
    collectives: Collectives
    clip: GradientClip | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    stopped: bool = False
    update: int = 0

    def train(self, max_update: int, callbacks: Sequence[Callback] = ()) -> None:
        """Makes steps until ``max_update`` updates are made, a rank is asked to end, or a callback returns False."""
        last = run_steps(self.step, max_update - self.update, callbacks)
        self.stopped = last is not None and last.stop_requested

    def step(self) -> StepReport:
        """Makes one update.

        Every rank raises :class:`partial_fc.collectives.RankError` when one of them has no batch. A loss that is
        not finite changes nothing; a gradient of the backbone that is not, as in fp16 an overflow makes it, leaves
        the backbone as it is, while the centers, whose gradient was, have learned: the same on every rank.
        """
        clock = Stopwatch(self.collectives, self.update + 1)
        learning_rate = self.learning_rate_at(self.update)
        loss_scale = self.loss_scale.value
        norm, skipped = None, ""

        clock.begin("data")
        batch, error = next_batch(self.loader)
        clock.begin("backbone")
        embedding_BD = self.backbone.forward(batch.images_BHWC) if batch else None
        images = self.backbone.batch_size * self.backbone.accumulate
        label_N, stop_requested = exchange_labels(  # from here on beside the backbone's forward pass
            self.collectives, batch, error, batch_size=images, stop=self.stop.made
        )
        sample = self._sample(label_N)
        embedding_BD.wait_to_read()

        clock.begin("head")
        loss = self.head.forward(embedding_BD, sample)
        if math.isfinite(loss):
            gradient_BD = self.head.backward(learning_rate)
            clock.begin("backbone")
            self.backbone.backward(gradient_BD * loss_scale)
            finite = self.backbone.gradients_finite()
            if finite:
                gradients = self.backbone.gradients
                norm = self.optimizer.update_clipped(gradients, learning_rate, loss_scale, self.clip)
            else:
                skipped = "a gradient of the backbone is not finite"
            self.loss_scale.after_update(finite)
        else:
            self.backbone.restore_statistics()
            skipped = "the loss is not finite"
        clock.end()

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
            gradient_norm=norm,
            stop_requested=stop_requested,
        )

    def _sample(self, label_N: np.ndarray) -> SampledClasses:
        """This rank's classes of the step; labels are the same on all ranks, and so is a complaint about them."""
        try:
            return self.head.sample(label_N, self.update)
        except ValueError as error:
            raise RankError(str(error)) from error
