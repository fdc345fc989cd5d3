"""What a step costs as a layer under autograd, beside the same step as this project's trainer makes it.

    python benchmarks/layer.py --classes 100000 --sample-ratio 0.1

The trainer's step has the products of the two gradients of a block of classes at once and updates the block then. As a
layer, the gradient by the embeddings is made in the call, and the update of the centers waits for step(). One rank,
interleaved step by step; medians of milliseconds, and of the processor's own, which say the same on a machine with
nothing else running.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "src")]

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from mxnet import autograd  # noqa: E402

from partial_fc.head.partial_fc import PartialFC  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--sample-ratio", type=float, default=1.0, help="in (0, 1] (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--embedding-size", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--logits-chunk", type=int, help="classes whose logits are kept at once (all)")
    parser.add_argument("--steps", type=int, default=11, help="timed steps of each kind (%(default)s)")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    label_N = rng.integers(0, arguments.classes, arguments.batch_size)
    x_ND = mx.nd.array(rng.normal(size=(arguments.batch_size, arguments.embedding_size)))
    x_ND.attach_grad()
    # Two equal heads, which take no memory from each other's cache more than their own rows do.
    trained, layer = (
        PartialFC(
            arguments.classes,
            arguments.embedding_size,
            sample_ratio=arguments.sample_ratio,
            logits_chunk=arguments.logits_chunk,
        )
        for _ in range(2)
    )
    for head in (trained, layer):
        head.centers.initialize_all()

    def step_of_the_trainer(number: int) -> None:
        trained.forward(x_ND, trained.sample(label_N, number))
        trained.backward(0.1)

    def step_of_the_layer(number: int) -> None:
        with autograd.record():
            loss = layer(x_ND, label_N)
        loss.backward()
        layer.step()

    steps: dict[str, Callable[[int], None]] = {"trainer": step_of_the_trainer, "layer": step_of_the_layer}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(1 + arguments.steps):
        for name, step in steps.items():
            mx.nd.waitall()
            start = time.perf_counter(), time.process_time()
            step(number)
            mx.nd.waitall()
            if number:
                times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    for name, measured in times.items():
        wall, processor = (1e3 * statistics.median(part) for part in zip(*measured, strict=True))
        print(f"{name:<8} {wall:8.1f} ms   of the processor {processor:8.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
