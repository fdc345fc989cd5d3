"""A Gluon network of your own, trained with the layer alone, on one rank or on several.

    python examples/gluon_partial_fc.py
    horovodrun -np 2 python examples/gluon_partial_fc.py --head f2c

Each of 300 identities is a pattern of random patches, and an image of it is that pattern in noise: replace
`draw_images` by your data. The global batch is the same on any number of ranks, and so is what is learned.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import horovod.mxnet as hvd
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

from partial_fc import F2C, PartialFC
from partial_fc.gallery import Gallery

IDENTITIES, EMBEDDING_SIZE, GLOBAL_BATCH = 300, 32, 64
SGD = {"learning_rate": 0.05, "momentum": 0.9, "wd": 1e-4}


def make_network() -> gluon.nn.HybridSequential:
    net = gluon.nn.HybridSequential()
    net.add(
        gluon.nn.Conv2D(16, kernel_size=3, strides=2, in_channels=1),
        gluon.nn.PReLU(),
        gluon.nn.Conv2D(32, kernel_size=3, strides=2, in_channels=16),
        gluon.nn.PReLU(),
        gluon.nn.Dense(EMBEDDING_SIZE, in_units=32 * 3 * 3),
    )
    return net


def draw_images(label_B: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B, 1, 16, 16) float32, a new image of each identity."""
    patterns = np.random.default_rng(0).normal(size=(IDENTITIES, 1, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    return (patterns[label_B] + rng.normal(size=(len(label_B), 1, 16, 16))).astype(np.float32)


def batches(steps: int) -> Iterator[tuple[nd.NDArray, np.ndarray, nd.NDArray]]:
    """This rank's share of each global batch: images, their labels, and other images of the same identities."""
    own = slice(hvd.rank() * GLOBAL_BATCH // hvd.size(), (hvd.rank() + 1) * GLOBAL_BATCH // hvd.size())
    for step in range(steps):
        rng = np.random.default_rng([1, step])
        label_N = rng.integers(0, IDENTITIES, GLOBAL_BATCH)
        image_N, other_N = draw_images(label_N, rng), draw_images(label_N, rng)
        yield nd.array(image_N[own]), label_N[own], nd.array(other_N[own])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--head", choices=("partial_fc", "f2c"), default="partial_fc")
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()

    hvd.init()
    mx.random.seed(0)
    net = make_network()
    net.initialize(mx.init.Xavier())
    net.hybridize()
    hvd.broadcast_parameters(net.collect_params(), root_rank=0)
    trainer = hvd.DistributedTrainer(net.collect_params(), "sgd", SGD)
    if arguments.head == "partial_fc":
        head = PartialFC(IDENTITIES, EMBEDDING_SIZE, scale=16.0, learning_rate=SGD["learning_rate"])
    else:
        head, gallery = F2C(IDENTITIES, EMBEDDING_SIZE, scale=16.0), Gallery.of_block(net, momentum=0.9)

    for step, (x, label, y) in enumerate(batches(arguments.steps)):
        if arguments.head == "f2c":
            gallery.follow()
        with autograd.record():
            if arguments.head == "partial_fc":
                loss = head(net(x), label)
            else:
                loss = head(net(x), label, gallery(y), label) + head(net(y), label, gallery(x), label)
        loss.backward()
        if math.isfinite(loss.asscalar()):  # the same on every rank
            trainer.step(1 / hvd.size())  # Horovod takes the mean over ranks: this makes it the sum
            head.step()
        if hvd.rank() == 0 and (step % 10 == 0 or step == arguments.steps - 1):
            print(f"step {step}: loss {loss.asscalar():.6f}", flush=True)
    nd.waitall()  # no rank leaves while another waits for its last gradients


if __name__ == "__main__":
    main()
