"""A training run that takes a second: a small data set, a small network, a rank's trainer over them.

Legend: B images of a rank, R ranks, N = B·R, C identities, D embedding size, H height and width.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import mxnet as mx
import numpy as np

from partial_fc.backbone import Backbone
from partial_fc.center_storage import Storage
from partial_fc.collectives import Collectives
from partial_fc.data.batch import Batch
from partial_fc.data.record_writer import RecordWriter
from partial_fc.evaluation.verification_set import save_bin
from partial_fc.head.margin import Margin
from partial_fc.head.margin_softmax import MarginSoftmax
from partial_fc.head.partial_fc import PartialFC
from partial_fc.mixed_precision import LossScale, loss_scale_for
from partial_fc.optimizer import SGD
from partial_fc.schedule import StepSchedule
from partial_fc.testing import own_part
from partial_fc.trainer import Trainer


def write_tiny_faces(
    directory: Path,
    *,
    identities: int = 11,
    images_per_identity: int = 6,
    pairs: int = 20,
    image_size: int = 24,
    seed: int = 0,
) -> None:
    """Writes ``train.rec``, ``train.idx``, ``property`` and ``val.bin``: patches of colour, and noise.

    An identity is a patch. The pairs show patches of no identity of ``train.rec``, every other one twice.
    """
    rng = np.random.default_rng(seed)
    with RecordWriter(directory / "train.rec", image_size=(image_size, image_size)) as writer:
        for label in range(identities):
            patch_HWC = _patch(rng, image_size)
            for _ in range(images_per_identity):
                writer.add(_noisy_jpeg(rng, patch_HWC), label)
    images, is_same = [], []
    for pair in range(pairs):
        patch_HWC = _patch(rng, image_size)
        is_same.append(pair % 2 == 0)
        images.append(_noisy_jpeg(rng, patch_HWC))
        images.append(_noisy_jpeg(rng, patch_HWC if is_same[-1] else _patch(rng, image_size)))
    save_bin(directory / "val.bin", images, is_same)


def _patch(rng: np.random.Generator, image_size: int) -> np.ndarray:
    return cv2.resize(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8), (image_size, image_size))


def _noisy_jpeg(rng: np.random.Generator, patch_HWC: np.ndarray) -> bytes:
    noisy_HWC = np.clip(patch_HWC + rng.normal(0, 20, patch_HWC.shape), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy_HWC)[1].tobytes()


def tiny_network(embedding_size: int = 8) -> mx.sym.Symbol:
    """A convolution, BatchNorm, PReLU and a dense layer: one argument of each kind that a backbone has."""
    data = mx.sym.Variable("data") / 128 - 1
    body = mx.sym.Convolution(data, kernel=(3, 3), stride=(2, 2), num_filter=4, no_bias=True, name="conv0")
    body = mx.sym.BatchNorm(body, fix_gamma=False, eps=2e-5, momentum=0.9, name="bn0")
    # Twice, the halves added: MXNet's gradient for the slope is wrong where it writes in place.
    body = 0.5 * (mx.sym.LeakyReLU(body, act_type="prelu", name="relu0") + body)
    return mx.sym.FullyConnected(body, num_hidden=embedding_size, name="fc1")


def with_frozen_batch_norm(network: mx.sym.Symbol) -> mx.sym.Symbol:
    """The network with every BatchNorm in inference mode while it trains too.

    An image's embedding then depends on no other image of its batch: R ranks compute what one computes.
    """
    graph = json.loads(network.tojson())
    for node in graph["nodes"]:
        if node["op"] == "BatchNorm":
            node["attrs"]["use_global_stats"] = "True"
    return mx.sym.load_json(json.dumps(graph))


class GlobalBatches:
    """A loader of random images whose global batches, of N images, are the same for every number of ranks.

    Args:
        classes: C, of the labels.
        fails_at: the batch, counted from 0, that raises ValueError("image 7 is broken").
    """

    def __init__(
        self,
        collectives: Collectives,
        *,
        samples: int = 8,
        image_size: int = 9,
        classes: int = 13,
        seed: int = 0,
        fails_at: int | None = None,
    ) -> None:
        self.replaced = 0
        self.closed = False
        self._collectives = collectives
        self._shape = (samples, image_size, image_size, 3)
        self._classes = classes
        self._seed = seed
        self._fails_at = fails_at
        self._number = 0

    def next_batch(self) -> Batch:
        if self._number == self._fails_at:
            raise ValueError("image 7 is broken")
        rng = np.random.default_rng([self._seed, self._number])
        images_NHWC = rng.integers(0, 256, self._shape).astype(np.uint8)
        label_N = rng.integers(0, self._classes, self._shape[0])
        position = self._number * self._shape[0]
        index_N = np.arange(position, position + self._shape[0])
        self._number += 1
        images_BHWC, label_B, index_B = (
            own_part(part, self._collectives) for part in (images_NHWC, label_N, index_N)
        )
        return Batch(images_BHWC, label_B, 0, position, index_B)

    def state(self) -> dict[str, Any]:
        return {"number": self._number}

    def restore(self, state: dict[str, Any]) -> None:
        self._number = state["number"]

    def close(self) -> None:
        self.closed = True


def make_trainer(
    collectives: Collectives,
    *,
    network: mx.sym.Symbol | None = None,
    samples: int = 8,
    image_size: int = 9,
    classes: int = 13,
    learning_rate: float = 0.01,
    sample_ratio: float = 1.0,
    lazy_updates: bool = False,
    storage: Storage | None = None,
    loss_scale: LossScale | None = None,
    fp16_gradients: bool = False,
    accumulate: int = 1,
    make_loader: Callable[..., Any] = GlobalBatches,
    margin: Margin | MarginSoftmax | None = None,
) -> Trainer:
    """A rank's trainer of a small run; every rank calls it.

    Args:
        network: with one output (B, D); :func:`tiny_network` with frozen BatchNorm when not given.
        samples: N, which the rank count must divide.
        margin: ArcFace's when not given.
        make_loader: called as :class:`GlobalBatches` is.
    """
    backbone = Backbone(
        with_frozen_batch_norm(tiny_network()) if network is None else network,
        batch_size=samples // collectives.size // accumulate,
        image_size=image_size,
        collectives=collectives,
        context=mx.cpu(),
        seed=3,
        fp16_gradients=fp16_gradients,
        accumulate=accumulate,
    )
    head = PartialFC(
        classes,
        backbone.embedding_size,
        collectives,
        margin=Margin(m2=0.5) if margin is None else margin,
        scale=16.0,
        sample_ratio=sample_ratio,
        lazy_updates=lazy_updates,
        storage=storage,
        seed=3,
    )
    return Trainer(
        backbone,
        head,
        SGD(backbone.parameters, momentum=0.9, weight_decay=5e-4),
        make_loader(collectives, samples=samples, image_size=image_size, classes=classes),
        StepSchedule(learning_rate),
        loss_scale if loss_scale is not None else loss_scale_for(False),
        collectives,
    )


def parameters_of(trainer: Trainer) -> dict[str, np.ndarray]:
    """Copies of a backbone's parameters by name."""
    return {name: array.asnumpy() for name, array in trainer.backbone.parameters.items()}
