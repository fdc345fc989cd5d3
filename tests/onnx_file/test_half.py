"""float16: what does not fit is refused, and the rounded twin shows what a GPU would give."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from partial_fc.onnx_file.compare import _InMemory, check_images, unit_embeddings
from partial_fc.onnx_file.graph import Graph
from partial_fc.onnx_file.half import rounded_twin, to_float16

SIZE = 4


def graph(*scales: float) -> Graph:
    """The mean of each channel, times one number after another."""
    weights = [numpy_helper.from_array(np.float32(scale), f"w{number}") for number, scale in enumerate(scales)]
    nodes, last = [], "data"
    for number in range(len(scales)):
        name = f"times{number}"
        nodes.append(helper.make_node("Mul", [last, f"w{number}"], [name], name=name))
        last = name
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["mean"], name="mean"))
    nodes.append(helper.make_node("Flatten", ["mean"], ["fc1"], name="fc1"))
    return Graph(helper.make_graph(nodes, "g", [], [], weights), "fc1", SIZE, 3)


def test_between_two_casts_all_is_float16():
    model = to_float16(graph(0.5, 3.0), {})
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert {types["times0"], types["times1"], types["mean"]} == {TensorProto.FLOAT16}
    assert [node.op_type for node in model.graph.node].count("Cast") == 2
    ends = [model.graph.input[0], model.graph.output[0]]
    assert [value.type.tensor_type.elem_type for value in ends] == [TensorProto.FLOAT] * 2
    images_BHWC = check_images(SIZE)
    expected_BD = 1.5 * images_BHWC.mean(axis=(1, 2))
    for made in (model, rounded_twin(model)):
        np.testing.assert_allclose(_InMemory(made).embed(images_BHWC), expected_BD, rtol=2e-3)


@pytest.mark.parametrize("scale", [1e5, -7e4, np.inf, np.nan])
def test_a_weight_past_its_range_is_refused(scale):
    with pytest.raises(ValueError, match="the weight w1 holds .*, and float16 ends at 65504: leave --fp16 out"):
        to_float16(graph(0.5, scale), {})


def test_a_value_past_its_range_is_seen():
    model = to_float16(graph(6e4, 1e-4), {})
    with pytest.raises(ValueError, match="float16 arithmetic gives an embedding that is not finite"):
        unit_embeddings(_InMemory(rounded_twin(model)), check_images(SIZE), "float16 arithmetic")


def test_the_twin_rounds_every_value():
    scales = np.float16([0.37, 1.3])
    twin = _InMemory(rounded_twin(to_float16(graph(*scales.tolist()), {})))
    images_BHWC = np.full((1, SIZE, SIZE, 3), 251, np.uint8)
    first = np.float16(np.float32(251) * np.float32(scales[0]))
    expected = np.float16(np.float32(first) * np.float32(scales[1]))
    exact = 251 * np.float64(scales).prod()
    assert first != 251 * np.float64(scales[0]) and expected != exact
    assert (twin.embed(images_BHWC) == expected).all()


def test_the_twin_leaves_the_model_as_it_was():
    model = to_float16(graph(2.0), {})
    before = model.SerializeToString()
    onnx.checker.check_model(rounded_twin(model))
    assert model.SerializeToString() == before
