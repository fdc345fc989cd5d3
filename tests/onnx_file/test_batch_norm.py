"""Folding changes no function, and leaves what would change it."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from partial_fc.onnx_file.batch_norm import fold_batch_norm
from partial_fc.onnx_file.graph import Graph

SIZE, EMBEDDING = 6, 3


class Network:
    """A graph that grows node by node; no two weights are alike."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes, self.weights, self.last, self.channels = [], {}, "data", 3

    def weight(self, *shape: int, positive: bool = False) -> str:
        values = self.rng.uniform(0.1, 2, shape) if positive else self.rng.normal(size=shape)
        name = f"w{len(self.weights)}"
        self.weights[name] = values.astype(np.float32)
        return name

    def node(self, operator: str, *inputs: str, name: str = "", **how: object) -> None:
        name = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self.last, *inputs], [name], name=name, **how))
        self.last = name

    def norm(self) -> None:
        c = self.channels
        inputs = self.weight(c), self.weight(c), self.weight(c), self.weight(c, positive=True)
        self.node("BatchNormalization", *inputs, epsilon=1e-3)

    def convolution(self, channels: int, groups: int, pad: int, bias: bool) -> None:
        weight = self.weight(channels, self.channels // groups, 3, 3)
        self.node("Conv", weight, *([self.weight(channels)] if bias else []), group=groups, pads=[pad] * 4)
        self.channels = channels

    def end(self, norm: bool, side: int) -> Graph:
        self.node("Flatten")
        width = self.channels * side * side
        self.node("Gemm", self.weight(EMBEDDING, width), self.weight(EMBEDDING), transB=1, name="" if norm else "fc1")
        self.channels = EMBEDDING
        if norm:
            self.norm()
        tensors = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        return Graph(helper.make_graph(self.nodes, "g", [], [], tensors), self.last, SIZE, EMBEDDING)


def run(graph: Graph) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.to_model({}).SerializeToString(), providers=["CPUExecutionProvider"])
    data = np.random.default_rng(1).normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)
    return session.run(None, {"data": data})[0]


@settings(max_examples=25, deadline=None)
@given(
    layers=st.lists(
        st.tuples(st.booleans(), st.sampled_from([(6, 1), (6, 3), (9, 3)]), st.integers(0, 1), st.booleans()),
        min_size=1,
        max_size=2,
    ),
    last=st.booleans(),
    before_dense=st.booleans(),
)
def test_folding_changes_no_function(layers, last, before_dense):
    network, side, stays = Network(), SIZE, 0
    for norm, (channels, groups), pad, bias in layers:
        if norm:  # after a convolution it goes there, and before one with zeros around it stays
            stays += pad == 1 and network.last == "data"
            network.norm()
        network.convolution(channels, groups, pad, bias)
        side += 2 * pad - 2
    if before_dense:
        network.norm()
    graph = network.end(last, side)
    expected_BD, norms = run(copy.deepcopy(graph)), graph.count("BatchNormalization")
    assert fold_batch_norm(graph) == norms - stays
    assert graph.count("BatchNormalization") == stays
    np.testing.assert_allclose(run(graph), expected_BD, rtol=1e-3, atol=1e-4 * np.abs(expected_BD).max())


def branched(second_user: str) -> Graph:
    """A convolution, BatchNorm, a dense layer; and another reader of what one of them gives, added at the end."""
    network = Network()
    network.convolution(4, 1, 0, False)
    network.norm()
    network.node("Relu")
    relu = network.last
    network.nodes.append(helper.make_node("Add", [relu, second_user], ["sum"], name="sum"))
    network.last = "sum"
    return network.end(False, SIZE - 2)


def test_a_convolution_that_others_read_is_left():
    graph = branched("n0")
    expected_BD = run(copy.deepcopy(graph))
    assert fold_batch_norm(graph) == 0
    np.testing.assert_array_equal(run(graph), expected_BD)


def test_others_may_read_the_batch_norm():
    graph = branched("n1")
    expected_BD = run(copy.deepcopy(graph))
    assert fold_batch_norm(graph) == 1
    np.testing.assert_allclose(run(graph), expected_BD, rtol=1e-3, atol=1e-4)


def test_shared_weights_keep_their_other_users_function():
    network = Network()
    network.channels = 3
    weight = network.weight(3, 3, 3, 3)
    network.node("Conv", weight, pads=[1] * 4)
    network.norm()
    network.node("Conv", weight, pads=[1] * 4)
    graph = network.end(False, SIZE)
    expected_BD = run(copy.deepcopy(graph))
    assert fold_batch_norm(graph) == 1
    np.testing.assert_allclose(run(graph), expected_BD, rtol=1e-3, atol=1e-4 * np.abs(expected_BD).max())


def test_a_batch_norm_without_shift_goes_into_a_padding_convolution():
    network = Network()
    network.norm()
    _, _, beta, mean, _ = network.nodes[0].input
    network.weights[beta][:] = 0
    network.weights[mean][:] = 0
    network.convolution(4, 1, 1, True)
    graph = network.end(False, SIZE)
    expected_BD = run(copy.deepcopy(graph))
    assert fold_batch_norm(graph) == 1
    np.testing.assert_allclose(run(graph), expected_BD, rtol=1e-3, atol=1e-4 * np.abs(expected_BD).max())


def test_a_model_whose_weights_are_computed_is_left():
    network = Network()
    weight = network.weight(4, 3, 3, 3)
    network.nodes.append(onnx.helper.make_node("Relu", [weight], ["computed"], name="computed"))
    network.node("Conv", "computed")
    network.channels = 4
    network.norm()
    network.node("Relu")
    graph = network.end(False, SIZE - 2)
    assert fold_batch_norm(graph) == 0
