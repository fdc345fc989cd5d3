"""The normalisation of pixels inside the graph, where readers of ONNX files look for it.

    data → (reversed channels, where the model takes BGR) → Sub mean → Mul 1/std → network

PyPI's `insightface` gives a recognition model raw pixels when a node whose name begins with `Sub` and one whose name
begins with `Mul` are among the first eight; `(pixel − 127.5) / 127.5` otherwise. So both nodes are always there, and
raw RGB, 0 to 255, is what every exported file takes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from partial_fc.evaluation.pixel_form import PixelForm
from partial_fc.onnx_file.graph import INPUT, Graph


def put_normalisation_inside(graph: Graph, form: PixelForm) -> None:
    """Puts what `form` says before the network, or names the nodes of a network that normalises raw pixels itself."""
    own = _own_nodes(graph) if form.is_plain else None
    if own is None:
        own = _add_nodes(graph, form)
    for node in own:
        node.name = f"{node.op_type}_{node.output[0]}"


def _own_nodes(graph: Graph) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The Sub of a constant from the pixels, and the Mul with one of what that gives."""
    sub = graph.only_user(INPUT)
    mul = graph.only_user(sub.output[0]) if sub is not None and sub.op_type == "Sub" else None
    if mul is None or mul.op_type != "Mul":
        return None
    constants = [sub.input[1] in graph.weights, any(name in graph.weights for name in mul.input)]
    return (sub, mul) if sub.input[0] == INPUT and all(constants) else None


def _add_nodes(graph: Graph, form: PixelForm) -> tuple[onnx.NodeProto, ...]:
    nodes, last = [], INPUT
    mean, scale = np.float64(form.mean), 1 / np.float64(form.std)
    steps = [("Sub", "mean", "centered", mean), ("Mul", "inverse_std", "scaled", scale)]
    end = graph.free_name(f"{INPUT}_{steps[-1][2]}")
    graph.read_instead(INPUT, end)
    if form.colour == "bgr":
        order = graph.add_weight("channel_order", np.array([2, 1, 0], np.int64))
        reversed_ = graph.free_name(f"{INPUT}_bgr")
        nodes.append(helper.make_node("Gather", [INPUT, order], [reversed_], axis=1))
        last = reversed_
    for operator, weight, stem, values in steps:
        constant = graph.add_weight(weight, values.astype(np.float32).reshape(-1, 1, 1))
        out = end if operator == "Mul" else graph.free_name(f"{INPUT}_{stem}")
        nodes.append(helper.make_node(operator, [last, constant], [out]))
        last = out
    graph.nodes[:0] = nodes
    return tuple(nodes)
