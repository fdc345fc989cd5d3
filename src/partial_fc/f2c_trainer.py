"""One step of F²C, from images to changed weights: two passes, in which probe and gallery change roles.

Legend: B a rank's batch, R ranks. A step takes B pairs and B instances of each rank, 3B images: 1.5·B of them in x and
as many in y, N = 1.5·B·R in each over all ranks. D embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from partial_fc.backbone import Backbone
from partial_fc.collectives import Collectives, RankError
from partial_fc.data.pair_loader import PairLoader
from partial_fc.gallery import Gallery
from partial_fc.guards import GradientClip, StopRequest
from partial_fc.head.f2c import F2C
from partial_fc.mixed_precision import LossScale
from partial_fc.optimizer import SGD
from partial_fc.step import Callback, StepReport, Stopwatch, exchange_labels, next_batch, run_steps


@dataclass
class F2CTrainer:
    """The parts of a run on one rank, and the number of updates that they have made.

    Attributes:
        backbone: the probe network; it takes the 1.5·B images of x, or of y, at a time.
        clip, stop, stopped, update: as :class:`partial_fc.trainer.Trainer`'s.
    """

    backbone: Backbone
    gallery: Gallery
    head: F2C
    optimizer: SGD
    loader: PairLoader
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

        Every rank raises :class:`partial_fc.collectives.RankError` when one of them has no batch. A loss that is not
        finite changes neither the backbone, nor the pool, nor a moving statistic; a gradient that is not leaves the
        backbone as it is, while the pool has learned: the same on every rank.
        """
        clock = Stopwatch(self.collectives, self.update + 1)
        learning_rate = self.learning_rate_at(self.update)
        loss_scale = self.loss_scale.value
        norm, skipped = None, ""

        clock.begin("data")
        batch, error = next_batch(self.loader)
        images = 2 * self.backbone.batch_size * self.backbone.accumulate
        label, stop_requested = exchange_labels(
            self.collectives, batch, error, batch_size=images, stop=self.stop.made
        )
        x_label_N, y_label_N = (half.reshape(-1) for half in np.split(label.reshape(self.collectives.size, -1), 2, 1))
        x_BHWC, y_BHWC = np.split(batch.images_BHWC, 2)

        clock.begin("backbone")
        self.gallery.follow()
        losses = [self._pass(clock, x_BHWC, y_BHWC, x_label_N, y_label_N, loss_scale, on_trial=True)]
        if math.isfinite(losses[0]):
            losses.append(self._pass(clock, y_BHWC, x_BHWC, y_label_N, x_label_N, loss_scale, on_trial=False))
        loss = sum(losses)
        if math.isfinite(loss):
            finite = self.backbone.gradients_finite()
            if finite:
                gradients = self.backbone.gradients
                norm = self.optimizer.update_clipped(gradients, learning_rate, loss_scale, self.clip)
            else:
                skipped = "a gradient of the backbone is not finite"
            self.loss_scale.after_update(finite)
        else:
            self.backbone.forget_gradients()
            self.backbone.restore_statistics()
            self.gallery.restore_statistics()
            skipped = "the loss is not finite"
        clock.end()

        self.update += 1
        return StepReport(
            update=self.update,
            epoch=batch.epoch,
            loss=loss,
            learning_rate=learning_rate,
            loss_scale=loss_scale,
            images=len(label),
            seconds=clock.seconds,
            milliseconds=clock.milliseconds,
            skipped=skipped,
            gradient_norm=norm,
            stop_requested=stop_requested,
        )

    def _pass(
        self,
        clock: Stopwatch,
        probe_BHWC: np.ndarray,
        gallery_BHWC: np.ndarray,
        probe_label_N: np.ndarray,
        gallery_label_N: np.ndarray,
        loss_scale: float,
        *,
        on_trial: bool,
    ) -> float:
        """The gallery updates the pool, the probe learns from it; its loss. On trial, the pool is as before it."""
        probe_BD = self.backbone.forward(probe_BHWC)
        gallery_BD = self.gallery.forward(gallery_BHWC)
        gallery_BD.wait_to_read()
        clock.begin("head")
        try:
            loss = self.head.forward(probe_BD, gallery_BD, probe_label_N, gallery_label_N)
        except ValueError as error:  # of the labels, which are the same on all ranks
            raise RankError(str(error)) from error
        finite = math.isfinite(loss)
        if finite:
            gradient_BD = self.head.backward()
        if finite and not on_trial:
            self.head.keep()
        else:
            self.head.rollback()
        clock.begin("backbone")
        if finite:
            self.backbone.backward(gradient_BD * loss_scale, another_follows=on_trial)
        return loss
