"""The network in float16: half the bytes, and what GPUs compute fastest. Input and embedding stay float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from partial_fc.onnx_file.graph import Graph, attributes

_LARGEST = float(np.finfo(np.float16).max)


def to_float16(graph: Graph, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The model with float16 weights and arithmetic between a Cast of the pixels and one of the embedding.

    Raises:
        ValueError: a weight lies outside of float16's range, or the model is not valid ONNX.
    """
    for name, array in graph.weights.items():
        largest = np.abs(array).max(initial=0) if array.dtype == np.float32 else 0
        if not largest <= _LARGEST:
            raise ValueError(f"the weight {name} holds {largest:g}, and float16 ends at {_LARGEST:g}: leave --fp16 out")
    model = convert_float_to_float16(graph.to_model(metadata), keep_io_types=True)
    half = Graph(model.graph, graph.output, graph.image_size, graph.embedding_size)
    return half.to_model(metadata)


def rounded_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model of `to_float16` in float32, each value rounded through float16 where that one stores it.

    A processor without float16 arithmetic, and onnxruntime on it, joins nodes and keeps what lies between in float32;
    a GPU's kernels sum in float32 and store float16. This is what they give, overflow included.
    """
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    graph = twin.graph
    halves = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = [new for node in graph.node for new in _rounded(node, halves)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return twin


def _rounded(node: onnx.NodeProto, halves: set[str]) -> list[onnx.NodeProto]:
    """The node in float32, and after it the roundings of those of its outputs that are float16."""
    same = onnx.NodeProto()
    same.CopyFrom(node)
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    if node.op_type == "Cast" and attributes(node)["to"] in floats:
        same = helper.make_node("Identity", node.input, node.output)
    nodes = [same]
    for number, name in enumerate(node.output):
        if name in halves:
            same.output[number] = f"{name}/exact"
            nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    return nodes
