"""Raw RGB pixels are what every file takes, and its readers see that the graph normalises."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from partial_fc.evaluation.model import Checkpoint, CheckpointModel
from partial_fc.evaluation.pixel_form import PixelForm
from partial_fc.onnx_file.compare import _InMemory, check_images
from partial_fc.onnx_file.make import make_graph, make_model
from partial_fc.testing_export import random_parameters

SIZE, EMBEDDING = 8, 3
INSIGHTFACES = ((127.5,), (128.0,))


def network(first) -> mx.sym.Symbol:
    data = first(mx.sym.Variable("data"))
    body = mx.sym.Convolution(data, num_filter=2, kernel=(3, 3), name="conv0")
    return mx.sym.FullyConnected(body, num_hidden=EMBEDDING, name="fc1")


def minus_mul(data):
    return (mx.sym.identity(data, name="id") - 127.5) * 0.0078125


BODIES = {
    "minus, times": (minus_mul, 1),
    "minus, over": (lambda data: (data - 127.5) / 128, 2),
    "times alone": (lambda data: data * 0.01, 2),
    "batch norm": (lambda data: mx.sym.BatchNorm(data, name="bn_data"), 1),
    "none": (lambda data: data, 1),
}
FORMS = {
    "plain": PixelForm(),
    "one number": PixelForm(mean=(127.5,), std=(128.0,)),
    "three": PixelForm(mean=(120.0, 110.0, 100.0), std=(60.0, 61.0, 62.0)),
    "bgr": PixelForm(colour="bgr", mean=(1.0, 2.0, 3.0), std=(2.0,)),
    "bgr, raw": PixelForm(colour="bgr"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("body", BODIES)
def test_raw_pixels_give_the_embedding(body, form):
    symbol = network(BODIES[body][0])
    parameters, images_BHWC = random_parameters(symbol, SIZE), check_images(SIZE)
    checkpoint = Checkpoint(symbol, parameters, SIZE, FORMS[form])
    reference = CheckpointModel(symbol, parameters, mx.cpu(), batch_size=3, image_size=SIZE, form=FORMS[form])
    model = make_model(make_graph(checkpoint, EMBEDDING), fold_batch_norm=False, fp16=False).model
    expected_BD = reference.embed(images_BHWC)
    tolerance = 1e-5 * np.abs(expected_BD).max()
    np.testing.assert_allclose(_InMemory(model).embed(images_BHWC), expected_BD, rtol=1e-5, atol=tolerance)
    # As PyPI's insightface looks for them.
    first = model.graph.node[:8]
    assert sum(node.name.startswith("Sub") for node in first) == 1
    assert sum(node.name.startswith("Mul") for node in first) == 1
    order = [node.op_type for node in first if node.op_type != "Gather"]
    assert order[:2] == ["Sub", "Mul"]
    assert ("Gather" in {node.op_type for node in first}) == form.startswith("bgr")


def test_a_network_that_normalises_keeps_its_own_nodes():
    symbol = network(minus_mul)
    checkpoint = Checkpoint(symbol, random_parameters(symbol, SIZE), SIZE, PixelForm())
    assert make_graph(checkpoint, EMBEDDING).count("Sub") == 1
