"""Gradient accumulation: K batches of B are one of K·B."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

import symbol
from partial_fc.backbone import Backbone
from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.testing import centers_of, relative_error
from partial_fc.testing_run import make_trainer, parameters_of, tiny_network, with_frozen_batch_norm

STEPS = 3


def run(ranks: int, accumulate: int, network: str, sample_ratio: float = 1.0):
    def make_network() -> mx.sym.Symbol:
        if network == "tiny":
            return with_frozen_batch_norm(tiny_network())
        return with_frozen_batch_norm(symbol.build_backbone(network, 8, train_on="cpu"))

    def one_rank(collectives: Collectives):
        trainer = make_trainer(
            collectives,
            network=make_network(),
            samples=16,
            image_size=9 if network == "tiny" else 16,
            learning_rate=0.01 if network == "tiny" else 0.001,
            sample_ratio=sample_ratio,
            accumulate=accumulate,
        )
        start = parameters_of(trainer)
        reports = [trainer.step() for _ in range(STEPS)]
        assert [report.images for report in reports] == [16] * STEPS
        return [report.loss for report in reports], start, parameters_of(trainer), centers_of(trainer.head)[0]

    results = run_thread_ranks(ranks, one_rank)
    losses, start, parameters, _ = results[0]
    return losses, start, parameters, np.concatenate([centers for *_, centers in results])


@pytest.mark.parametrize(
    ("ranks", "accumulate", "network", "ratio"),
    [(1, 2, "tiny", 1.0), (1, 16, "tiny", 1.0), (2, 4, "tiny", 0.5), (4, 2, "tiny", 1.0), (1, 4, "toy", 1.0)],
)
def test_it_takes_the_steps_of_the_larger_batch(ranks: int, accumulate: int, network: str, ratio: float) -> None:
    losses, start, parameters, centers_CD = run(ranks, 1, network, ratio)
    ours = run(ranks, accumulate, network, ratio)
    np.testing.assert_allclose(ours[0], losses, rtol=1e-5)
    assert relative_error(ours[3], centers_CD) < 1e-5
    for name, expected in parameters.items():
        assert relative_error(ours[2][name], expected) < 1e-5, name
        change = np.abs(expected - start[name]).max()
        assert change > 0, name
        assert np.abs(ours[2][name] - expected).max() < 1e-3 * change, name


@pytest.mark.parametrize("name", ["mobilefacenet", "resnet50"])
def test_gradients_of_whole_networks_add_up(name: str) -> None:
    """MXNet adds to a gradient in each operator's own way."""
    size = {"mobilefacenet": 112, "resnet50": 64}[name]

    def gradients(accumulate: int) -> dict[str, np.ndarray]:
        network = with_frozen_batch_norm(symbol.build_backbone(name, 8, train_on="cpu"))
        backbone = Backbone(
            network, batch_size=2 // accumulate, image_size=size, collectives=SingleProcess(), context=mx.cpu(),
            seed=1, accumulate=accumulate,
        )  # fmt: skip
        images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
        output = backbone.forward(images)
        assert output.shape == (2, 8)
        backbone.backward(mx.nd.array(np.random.default_rng(1).normal(size=(2, 8))))
        assert backbone.gradients_finite()
        return {key: array.asnumpy() for key, array in backbone.gradients.items()}

    whole, parts = gradients(1), gradients(2)
    for key, expected in whole.items():
        assert relative_error(parts[key], expected) < 1e-4, key


def tiny_backbone(batch_size: int, accumulate: int = 1) -> Backbone:
    return Backbone(
        tiny_network(), batch_size=batch_size, image_size=9, collectives=SingleProcess(), context=mx.cpu(),
        accumulate=accumulate,
    )  # fmt: skip


def test_each_part_moves_the_statistics_once() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 9, 9, 3)).astype(np.uint8)
    backbone, one_by_one = tiny_backbone(2, accumulate=4), tiny_backbone(2)
    backbone.forward(images)
    backbone.backward(mx.nd.ones((8, 8)))
    for part in reversed(np.split(images, 4)):
        one_by_one.forward(part)
        one_by_one.backward(mx.nd.ones((2, 8)))
    mx.nd.waitall()  # the engine does not know that a backward pass changes the statistics
    for name, array in one_by_one.statistics.items():
        np.testing.assert_array_equal(backbone.statistics[name].asnumpy(), array.asnumpy())


def test_each_part_moves_them_once_where_the_forward_pass_does_it_too() -> None:
    trainer = make_trainer(SingleProcess(), network=tiny_network(), samples=8, accumulate=4)
    counts_forward_passes(trainer.backbone)
    trainer.step()
    np.testing.assert_array_equal(trainer.backbone.statistics["bn0_moving_mean"].asnumpy(), [4] * 4)


def counts_forward_passes(backbone: Backbone) -> None:
    """As a GPU's BatchNorm: the forward pass moves the statistics (here: by one), the backward pass does not."""
    forward, backward = backbone._forward_part, backbone._executor.backward
    backbone._forward_moves_statistics = True

    def counting_forward(images, training):
        output = forward(images, training)
        backbone.statistics["bn0_moving_mean"] += 1
        return output

    class Executor:
        def __init__(self, executor) -> None:
            self._executor = executor

        def __getattr__(self, name):
            return getattr(self._executor, name)

        def backward(self, gradients) -> None:
            before = {name: array.copy() for name, array in backbone.statistics.items()}
            backward(gradients)
            for name, array in before.items():
                array.copyto(backbone.statistics[name])

    backbone._forward_part = counting_forward
    backbone._executor = Executor(backbone._executor)


def test_a_forward_pass_without_a_finite_loss_leaves_the_statistics() -> None:
    trainer = make_trainer(SingleProcess(), network=tiny_network(), samples=8)
    trainer.step()
    counts_forward_passes(trainer.backbone)
    trainer.backbone.parameters["conv0_weight"][0] = np.nan
    before = {name: array.asnumpy() for name, array in trainer.backbone.statistics.items()}
    assert trainer.step().skipped == "the loss is not finite"
    for name, array in trainer.backbone.statistics.items():
        np.testing.assert_array_equal(array.asnumpy(), before[name])
