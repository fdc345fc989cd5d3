"""What MXNet's exporter gets wrong comes out right, and what it cannot write is said."""

from __future__ import annotations

import contextlib
import json

import mxnet as mx
import numpy as np
import pytest

from partial_fc.evaluation.model import CheckpointModel
from partial_fc.onnx_file.compare import _InMemory, check_images
from partial_fc.onnx_file.from_mxnet import convert
from partial_fc.testing_export import random_parameters
from symbol import build_backbone

SIZE, CHANNELS, EMBEDDING = 9, 4, 5


def body() -> mx.sym.Symbol:
    data = mx.sym.Variable("data") * (1 / 128)
    return mx.sym.Convolution(data, num_filter=CHANNELS, kernel=(3, 3), name="conv0")


def dense(data: mx.sym.Symbol, **how: object) -> mx.sym.Symbol:
    return mx.sym.FullyConnected(data, num_hidden=EMBEDDING, name="fc1", **how)


def prelu(data: mx.sym.Symbol, name: str = "relu0") -> mx.sym.Symbol:
    return mx.sym.LeakyReLU(data, act_type="prelu", name=name)


def pooled(**how: object) -> mx.sym.Symbol:
    return mx.sym.Pooling(body(), kernel=(2, 2), stride=(2, 2), name="pool0", **how)


NETWORKS = {
    "dense without flatten": dense(body()),
    "dense with flatten as 1": dense(body(), flatten=1),
    "dense without bias": dense(body(), no_bias=True),
    "dense that does not flatten": dense(mx.sym.Flatten(body()), flatten=False),
    "slopes of maps": dense(prelu(body())),
    "slopes of rows": prelu(dense(body()), "relu1"),
    "fixed gamma": mx.sym.BatchNorm(dense(body()), fix_gamma=True, name="bn1"),
    "gamma fixed by default": mx.sym.BatchNorm(dense(body()), name="bn1"),
    "gamma in use": mx.sym.BatchNorm(dense(body()), fix_gamma=False, name="bn1"),
    "scalar less image": dense(3 - body()),
    "scalar over image": dense(1 / (2 + mx.sym.relu(body()))),
    "scalar less weight": mx.sym.FullyConnected(
        body(), weight=1 - mx.sym.Variable("w", shape=(EMBEDDING, CHANNELS * 49)), num_hidden=EMBEDDING, name="fc1"
    ),
    "dropout": dense(mx.sym.Dropout(mx.sym.identity(body()), p=0.4)),
    "maximum of windows that reach over the edge": dense(pooled(pool_type="max", pooling_convention="full")),
    "mean of all": dense(mx.sym.Pooling(body(), global_pool=True, pool_type="avg", kernel=(1, 1))),
    "one output of another name": mx.sym.identity(dense(prelu(body())), name="embedding"),
    "a layer before it is called fc1": mx.sym.FullyConnected(dense(body()), num_hidden=EMBEDDING, name="last"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_is_mxnets(name):
    network = NETWORKS[name]
    parameters, images_BHWC = random_parameters(network, SIZE), check_images(SIZE)
    graph = convert(network, parameters, SIZE, EMBEDDING)
    expected_BD = CheckpointModel(network, parameters, mx.cpu(), batch_size=3, image_size=SIZE).embed(images_BHWC)
    model = graph.to_model({})
    np.testing.assert_allclose(_InMemory(model).embed(images_BHWC), expected_BD, rtol=1e-4, atol=1e-4)
    assert [value.name for value in model.graph.input] == ["data"]
    assert [value.name for value in model.graph.output] == ["fc1"]
    assert all(node.name for node in graph.nodes) and graph.count("Identity") == (name == "one output of another name")


def test_the_training_form_is_the_same_function():
    plain, trained = (build_backbone("toy", EMBEDDING, train_on=device) for device in (None, "cpu"))
    parameters, images_BHWC = random_parameters(plain, 24), check_images(24)
    expected_BD = CheckpointModel(plain, parameters, mx.cpu(), batch_size=3, image_size=24).embed(images_BHWC)
    model = convert(trained, parameters, 24, EMBEDDING).to_model({})
    np.testing.assert_allclose(_InMemory(model).embed(images_BHWC), expected_BD, rtol=1e-3, atol=1e-3)


def test_float16_parameters_are_read():
    network = NETWORKS["slopes of maps"]
    parameters = {name: value.astype(np.float16) for name, value in random_parameters(network, SIZE).items()}
    graph = convert(network, parameters, SIZE, EMBEDDING)
    assert {array.dtype for array in graph.weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (dense(mx.sym.erfinv(mx.sym.rint(body()))), "operators that cannot be written as ONNX: erfinv, rint"),
        (dense(pooled(pool_type="sum")), "MXNet's exporter to ONNX does not take the graph: Pooling"),
    ],
)
def test_what_onnx_lacks_is_said(network, says):
    parameters = random_parameters(network, SIZE)
    with pytest.raises(ValueError, match=says):
        convert(network, parameters, SIZE, EMBEDDING)


@pytest.mark.parametrize("value", ["", "-1", "(0,0)", "(3,3,3)", "99999999999999999999", "nan", "1e400", "None", "x()"])
def test_odd_attributes_are_an_error_or_an_answer(value):
    network = dense(prelu(mx.sym.BatchNorm(pooled(pool_type="avg"), fix_gamma=False, name="bn0")))
    parameters, text = random_parameters(network, SIZE), network.tojson()
    nodes = json.loads(text)["nodes"]
    for number, attribute in ((n, name) for n, node in enumerate(nodes) for name in node.get("attrs", {})):
        changed = json.loads(text)
        changed["nodes"][number]["attrs"][attribute] = value
        with contextlib.suppress(ValueError, mx.MXNetError):  # MXNet refuses most of them itself
            symbol = mx.sym.load_json(json.dumps(changed))
            symbol.infer_shape(data=(1, 3, SIZE, SIZE))
            try:
                convert(symbol, parameters, SIZE, EMBEDDING).to_model({})
            except mx.MXNetError as error:
                raise AssertionError("MXNet's error must be said as a ValueError") from error
