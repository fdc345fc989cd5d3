"""The gallery network's moving statistics: those that MXNet's own backward pass makes of the same batches."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

import symbol
from partial_fc.backbone import Backbone
from partial_fc.collectives import SingleProcess
from partial_fc.gallery import Gallery
from partial_fc.testing_f2c_run import make_f2c_trainer
from partial_fc.testing_run import tiny_network, with_frozen_batch_norm


def network_pair(network, image_size, accumulate=1):
    """A backbone of batches of 6, and a gallery that stays equal to it."""
    common = {"context": mx.cpu(), "accumulate": accumulate}
    backbone = Backbone(
        network, batch_size=6 // accumulate, image_size=image_size, collectives=SingleProcess(), **common
    )
    return backbone, Gallery(backbone.network, backbone.parameters, backbone.statistics, momentum=1.0, **common)


def images_of(batch, image_size):
    shape = (6, image_size, image_size, 3)
    return np.random.default_rng(batch).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("network", "image_size"),
    [
        (tiny_network(), 9),
        (symbol.build_backbone("toy", 8, train_on="cpu"), 56),
        (symbol.build_backbone("toy", 8, train_on="cpu", precision="float16-emulated"), 56),
        (symbol.build_backbone("mobilefacenet", 8, train_on="cpu"), 112),
    ],
    ids=["tiny", "toy", "toy in fp16", "mobilefacenet"],
)
def test_statistics_move_as_in_a_backward_pass(network, image_size):
    backbone, gallery = network_pair(network, image_size)
    start = {name: array.asnumpy() for name, array in gallery.statistics.items()}
    for batch in range(3):
        images = images_of(batch, image_size)
        embedding = backbone.forward(images)
        np.testing.assert_array_equal(gallery.forward(images).asnumpy(), embedding.asnumpy())
        backbone.backward(mx.nd.zeros(embedding.shape))
        assert backbone.gradients_finite()
    mx.nd.waitall()
    for name, expected in backbone.statistics.items():
        moved = gallery.statistics[name].asnumpy()
        np.testing.assert_allclose(moved, expected.asnumpy(), rtol=1e-4, atol=1e-6, err_msg=name)
        assert not np.array_equal(moved, start[name]), name


def test_parts_of_a_batch_move_them_one_after_the_other():
    _, whole = network_pair(tiny_network(), 9, accumulate=3)
    _, parts = network_pair(tiny_network(), 9)
    images = images_of(0, 9)
    expected = np.concatenate([parts.forward(part).asnumpy() for part in np.split(images, 3)])
    np.testing.assert_array_equal(whole.forward(images).asnumpy(), expected)
    for name, array in whole.statistics.items():
        np.testing.assert_array_equal(array.asnumpy(), parts.statistics[name].asnumpy(), err_msg=name)


def test_statistics_that_are_frozen_stay():
    _, gallery = network_pair(with_frozen_batch_norm(tiny_network()), 9)
    before = {name: array.asnumpy() for name, array in gallery.statistics.items()}
    gallery.forward(images_of(0, 9)).wait_to_read()
    for name, array in gallery.statistics.items():
        np.testing.assert_array_equal(array.asnumpy(), before[name], err_msg=name)


def test_an_update_that_is_skipped_leaves_the_statistics():
    trainer = make_f2c_trainer(SingleProcess(), frozen=False)
    trainer.step()
    before = {name: array.asnumpy() for name, array in trainer.gallery.statistics.items()}
    forward = trainer.backbone.forward
    trainer.backbone.forward = lambda images: forward(images) * np.nan
    assert trainer.step().skipped == "the loss is not finite"
    for name, array in trainer.gallery.statistics.items():
        np.testing.assert_array_equal(array.asnumpy(), before[name], err_msg=name)
    trainer.backbone.forward = forward
    trainer.step()
    assert any(not np.array_equal(array.asnumpy(), before[name]) for name, array in trainer.gallery.statistics.items())
