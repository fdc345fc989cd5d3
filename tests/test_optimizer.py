from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from numpy.testing import assert_allclose

from partial_fc.optimizer import SGD

MOMENTUM, WEIGHT_DECAY = 0.9, 0.03
SUFFIXES = ("_weight", "_bias", "_gamma", "_beta")


def make_parameters(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Names of every kind, of several shapes; 83 are two groups of the fused update and part of a third."""
    rng = np.random.default_rng(seed)
    shapes = [(5, 3, 3, 3), (7,), (1,), (4, 6)]
    names = [f"layer{number}{SUFFIXES[number % 4]}" for number in range(count)]
    return {name: rng.normal(size=shapes[i % 4]).astype(np.float32) for i, name in enumerate(names)}


def as_ndarrays(arrays: dict[str, np.ndarray]) -> dict[str, mx.nd.NDArray]:
    return {name: mx.nd.array(array) for name, array in arrays.items()}


def naive_sgd(
    weight: np.ndarray, gradients: list[np.ndarray], rates: list[float], weight_decay: float, nesterov: bool
) -> tuple[np.ndarray, np.ndarray]:
    weight, change = weight.astype(np.float64), np.zeros(weight.shape)
    for gradient, rate in zip(gradients, rates, strict=True):
        step = rate * (gradient.astype(np.float64) + weight_decay * weight)
        change = MOMENTUM * change - step
        weight = weight + (MOMENTUM * change - step if nesterov else change)
    return weight, change


@pytest.mark.parametrize("count", [1, 40, 83])
@pytest.mark.parametrize("decay_everything", [True, False])
@pytest.mark.parametrize("loss_scale", [1.0, 4096.0])
@pytest.mark.parametrize("nesterov", [False, True])
def test_three_steps_follow_the_equation(
    count: int, decay_everything: bool, loss_scale: float, nesterov: bool
) -> None:
    start = make_parameters(count)
    gradients = [make_parameters(count, seed=step) for step in (1, 2, 3)]
    rates = [0.1, 0.1, 0.01]
    parameters = as_ndarrays(start)
    optimizer = SGD(
        parameters,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        decay_everything=decay_everything,
        nesterov=nesterov,
    )
    for gradient, rate in zip(gradients, rates, strict=True):
        scaled = {name: array * np.float32(loss_scale) for name, array in gradient.items()}
        optimizer.update(as_ndarrays(scaled), rate, loss_scale)
    for name, weight in start.items():
        decay = WEIGHT_DECAY if decay_everything or name.endswith("_weight") else 0.0
        expected_weight, expected_momentum = naive_sgd(weight, [g[name] for g in gradients], rates, decay, nesterov)
        # 3 steps of numbers around 1, each of a few roundings of 6e-8.
        assert_allclose(parameters[name].asnumpy(), expected_weight, rtol=0, atol=1e-6, err_msg=name)
        assert_allclose(optimizer.momenta[name].asnumpy(), expected_momentum, rtol=0, atol=1e-6, err_msg=name)


def test_weights_are_changed_in_place() -> None:
    weight = mx.nd.ones((3,))
    optimizer = SGD({"a_weight": weight}, momentum=0.0, weight_decay=0.0)
    optimizer.update({"a_weight": mx.nd.ones((3,))}, 0.5)
    assert weight.asnumpy().tolist() == [0.5, 0.5, 0.5]
