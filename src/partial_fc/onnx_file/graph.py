"""An ONNX graph that is being changed: its nodes, and its weights as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import TopologicalSorter

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import helper, numpy_helper, shape_inference

OPSET, IR_VERSION = 13, 7
"""Of 2020 and 2021: onnxruntime 1.8, TensorRT 8 and all that came later read them."""

INPUT, OUTPUT = "data", "fc1"
_PRODUCER = "partial_fc"
_LARGEST_BYTES = (1 << 31) - 1


class Graph:
    """The nodes between one input, `data` (N, 3, S, S), and one output, and the weights that they use.

    Attributes:
        nodes: in any order.
        weights: arrays by name; those that no node uses are left out of the model.
        output: its name.
        image_size: S.
        embedding_size: D.
    """

    def __init__(self, proto: onnx.GraphProto, output: str, image_size: int, embedding_size: int) -> None:
        self.nodes = list(proto.node)
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.initializer}
        self.output, self.image_size, self.embedding_size = output, image_size, embedding_size

    def count(self, operator: str) -> int:
        """How many nodes are of an operator."""
        return sum(node.op_type == operator for node in self.nodes)

    def users(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read the value or weight `name`."""
        return [node for node in self.nodes if name in node.input]

    def only_user(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads `name`; None where there are more, or it is what the graph gives."""
        users = self.users(name)
        return users[0] if len(users) == 1 and name != self.output else None

    def rename(self, old: str, new: str) -> None:
        """Calls a value by another name wherever it is made, read or given; what had that name gets a free one."""
        if old == new:
            return
        if new in self._names():
            self.rename(new, self.free_name(new))
        for node in self.nodes:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        if old in self.weights:
            self.weights[new] = self.weights.pop(old)
        if self.output == old:
            self.output = new

    def read_instead(self, old: str, new: str) -> None:
        """Lets all that read the value `old` read `new`."""
        for node in self.nodes:
            node.input[:] = [new if name == old else name for name in node.input]

    def add_weight(self, stem: str, array: np.ndarray) -> str:
        """A new weight; its name."""
        name = self.free_name(stem)
        self.weights[name] = array
        return name

    def free_name(self, stem: str) -> str:
        """`stem`, or with a number after it where that is a name already."""
        taken, name, number = self._names(), stem, 0
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        return name

    def to_model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The model, checked, with every value's shape.

        Raises:
            ValueError: it is too large for one file, is no valid ONNX, or does not give (N, D).
        """
        side = self.image_size
        floats = onnx.TensorProto.FLOAT
        used = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self._sorted_nodes(),
            "face_embedding",
            [helper.make_tensor_value_info(INPUT, floats, ["N", 3, side, side])],
            [helper.make_tensor_value_info(self.output, floats, ["N", self.embedding_size])],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items() if name in used],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name=_PRODUCER
        )
        helper.set_model_props(model, dict(metadata))
        if model.ByteSize() > _LARGEST_BYTES:
            raise ValueError(f"an ONNX file holds 2 GiB, and this network takes {model.ByteSize()} bytes: try --fp16")
        try:
            model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
            onnx.checker.check_model(model)
        except (onnx.checker.ValidationError, shape_inference.InferenceError, EncodeError) as error:
            raise ValueError(f"the graph does not make valid ONNX: {str(error).strip().splitlines()[-1]}") from error
        return model

    def _sorted_nodes(self) -> list[onnx.NodeProto]:
        """Each after those whose values it reads, otherwise in the order they are in."""
        makers = {name: number for number, node in enumerate(self.nodes) for name in node.output}
        needs = {
            number: [makers[name] for name in node.input if name in makers] for number, node in enumerate(self.nodes)
        }
        return [self.nodes[number] for number in TopologicalSorter(needs).static_order()]

    def _names(self) -> set[str]:
        values = {name for node in self.nodes for name in (*node.input, *node.output)}
        return values | set(self.weights) | {INPUT, self.output}


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """A node's attributes as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
