"""Layers: precision, PReLU in two forms, and the names of nodes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from symbol.layers import PRECISIONS, Layers


def run(symbol, arguments, head_gradient):
    """Output and gradients, by argument name, of a training step on a CPU."""
    inputs = {name: mx.nd.array(value) for name, value in arguments.items()}
    gradients = {name: mx.nd.zeros(value.shape) for name, value in inputs.items()}
    executor = symbol.bind(mx.cpu(), inputs, args_grad=gradients)
    output = executor.forward(is_train=True)[0].asnumpy()
    executor.backward([mx.nd.array(head_gradient)])
    return output, {name: gradient.asnumpy() for name, gradient in gradients.items()}


def as_float16(values):
    return values.astype(np.float16).astype(np.float64)


def convolve(images_BCHW, weight_OCKK):
    """A convolution without padding, in float64, by its definition."""
    batch, _, height, width = images_BCHW.shape
    filters, _, kernel, _ = weight_OCKK.shape
    out = np.empty((batch, filters, height - kernel + 1, width - kernel + 1))
    for y in range(out.shape[2]):
        for x in range(out.shape[3]):
            patch = images_BCHW[:, :, y : y + kernel, x : x + kernel]
            out[:, :, y, x] = np.einsum("bckl,ockl->bo", patch, weight_OCKK)
    return out


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_unknown_precision_names_the_known_ones():
    with pytest.raises(ValueError, match="'bfloat16'.*float32, float16, float16-emulated"):
        Layers("bfloat16")


def test_unknown_device_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown device to train on 'tpu': choose one of cpu, gpu"):
        Layers(train_on="tpu")


def test_input_is_normalized():
    data = np.arange(2 * 3 * 5 * 5, dtype=np.float32).reshape(2, 3, 5, 5)
    symbol = Layers().normalized_input()
    out = symbol.bind(mx.cpu(), {"data": mx.nd.array(data)}).forward()[0].asnumpy()
    np.testing.assert_allclose(out, (data - 127.5) / 128, rtol=1e-6)


def test_emulated_convolution_rounds_weight_and_output_and_sums_in_float32(rng):
    data = as_float16(rng.normal(size=(2, 5, 6, 7)))
    weight = rng.normal(size=(3, 5, 3, 3)).astype(np.float32)
    symbol = Layers("float16-emulated").convolution(mx.sym.Variable("data"), "c", 3, kernel=3)
    out, _ = run(symbol, {"data": data, "c_weight": weight}, np.ones((2, 3, 4, 5)))

    exact = convolve(data, as_float16(weight))
    assert np.array_equal(out, as_float16(out)), "an output is not a float16"
    # Half a unit in the last place of float16, and nothing near the error that sums of float16 would have.
    np.testing.assert_allclose(out, exact, rtol=2.0**-11 * 1.01, atol=1e-6)
    assert np.abs(out - convolve(data, weight.astype(np.float64))).max() > 1e-4, "the weight was not rounded"


def test_emulated_gradients_are_rounded_and_overflow(rng):
    data = rng.normal(size=(2, 5, 6, 7)).astype(np.float32)
    weight = rng.normal(size=(3, 5, 3, 3)).astype(np.float32)
    gradients = {}
    for precision in ("float32", "float16-emulated"):
        symbol = Layers(precision).convolution(mx.sym.Variable("data"), "c", 3, kernel=3)
        for size in (1.0, 6e4):
            head = np.full((2, 3, 4, 5), size, dtype=np.float32)
            _, found = run(symbol, {"data": data, "c_weight": weight}, head)
            gradients[precision, size] = found["c_weight"]
    small = gradients["float16-emulated", 1.0]
    assert np.array_equal(small, as_float16(small))
    np.testing.assert_allclose(small, gradients["float32", 1.0], rtol=5e-3, atol=5e-3)
    largest = np.abs(gradients["float32", 6e4])
    assert np.isfinite(largest).all()
    assert np.array_equal(np.isinf(gradients["float16-emulated", 6e4]), largest > 65519), "inf past float16's range"
    assert (largest > 65519).any()


@pytest.mark.parametrize("channels", [1, 5, 16])
@pytest.mark.parametrize("form", [{}, {"train_on": "cpu"}, {"train_on": "gpu"}], ids=str)
def test_prelu_and_its_gradients_follow_the_equation(rng, form, channels):
    data = rng.normal(size=(3, channels, 7, 5)).astype(np.float32)
    data[0, 0, 0] = 0
    slopes = rng.normal(0.5, 1, size=channels).astype(np.float32)
    head = rng.normal(size=data.shape).astype(np.float32)
    symbol = Layers(**form).prelu(mx.sym.Variable("data"), "p", channels)
    out, gradients = run(symbol, {"data": data, "p_gamma": slopes}, head)

    per_channel = slopes.reshape(-1, 1, 1)
    np.testing.assert_allclose(out, np.maximum(data, 0) + per_channel * np.minimum(data, 0), rtol=1e-5, atol=1e-5)
    positive, at_zero = data > 0, data == 0  # at the kink any slope between the two is right
    expected = np.where(positive, head, per_channel * head)
    np.testing.assert_allclose(gradients["data"][~at_zero], expected[~at_zero], rtol=1e-5, atol=1e-5)
    expected = (head * np.minimum(data, 0)).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(gradients["p_gamma"], expected, rtol=1e-5, atol=1e-5)


def slope_gradient_ratios(train_on):
    """Gradients of slopes between two convolutions, as multiples of what finite differences say."""
    layers = Layers(train_on=train_on)
    body = layers.convolution(mx.sym.Variable("data"), "before", 4, kernel=3)
    body = layers.convolution(layers.prelu(body, "p", 4), "after", 3, kernel=3)
    rng = np.random.default_rng(0)
    shapes, (out_shape,), _ = body.infer_shape(data=(2, 3, 9, 9), p_gamma=(4,))
    arguments = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in zip(body.list_arguments(), shapes, strict=True)
    }
    arguments["p_gamma"] = np.full(4, 0.25, dtype=np.float32)
    head = rng.normal(size=out_shape).astype(np.float32)
    _, gradients = run(body, arguments, head)
    ratios = []
    for channel in range(4):  # the output is linear in a slope: the difference of two is exact
        outputs = []
        for slope in (0.0, 1.0):
            arguments["p_gamma"][channel] = slope
            outputs.append((run(body, arguments, head)[0].astype(np.float64) * head).sum())
        arguments["p_gamma"][channel] = 0.25
        ratios.append(gradients["p_gamma"][channel] / (outputs[1] - outputs[0]))
    return ratios


@pytest.mark.parametrize("train_on", ["cpu", "gpu"])
def test_slopes_inside_a_network_have_the_right_gradient(train_on):
    np.testing.assert_allclose(slope_gradient_ratios(train_on), 1, rtol=1e-3)


def test_slopes_have_the_right_gradient_without_onednn_as_on_a_gpu():
    """There MXNet plans memory for the gradients as it does on a GPU; the plain network's are 0.25 times right."""
    script = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('layers_test', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(json.dumps([[float(r) for r in module.slope_gradient_ratios(d)] for d in ('gpu', 'cpu', None)]))\n"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "MXNET_MKLDNN_ENABLED": "0",
        "MXNET_STORAGE_FALLBACK_LOG_VERBOSE": "0",
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
    }
    ran = subprocess.run(
        [sys.executable, "-c", script, __file__], env=environment, capture_output=True, text=True, check=True
    )
    on_gpu, on_cpu, plain = json.loads(ran.stdout.splitlines()[-1])
    np.testing.assert_allclose(on_gpu, 1, rtol=1e-3)
    np.testing.assert_allclose(on_cpu, 1, rtol=1e-3)
    # The reason for the other forms: when this fails, MXNet has been repaired and they may go.
    np.testing.assert_allclose(plain, 0.25, rtol=1e-3)


@pytest.mark.parametrize("train_on", [None, "cpu", "gpu"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_slopes_start_at_a_quarter(precision, train_on):
    symbol = Layers(precision, train_on=train_on).prelu(mx.sym.Variable("data"), "p", 4)
    slopes = mx.nd.zeros((4,))
    mx.init.Normal(1.0)(mx.init.InitDesc("p_gamma", symbol.attr_dict()["p_gamma"]), slopes)
    assert (slopes.asnumpy() == 0.25).all()


def test_float16_holds_float32_arguments_and_float16_activations():
    layers = Layers("float16")
    body = layers.convolution(layers.normalized_input(), "c", 8, kernel=3)
    body = layers.prelu(layers.batch_norm(body, "b", eps=1e-3), "p", 8)
    body = layers.add(body, body, "sum")
    symbol = layers.embedding(layers.to_float32(body), 4)
    internals = symbol.get_internals()
    types = dict(zip(internals.list_outputs(), internals.infer_type(data=np.float32)[1], strict=True))
    for name in ("c", "b", "p_bent", "p", "sum", "c_weight_float16", "p_gamma_float16"):
        assert types[f"{name}_output"] is np.float16, name
    for name in symbol.list_arguments() + symbol.list_auxiliary_states() + ["pre_fc1_output", "fc1_output"]:
        assert types[name] is np.float32, name


def test_float32_adds_no_node():
    layers = Layers("float32")
    body = layers.convolution(layers.normalized_input(), "c", 8, kernel=3)
    body = layers.add(layers.prelu(layers.batch_norm(body, "b", eps=1e-3), "p", 8), body, "sum")
    body = layers.embedding(layers.to_float32(body), 4)
    operators = [node["op"] for node in nodes(body) if node["op"] != "null"]
    assert operators == [
        "_minus_scalar", "_mul_scalar", "Convolution", "BatchNorm", "LeakyReLU", "elemwise_add",
        "FullyConnected", "BatchNorm",
    ]  # fmt: skip


def nodes(symbol):
    return json.loads(symbol.tojson())["nodes"]
