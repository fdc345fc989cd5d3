"""MXNet's graph as an ONNX graph, by MXNet 1.9.1's own exporter, and all that it gets wrong put right.

What it gets wrong, and where that is mended:

- before, in MXNet's graph: a FullyConnected that does not say `flatten` is written as flatten = False; a BatchNorm with
  fix_gamma as if it used its gamma; `scalar − x`, `scalar / x` the other way round unless the node has a certain name;
  `true` and `1` are taken for False in places;
- after, in ONNX's graph: the slopes of a PReLU have the shape (C,), which would run along the last axis, and need
  (C, 1, 1); weights are listed as inputs; nodes have no names; Dropout and copies stay as nodes that do nothing.

It writes a weight as a list of Python's numbers, which takes minutes for a deep network: it is told their shapes alone,
and they are put into the graph as they are.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout

import mxnet as mx
import numpy as np
import onnx
from mxnet.onnx.mx2onnx import get_operator_support
from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph
from onnx.checker import ValidationError

from partial_fc.onnx_file.graph import INPUT, OPSET, OUTPUT, Graph

_SAYS_NO = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    TypeError,
    ValueError,
    ValidationError,
    mx.MXNetError,
)
_REVERSED = {"_rminus_scalar": "_rminusscalar", "_rdiv_scalar": "_rdivscalar"}
_BOOLEANS = ("count_include_pad", "fix_gamma", "flatten", "global_pool", "no_bias")
_TRUE = ("True", "true", "1")


def convert(
    symbol: mx.sym.Symbol, parameters: Mapping[str, mx.nd.NDArray], image_size: int, embedding_size: int
) -> Graph:
    """The graph from `data` (N, 3, S, S) to `fc1` (N, D) of an MXNet graph and its parameters.

    Raises:
        ValueError: it has operators that ONNX lacks, or that MXNet's exporter cannot write.
    """
    nodes = json.loads(symbol.tojson())["nodes"]
    _check_operators(nodes)
    arrays = _arrays(symbol, parameters, nodes)
    spelled, image = _spell_out(symbol), (3, image_size, image_size)
    inputs = {name: arrays[name] for name in spelled.list_inputs() if name != INPUT}
    try:
        with redirect_stdout(io.StringIO()):  # it prints names
            proto = MXNetGraph().create_onnx_graph_proto(
                spelled,
                {},
                [(1, *image) if name == INPUT else inputs[name].shape for name in spelled.list_inputs()],
                [onnx.TensorProto.FLOAT] * (1 + len(inputs)),
                opset_version=OPSET,
                dynamic=True,
                dynamic_input_shapes=[
                    ("N", *image) if name == INPUT else inputs[name].shape for name in spelled.list_inputs()
                ],
            )
    except _SAYS_NO as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"MXNet's exporter to ONNX does not take the graph: {reason}") from error
    if len(proto.output) != 1:
        raise ValueError(f"the graph must give one embedding, but gives {len(proto.output)} outputs in ONNX")
    graph = Graph(proto, proto.output[0].name, image_size, embedding_size)
    graph.weights |= {name: array.asnumpy() for name, array in arrays.items()}
    _shape_slopes(graph, _ranks(symbol, arrays, image_size))
    _remove_identities(graph)
    _name_nodes(graph)
    graph.rename(graph.output, OUTPUT)
    return graph


def _check_operators(nodes: list[dict]) -> None:
    known = {*get_operator_support(OPSET), "null"}
    unknown = sorted({node["op"] for node in nodes} - known)
    if unknown:
        raise ValueError(f"the graph has operators that cannot be written as ONNX: {', '.join(unknown)}")


def _arrays(
    symbol: mx.sym.Symbol, parameters: Mapping[str, mx.nd.NDArray], nodes: list[dict]
) -> dict[str, mx.nd.NDArray]:
    """The parameters that the graph uses, in float32, with the gammas that BatchNorm holds at 1."""
    names = [name for name in symbol.list_inputs() if name != INPUT]
    arrays = {name: parameters[name].astype(np.float32, copy=False) for name in names}
    for node in nodes:
        if node["op"] == "BatchNorm" and node.get("attrs", {}).get("fix_gamma", "True") in _TRUE:
            gamma = nodes[node["inputs"][1][0]]["name"]
            arrays[gamma] = mx.nd.ones_like(arrays[gamma])
    return arrays


def _spell_out(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """The same graph with the defaults and names that the exporter needs to read it aright."""
    graph = json.loads(symbol.tojson())
    for number, node in enumerate(graph["nodes"]):
        said = node.get("attrs", {})
        said |= {name: str(said[name] in _TRUE) for name in _BOOLEANS if name in said}
        if node["op"] == "FullyConnected":
            said.setdefault("flatten", "True")
        if node["op"] in _REVERSED:
            node["name"] = f"{_REVERSED[node['op']]}{number}_{node['name']}"
    return mx.sym.load_json(json.dumps(graph))


def _ranks(symbol: mx.sym.Symbol, arrays: Mapping[str, mx.nd.NDArray], image_size: int) -> dict[str, int]:
    """How many dimensions each value has, by the name that the exporter gives it."""
    internals = symbol.get_internals()
    shapes = {name: array.shape for name, array in arrays.items()}
    _, outputs, _ = internals.infer_shape(**{INPUT: (1, 3, image_size, image_size)}, **shapes)
    names = internals.list_outputs()
    return {name.removesuffix("_output"): len(shape) for name, shape in zip(names, outputs, strict=True)}


def _shape_slopes(graph: Graph, ranks: Mapping[str, int]) -> None:
    for node in graph.nodes:
        slope = graph.weights.get(node.input[1]) if node.op_type == "PRelu" else None
        if slope is not None and slope.ndim == 1:
            after_channels = ranks.get(node.output[0], 4) - 2
            graph.weights[node.input[1]] = slope.reshape(-1, *(1,) * after_channels)


def _remove_identities(graph: Graph) -> None:
    for node in [node for node in graph.nodes if node.op_type == "Identity"]:
        if node.output[0] == graph.output:
            continue
        graph.nodes.remove(node)
        graph.read_instead(node.output[0], node.input[0])


def _name_nodes(graph: Graph) -> None:
    for node in graph.nodes:
        node.name = node.output[0]
