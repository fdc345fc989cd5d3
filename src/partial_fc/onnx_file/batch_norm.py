"""BatchNorm folded into the convolutions and dense layers beside it.

    y = a ⊙ x + b,   a = γ / √(σ² + ε),   b = β − μ ⊙ a

After a convolution or dense layer `W x + c`: the rows of `W` times `a`, and `a ⊙ c + b`. Before one: the columns of `W`
times `a`, and `c + W b`; before a convolution that pads with zeros that would be wrong at the border, since the padding
comes after BatchNorm, and it stays. Computed in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx

from partial_fc.onnx_file.graph import Graph, attributes


class _Affine(NamedTuple):
    """`y = a ⊙ x + b` over channels, float64."""

    a_C: np.ndarray
    b_C: np.ndarray


def fold_batch_norm(graph: Graph) -> int:
    """Folds every BatchNorm that can be without a change of the function; how many were."""
    folded = 0
    for norm in [node for node in graph.nodes if node.op_type == "BatchNormalization"]:
        if _fold_into_maker(graph, norm) or _fold_into_user(graph, norm):
            graph.nodes.remove(norm)
            folded += 1
    return folded


def _affine(graph: Graph, norm: onnx.NodeProto) -> _Affine | None:
    if not all(name in graph.weights for name in norm.input[1:]):
        return None
    gamma_C, beta_C, mean_C, variance_C = (graph.weights[name].astype(np.float64) for name in norm.input[1:])
    a_C = gamma_C / np.sqrt(variance_C + attributes(norm).get("epsilon", 1e-5))
    return _Affine(a_C, beta_C - mean_C * a_C)


def _fold_into_maker(graph: Graph, norm: onnx.NodeProto) -> bool:
    """Into the layer before it, whose only reader it is: rows of its weight."""
    makers = [node for node in graph.nodes if norm.input[0] in node.output]
    affine = _affine(graph, norm)
    if affine is None or not makers or graph.only_user(norm.input[0]) is None or not _has_weights(graph, makers[0]):
        return False
    layer = makers[0]
    weight, bias_O = _weight_and_bias(graph, layer)
    rows = affine.a_C.reshape(-1, *(1,) * (weight.ndim - 1))
    _set_weights(graph, layer, weight * rows, bias_O * affine.a_C + affine.b_C)
    layer.output[0] = norm.output[0]
    layer.name = norm.output[0]
    return True


def _fold_into_user(graph: Graph, norm: onnx.NodeProto) -> bool:
    """Into the layer after it, which alone reads it, with a Flatten between or not: columns of its weight."""
    affine, layer = _affine(graph, norm), graph.only_user(norm.output[0])
    if layer is not None and layer.op_type == "Flatten" and attributes(layer).get("axis", 1) == 1:
        layer = graph.only_user(layer.output[0])
    if affine is None or layer is None or not _has_weights(graph, layer):
        return False
    weight, bias_O = _weight_and_bias(graph, layer)
    if layer.op_type == "Conv":
        if _pads(layer) and affine.b_C.any():
            return False
        groups = attributes(layer).get("group", 1)
        # An output channel reads the inputs of its group alone: (O, C/groups).
        a_OI, b_OI = (
            np.repeat(values_C.reshape(groups, -1), weight.shape[0] // groups, axis=0) for values_C in affine
        )
        around = (1,) * (weight.ndim - 2)
        scaled, moved = weight * a_OI.reshape(*a_OI.shape, *around), weight * b_OI.reshape(*b_OI.shape, *around)
        _set_weights(graph, layer, scaled, bias_O + moved.reshape(len(weight), -1).sum(axis=1))
    else:
        a_I, b_I = (np.repeat(values_C, weight.shape[1] // len(values_C)) for values_C in affine)
        _set_weights(graph, layer, weight * a_I, bias_O + weight @ b_I)
    graph.read_instead(norm.output[0], norm.input[0])
    return True


def _has_weights(graph: Graph, layer: onnx.NodeProto) -> bool:
    """Whether it is a convolution, or a dense layer `x Wᵀ + c`, with weights that do not depend on the image."""
    if layer.op_type not in ("Conv", "Gemm") or not all(name in graph.weights for name in layer.input[1:]):
        return False
    said = attributes(layer)
    gemm = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | said
    return layer.op_type == "Conv" or gemm == {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}


def _pads(layer: onnx.NodeProto) -> bool:
    said = attributes(layer)
    return any(said.get("pads", ())) or said.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")


def _weight_and_bias(graph: Graph, layer: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
    weight = graph.weights[layer.input[1]].astype(np.float64)
    bias_O = graph.weights[layer.input[2]] if len(layer.input) > 2 else np.zeros(len(weight))
    return weight, np.broadcast_to(bias_O.astype(np.float64), (len(weight),))


def _set_weights(graph: Graph, layer: onnx.NodeProto, weight: np.ndarray, bias_O: np.ndarray) -> None:
    """New ones for this layer alone, since others may share those that it had."""
    name = layer.name
    layer.input[1:] = [
        graph.add_weight(f"{name}_{stem}_folded", values.astype(np.float32))
        for stem, values in (("weight", weight), ("bias", bias_O))
    ]
