"""MobileFaceNet against the published checkpoint, node by node and number by number."""

import json

import mxnet as mx
import numpy as np
import pytest

from symbol import build_backbone

# What MXNet assumes where an operator's attribute is not written.
DEFAULTS = {
    "BatchNorm": {"eps": "0.001", "momentum": "0.9", "fix_gamma": "True"},
    "Convolution": {"num_group": "1", "no_bias": "False"},
}
PUBLISHED_EMBEDDING_SIZE = 128


@pytest.fixture(scope="module")
def published(shared_data):
    prefix = shared_data / "models" / "mobilefacenet_y1" / "model"
    return mx.model.load_checkpoint(str(prefix), 0)


def operators(symbol):
    """Operators in order, each with its attributes and the names of its arguments."""
    nodes = json.loads(symbol.tojson())["nodes"]
    for node in nodes:
        if node["op"] == "null":
            continue
        attributes = DEFAULTS.get(node["op"], {}) | node.get("attrs", {})
        if "eps" in attributes:
            attributes["eps"] = str(float(attributes["eps"]))
        inputs = [nodes[index] for index, *_ in node["inputs"]]
        named = node["op"] not in ("elemwise_add", "_minus_scalar", "_mul_scalar")
        yield {
            "op": node["op"],
            "name": node["name"] if named else None,  # the published file numbers these with a counter
            "attributes": attributes,
            "inputs": [(source["op"], source["name"] if source["op"] == "null" else None) for source in inputs],
        }


def random_images():
    return np.random.default_rng(0).integers(0, 256, size=(2, 3, 112, 112)).astype(np.float32)


def embed(symbol, arguments, states, images):
    executor = symbol.bind(mx.cpu(), {**arguments, "data": mx.nd.array(images)}, aux_states=states)
    return executor.forward(is_train=False)[0].asnumpy()


def test_operators_are_the_published_ones(published):
    ours = list(operators(build_backbone("mobilefacenet", PUBLISHED_EMBEDDING_SIZE)))
    theirs = list(operators(published[0]))
    for found, expected in zip(ours, theirs, strict=True):
        assert found == expected


def test_published_parameters_load_here_and_ours_there(published, tmp_path):
    their_symbol, arguments, states = published
    our_symbol = build_backbone("mobilefacenet", PUBLISHED_EMBEDDING_SIZE)
    assert our_symbol.list_arguments() == their_symbol.list_arguments()
    assert our_symbol.list_auxiliary_states() == their_symbol.list_auxiliary_states()
    images = random_images()
    expected = embed(their_symbol, arguments, states, images)
    # Not bit for bit: 1e-3 is our BatchNorm's eps, and the nearest float32 to it the published one's.
    np.testing.assert_allclose(embed(our_symbol, arguments, states, images), expected, atol=1e-5)

    mx.model.save_checkpoint(str(tmp_path / "model"), 0, our_symbol, arguments, states)
    loaded_symbol, loaded_arguments, loaded_states = mx.model.load_checkpoint(str(tmp_path / "model"), 0)
    assert loaded_symbol.tojson() == our_symbol.tojson()
    np.testing.assert_array_equal(embed(their_symbol, loaded_arguments, loaded_states, images), expected)
    np.testing.assert_allclose(embed(loaded_symbol, arguments, states, images), expected, atol=1e-5)


@pytest.mark.parametrize(
    "form, tolerance",
    [({"train_on": "cpu"}, 1e-6), ({"train_on": "gpu"}, 1e-6), ({"precision": "float16-emulated"}, 1e-3)],
    ids=str,
)
def test_published_parameters_give_the_same_face_in_other_forms(published, form, tolerance):
    their_symbol, arguments, states = published
    images = random_images()
    expected = embed(their_symbol, arguments, states, images)
    found = embed(build_backbone("mobilefacenet", PUBLISHED_EMBEDDING_SIZE, **form), arguments, states, images)
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert (cosines > 1 - tolerance).all()
