"""Class centers kept in fewer bits learn as well as float32 ones."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from partial_fc.collectives import SingleProcess
from partial_fc.head.margin import Margin
from partial_fc.head.partial_fc import PartialFC

CLASSES, SIZE, BATCH, UPDATES = 300, 32, 64, 500


def held_out_accuracy(types: str, kernels: str) -> float:
    """The share of held-out points whose own center is the nearest, after training the centers on noisy points.

    The task is hard enough that no storage answers it all: the noise is as long as the signal.
    """
    rng = np.random.default_rng(3)
    prototype_CD = rng.standard_normal((CLASSES, SIZE))
    label_N = rng.integers(CLASSES, size=UPDATES * BATCH)

    def points(labels: np.ndarray) -> np.ndarray:
        return (prototype_CD[labels] + rng.standard_normal((len(labels), SIZE))).astype(np.float32)

    head = PartialFC(
        CLASSES,
        SIZE,
        SingleProcess(),
        margin=Margin(m3=0.1),
        scale=16.0,
        sample_ratio=0.5,
        storage=types,
        kernels=kernels,
    )
    for update in range(UPDATES):
        labels = label_N[update * BATCH : (update + 1) * BATCH]
        loss = head.forward(mx.nd.array(points(labels)), head.sample(labels, update))
        assert np.isfinite(loss)
        head.backward(learning_rate=0.5 if update < 350 else 0.05)
    held_out = rng.integers(CLASSES, size=20_000)
    weight_CD = head.centers.stores[0].weight_RD.asnumpy().astype(np.float32)
    weight_CD /= np.linalg.norm(weight_CD, axis=1, keepdims=True)
    return float(np.mean((points(held_out) @ weight_CD.T).argmax(axis=1) == held_out))


@pytest.mark.parametrize("kernels", ["C", "NDArray"])
def test_half_rows_and_8_bit_momentum_reach_the_accuracy_of_float32(kernels: str) -> None:
    full = held_out_accuracy("float32", kernels)
    small = held_out_accuracy("float16/int8", kernels)
    assert 0.6 < full < 0.98, "the task must be neither trivial nor out of reach"
    assert abs(small - full) <= 0.005, (small, full)
