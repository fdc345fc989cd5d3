"""`build_backbone` over all networks, precisions and forms."""

import json
import re

import mxnet as mx
import numpy as np
import pytest

from symbol import backbone_names, build_backbone, default_image_size

FORMS = [
    {},
    {"train_on": "cpu"},
    {"train_on": "gpu"},
    {"precision": "float16-emulated"},
    {"precision": "float16"},
]
EMBEDDING_SIZE = 24


@pytest.mark.parametrize("function", [build_backbone, default_image_size])
def test_unknown_network_names_the_known_ones(function):
    with pytest.raises(ValueError, match=r"unknown network 'r51': choose one of r18, .*mobilefacenet.*toy"):
        function("r51")


def test_embedding_size_is_checked():
    with pytest.raises(ValueError, match="embedding size is 0: set it to 1 or more"):
        build_backbone("toy", 0)


def test_names_and_image_sizes():
    known = ["r18", "r34", "r50", "r74", "r100", "r124", "r152", "r200", "mobilefacenet", "resnet50", "toy"]
    assert backbone_names() == known + ["ir50", "mobile"]
    assert [default_image_size(name) for name in known] == [112] * 9 + [224, 56]


@pytest.mark.parametrize("alias, name", [("ir50", "r50"), ("mobile", "mobilefacenet")])
def test_aliases(alias, name):
    assert build_backbone(alias).tojson() == build_backbone(name).tojson()


@pytest.mark.parametrize("name", ["r18", "mobilefacenet", "resnet50", "toy"])
def test_every_form_has_the_same_parameters_in_float32(name):
    size = default_image_size(name)
    plain = build_backbone(name, EMBEDDING_SIZE)
    expected = plain.infer_shape(data=(2, 3, size, size))
    for form in FORMS:
        symbol = build_backbone(name, EMBEDDING_SIZE, **form)
        assert symbol.list_arguments() == plain.list_arguments()
        assert symbol.list_auxiliary_states() == plain.list_auxiliary_states()
        assert symbol.list_outputs() == ["fc1_output"]
        assert symbol.infer_shape(data=(2, 3, size, size)) == expected
        for types in symbol.infer_type(data=np.float32):
            assert set(types) == {np.float32}


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("name", ["r18", "mobilefacenet", "resnet50", "toy"])
def test_builds_of_a_network_are_equal_and_every_node_has_its_own_name(name, form):
    first = build_backbone(name, **form).tojson()
    _ = (mx.sym.Variable("a") + 1) * 2  # moves MXNet's counters
    assert build_backbone(name, **form).tojson() == first
    names = [node["name"] for node in json.loads(first)["nodes"]]
    assert len(set(names)) == len(names)
    assert not [name for name in names if re.match(r"_?(plus|minus|mul|cast|reshape|convolution)\w*\d+$", name)]


def step(symbol, parameters, states, images, head_gradient):
    """Embeddings and gradients of a training step."""
    executor = symbol.simple_bind(mx.cpu(), grad_req="write", data=images.shape)
    executor.copy_params_from(parameters, states)
    embeddings = executor.forward(is_train=True, data=mx.nd.array(images))[0].asnumpy()
    executor.backward([mx.nd.array(head_gradient)])
    return embeddings, {name: executor.grad_dict[name].asnumpy() for name in parameters}


@pytest.fixture(scope="module")
def toy_case():
    """Parameters, states, images and a head gradient for `toy`."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(6, 3, 56, 56)).astype(np.float32)
    symbol = build_backbone("toy", EMBEDDING_SIZE)
    shapes, _, state_shapes = symbol.infer_shape(data=images.shape)
    attributes = symbol.attr_dict()
    initializer = mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)
    mx.random.seed(0)

    def initialized(names, shapes):
        arrays = {name: mx.nd.zeros(shape) for name, shape in zip(names, shapes, strict=True) if name != "data"}
        for name, array in arrays.items():
            initializer(mx.init.InitDesc(name, attributes.get(name)), array)
        return arrays

    parameters = initialized(symbol.list_arguments(), shapes)
    states = initialized(symbol.list_auxiliary_states(), state_shapes)
    head_gradient = rng.normal(size=(6, EMBEDDING_SIZE)).astype(np.float32)
    return parameters, states, images, head_gradient


@pytest.fixture(scope="module")
def toy_step(toy_case):
    return step(build_backbone("toy", EMBEDDING_SIZE), *toy_case)


def has_gradient(name):
    """Whether a parameter of an IResNet has one: the next BatchNorm takes away what these would add."""
    return name not in ("fc1_gamma", "pre_fc1_bias", "bn1_beta") and not name.endswith(("_bn3_beta", "_sc_beta"))


def relative_difference(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_toy_trains_every_parameter(toy_step):
    embeddings, gradients = toy_step
    assert embeddings.shape == (6, EMBEDDING_SIZE)
    assert np.isfinite(embeddings).all()
    for name in filter(has_gradient, gradients):
        assert np.isfinite(gradients[name]).all() and np.abs(gradients[name]).max() > 0, name


@pytest.mark.parametrize("form", [{"train_on": "cpu"}, {"train_on": "gpu"}], ids=str)
def test_toy_in_a_form_for_training_is_the_same_network(toy_case, toy_step, form):
    expected, expected_gradients = toy_step
    found, gradients = step(build_backbone("toy", EMBEDDING_SIZE, **form), *toy_case)
    assert relative_difference(found, expected) < 1e-5
    for name in filter(has_gradient, gradients):
        # An activation within rounding of 0 may fall on either side of the kink.
        assert relative_difference(gradients[name], expected_gradients[name]) < 5e-3, name


def test_toy_in_emulated_float16_is_near_float32(toy_case):
    parameters, *rest = toy_case
    # No kinks: rounding turns the sign of one in a thousand activations, and their gradients with it, which
    # would be the whole difference.
    straight = {
        name: mx.nd.ones_like(value) if "relu" in name else value for name, value in parameters.items()
    }
    expected, expected_gradients = step(build_backbone("toy", EMBEDDING_SIZE), straight, *rest)
    found, gradients = step(
        build_backbone("toy", EMBEDDING_SIZE, precision="float16-emulated"), straight, *rest
    )
    assert 1e-5 < relative_difference(found, expected) < 1e-2
    for name in gradients:
        if name.endswith(("_weight", "_gamma")) and has_gradient(name):  # no beta has one without the kinks
            assert relative_difference(gradients[name], expected_gradients[name]) < 1e-2, name


def test_toy_overflows_where_float16_would(toy_case):
    parameters, states, images, head_gradient = toy_case
    for precision, overflows in (("float32", False), ("float16-emulated", True)):
        _, gradients = step(
            build_backbone("toy", EMBEDDING_SIZE, precision=precision), parameters, states, images, head_gradient * 1e8
        )
        assert np.isfinite(gradients["conv0_weight"]).all() != overflows, precision
        assert np.isfinite(gradients["pre_fc1_weight"]).all(), "the output block is float32"
