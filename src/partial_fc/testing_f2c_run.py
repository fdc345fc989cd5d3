"""A small run with F²C, and the same steps by a naive reference, for tests to compare.

Legend: N images of x, or of y, of all ranks; H height and width.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import mxnet as mx
import numpy as np

from partial_fc.backbone import Backbone
from partial_fc.collectives import Collectives
from partial_fc.data.batch import Batch
from partial_fc.f2c_trainer import F2CTrainer
from partial_fc.gallery import Gallery
from partial_fc.head.f2c import F2C
from partial_fc.mixed_precision import LossScale, loss_scale_for
from partial_fc.optimizer import SGD
from partial_fc.schedule import StepSchedule
from partial_fc.testing import own_part
from partial_fc.testing_f2c import MARGINS, NaivePool, naive_loss
from partial_fc.testing_run import tiny_network, with_frozen_batch_norm

Named = dict[str, np.ndarray]
SLOTS, SEED, SCALE, RATE, MOMENTUM, DECAY = 13, 3, 16.0, 0.01, 0.9, 1e-3


class GlobalPairs:
    """A loader of random images whose x and y, N images each, are the same for every number of ranks."""

    replaced = 0

    def __init__(self, collectives: Collectives, *, samples: int = 12) -> None:
        self._collectives = collectives
        self._shape = (samples, 9, 9, 3)
        self._number = 0

    @staticmethod
    def draw(number: int, shape: tuple[int, ...], identities: int = 40) -> tuple[np.ndarray, ...]:
        """The images of x and y, and their identities: two thirds of them the same."""
        rng = np.random.default_rng([SEED, number])
        x_NHWC, y_NHWC = rng.integers(0, 256, (2, *shape)).astype(np.uint8)
        x_N = rng.integers(0, identities, shape[0])
        y_N = np.where(rng.random(shape[0]) < 2 / 3, x_N, rng.integers(0, identities, shape[0]))
        return x_NHWC, y_NHWC, x_N, y_N

    def next_batch(self) -> Batch:
        parts = [own_part(part, self._collectives) for part in self.draw(self._number, self._shape)]
        self._number += 1
        images, labels = np.concatenate(parts[:2]), np.concatenate(parts[2:])
        return Batch(images, labels, 0, self._number * len(labels), np.arange(len(labels)))

    def state(self) -> dict[str, Any]:
        return {"number": self._number}

    def restore(self, state: dict[str, Any]) -> None:
        self._number = state["number"]

    def close(self) -> None:
        """There is nothing to end."""


def make_f2c_trainer(
    collectives: Collectives,
    *,
    kind: str = "AM",
    samples: int = 12,
    accumulate: int = 1,
    loss_scale: LossScale | None = None,
    frozen: bool = True,
) -> F2CTrainer:
    """A rank's trainer of a small run; every rank calls it. BatchNorm is frozen, or learns."""
    backbone = Backbone(
        with_frozen_batch_norm(tiny_network()) if frozen else tiny_network(),
        batch_size=samples // collectives.size // accumulate,
        image_size=9,
        collectives=collectives,
        context=mx.cpu(),
        seed=SEED,
        accumulate=accumulate,
    )
    gallery = Gallery(
        backbone.network,
        backbone.parameters,
        backbone.statistics,
        momentum=0.9,
        context=mx.cpu(),
        accumulate=accumulate,
    )
    return F2CTrainer(
        backbone,
        gallery,
        F2C(SLOTS, backbone.embedding_size, collectives, margin=MARGINS[kind], scale=SCALE, seed=SEED),
        SGD(backbone.parameters, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True),
        GlobalPairs(collectives, samples=samples),
        StepSchedule(RATE),
        loss_scale if loss_scale is not None else loss_scale_for(False),
        collectives,
    )


class NaiveTrainer:
    """The steps of :func:`make_f2c_trainer` on one rank: two executors, a pool of dictionaries, float64 sums."""

    def __init__(self, probe: Named, statistics: Named, *, kind: str, samples: int) -> None:
        self.kind = kind
        self.shape = (samples, 9, 9, 3)
        network = with_frozen_batch_norm(tiny_network())
        self.executor = network.simple_bind(mx.cpu(), data=(samples, 3, 9, 9))
        for name, array in self.executor.aux_dict.items():
            array[:] = statistics[name]
        self.probe = {name: array.astype(np.float64) for name, array in probe.items()}
        self.gallery = dict(self.probe)
        self.change = {name: np.zeros(array.shape) for name, array in self.probe.items()}
        self.pool = NaivePool.initial(SLOTS, 8, SEED)
        self.number = 0

    def embed(self, parameters: Named, images_NHWC: np.ndarray) -> np.ndarray:
        for name, array in parameters.items():
            self.executor.arg_dict[name][:] = array
        return self.executor.forward(is_train=True, data=mx.nd.array(images_NHWC.transpose(0, 3, 1, 2)))[0].asnumpy()

    def step(self) -> float:
        """Makes one step; its loss."""
        x_NHWC, y_NHWC, x_N, y_N = GlobalPairs.draw(self.number, self.shape)
        self.number += 1
        self.gallery = {name: 0.9 * array + 0.1 * self.probe[name] for name, array in self.gallery.items()}
        total = {name: np.zeros(array.shape) for name, array in self.probe.items()}
        loss = 0.0
        trial = deepcopy(self.pool)
        for pool, probe, gallery, probe_N, gallery_N in (
            (trial, x_NHWC, y_NHWC, x_N, y_N),
            (self.pool, y_NHWC, x_NHWC, y_N, x_N),
        ):
            feature_ND = self.embed(self.gallery, gallery).astype(np.float64)
            feature_ND /= np.linalg.norm(feature_ND, axis=1, keepdims=True)
            again = pool.update(gallery_N.tolist(), feature_ND)
            embedding_ND = self.embed(self.probe, probe)
            part, gradient_ND = naive_loss(pool, again, embedding_ND, probe_N.tolist(), self.kind, SCALE)
            loss += part
            self.executor.backward([mx.nd.array(gradient_ND)])
            for name in total:
                total[name] += self.executor.grad_dict[name].asnumpy()
        for name, weight in self.probe.items():
            step = RATE * (total[name] + DECAY * weight)
            self.change[name] = MOMENTUM * self.change[name] - step
            self.probe[name] = weight + MOMENTUM * self.change[name] - step
        return loss
