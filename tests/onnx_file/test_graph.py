"""Names, order and validity of a graph that is being changed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from partial_fc.onnx_file import graph as graph_file
from partial_fc.onnx_file.graph import Graph, attributes


def small(nodes, weights=(), output="fc1") -> Graph:
    tensors = [numpy_helper.from_array(np.float32(value), name) for name, value in weights]
    return Graph(helper.make_graph(nodes, "g", [], [], tensors), output, 2, 12)


def node(operator, inputs, output, **how):
    return helper.make_node(operator, inputs, [output], name=output, **how)


def test_nodes_come_in_order_and_unused_weights_go():
    nodes = [node("Flatten", ["c"], "fc1"), node("Add", ["b", "w"], "c"), node("Relu", ["data"], "b")]
    model = small(nodes, [("w", 1.0), ("unused", 2.0)]).to_model({"key": "value"})
    assert [one.name for one in model.graph.node] == ["b", "c", "fc1"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("key", "value")]


def test_a_name_that_is_taken_makes_room():
    graph = small([node("Relu", ["data"], "fc1"), node("Flatten", ["fc1"], "last")], output="last")
    graph.rename("last", "fc1")
    assert [(*one.input, *one.output) for one in graph.nodes] == [("data", "fc1_1"), ("fc1_1", "fc1")]
    assert graph.output == "fc1"
    graph.rename("fc1", "fc1")
    assert graph.free_name("fc1") == "fc1_2" and graph.free_name("data") == "data_1"
    assert graph.add_weight("fc1", np.zeros(1)) == "fc1_2" and graph.free_name("fc1") == "fc1_3"


def test_only_users():
    graph = small([node("Relu", ["data"], "a"), node("Add", ["a", "a"], "b"), node("Mul", ["a", "b"], "fc1")])
    assert graph.only_user("a") is None and graph.only_user("b").name == "fc1" and graph.only_user("fc1") is None
    graph.read_instead("a", "data")
    assert graph.users("a") == [] and len(graph.users("data")) == 3
    assert graph.count("Relu") == 1


def test_attributes():
    assert attributes(node("Gemm", ["a", "b"], "c", alpha=0.5, transB=1)) == {"alpha": 0.5, "transB": 1}


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", ["missing"], "fc1")],
        [node("NoSuchOperator", ["data"], "fc1")],
        [node("Relu", ["data"], "fc1")],  # (N, 3, 2, 2) where (N, 12) is told
    ],
)
def test_what_is_no_valid_onnx_is_said(nodes):
    with pytest.raises(ValueError, match="does not make valid ONNX"):
        small(nodes).to_model({})


def test_a_file_has_an_end(monkeypatch):
    monkeypatch.setattr(graph_file, "_LARGEST_BYTES", 100)
    graph = small([node("Flatten", ["data"], "a"), node("Add", ["a", "w"], "fc1")], [("w", np.zeros(12))])
    with pytest.raises(ValueError, match="an ONNX file holds 2 GiB, and this network takes .* bytes: try --fp16"):
        graph.to_model({})
