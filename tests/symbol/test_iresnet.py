"""IResNet against InsightFace's names, shapes and attributes."""

import json

import mxnet as mx
import numpy as np
import pytest

from symbol import build_backbone
from symbol.iresnet import UNITS


@pytest.fixture(scope="module")
def published(shared_data):
    return json.loads((shared_data / "facts" / "insightface_names.json").read_text())


@pytest.mark.parametrize("name", UNITS)
def test_names_and_shapes_are_the_published_ones(published, name):
    symbol = build_backbone(name, 512)
    arguments, outputs, states = symbol.infer_shape(data=(1, 3, 112, 112))
    found = dict(zip(symbol.list_arguments(), map(list, arguments), strict=True))
    assert found.pop("data") == [1, 3, 112, 112]
    assert found == published[name]["args"]
    assert dict(zip(symbol.list_auxiliary_states(), map(list, states), strict=True)) == published[name]["aux"]
    assert [list(shape) for shape in outputs] == [published[name]["out"]]
    assert symbol.list_outputs() == ["fc1_output"]


def test_every_published_network_is_known(published):
    assert set(published) == set(UNITS)


def test_order_of_arguments_is_the_published_one(published):
    assert build_backbone("r50").list_arguments()[1:] == list(published["r50"]["args"])


def test_attributes_are_the_published_ones():
    attributes = build_backbone("r50").attr_dict()
    layers = {node["name"]: node for node in json.loads(build_backbone("r50").tojson())["nodes"]}
    norms = [name for name, node in layers.items() if node["op"] == "BatchNorm"]
    assert len(norms) == 2 + 1 + 3 * 24 + 4
    for name in norms:
        assert float(attributes[name]["eps"]) == 2e-5
        assert float(attributes[name]["momentum"]) == 0.9
        assert attributes[name]["fix_gamma"] == str(name == "fc1"), name
    for name, node in layers.items():
        if node["op"] == "Convolution":
            shortcut = name.endswith("_conv1sc")
            halves = shortcut or name.endswith("_unit1_conv2")
            assert attributes[name]["kernel"] == ("(1, 1)" if shortcut else "(3, 3)"), name
            assert attributes[name]["pad"] == ("(0, 0)" if shortcut else "(1, 1)"), name
            assert attributes[name]["stride"] == ("(2, 2)" if halves else "(1, 1)"), name
    assert not any(node["op"] == "Dropout" for node in layers.values())


def test_a_unit_computes_its_equation():
    """r18's first unit, in float64, by the definition of its layers at inference."""
    rng = np.random.default_rng(0)
    symbol = build_backbone("r18").get_internals()["stage2_unit2_plus_output"]
    before = symbol.get_internals()["stage2_unit1_plus_output"]
    group = mx.sym.Group([before, symbol])
    executor = group.simple_bind(mx.cpu(), grad_req="null", data=(1, 3, 12, 12))
    for name, array in {**executor.arg_dict, **executor.aux_dict}.items():
        low, high = (0, 255) if name == "data" else (0.5, 1.5) if "var" in name or "gamma" in name else (-0.1, 0.1)
        array[:] = rng.uniform(low, high, size=array.shape)
    given, found = (output.asnumpy().astype(np.float64) for output in executor.forward(is_train=False))
    values = {
        name.removeprefix("stage2_unit2_"): array.asnumpy().astype(np.float64)
        for name, array in {**executor.arg_dict, **executor.aux_dict}.items()
        if name.startswith("stage2_unit2_")
    }

    def norm(data, name):
        mean, var, gamma, beta = (
            values[f"{name}_{part}"].reshape(-1, 1, 1) for part in ("moving_mean", "moving_var", "gamma", "beta")
        )
        return gamma * (data - mean) / np.sqrt(var + 2e-5) + beta

    def convolution(data, weight):
        padded = np.pad(data, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("bchwkl,ockl->bohw", windows, weight)

    body = norm(convolution(norm(given, "bn1"), values["conv1_weight"]), "bn2")
    body = np.where(body > 0, body, values["relu1_gamma"].reshape(-1, 1, 1) * body)
    expected = norm(convolution(body, values["conv2_weight"]), "bn3") + given
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
