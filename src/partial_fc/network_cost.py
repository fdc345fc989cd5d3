"""What a backbone costs, read from its symbol: parameters, floating-point operations, the bytes that training keeps.

    FLOPs of a convolution    2 · |output| · (C_in / groups) · k²          of a dense layer    2 · |output| · inputs
    bytes kept                every array that an operator's backward pass reads, once
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import mxnet as mx
import numpy as np

import symbol

# What the backward pass of an operator reads; parameters are counted apart. An operator that is not named here is
# taken to read everything.
_INPUTS, _OUTPUT, _BOTH, _NOTHING = (True, False), (False, True), (True, True), (False, False)
_BACKWARD_READS = {
    "Convolution": _INPUTS,
    "FullyConnected": _INPUTS,
    "BatchNorm": _INPUTS,
    "LeakyReLU": _BOTH,
    "Activation": _OUTPUT,
    "Pooling": _BOTH,
    "Cast": _NOTHING,
    "elemwise_add": _NOTHING,
    "Reshape": _NOTHING,
    "reshape": _NOTHING,
    "_minus_scalar": _NOTHING,
    "_mul_scalar": _NOTHING,
    "_rminus_scalar": _NOTHING,
}

# MXNet's memory plan over the bytes kept: gradients on their way back, and blocks reused for smaller arrays.
# 1.03–1.14 for r18, r50, r100, toy, mobilefacenet and resnet50, in the forms of either device.
PLAN_OVER_KEPT = 1.08


@dataclass(frozen=True)
class NetworkCost:
    """The cost of a backbone.

    Attributes:
        parameters: trained numbers.
        flops_per_image: of the forward pass, a multiplication and an addition being two. Training takes three times
            as many.
        activation_bytes_per_image: what the executor holds from the forward pass to the backward pass.
        fixed_bytes: the same whatever the batch: copies of parameters in the type that computes.
        input_bytes_per_image: the image as it comes (uint8), transposed, and as float32.
    """

    parameters: int
    flops_per_image: int
    activation_bytes_per_image: int
    fixed_bytes: int
    input_bytes_per_image: int


def network_cost(
    name: str, *, embedding_size: int = 512, image_size: int | None = None, fp16: bool = False, device: str = "gpu"
) -> NetworkCost:
    """The cost of training a backbone, without making any array of it.

    Args:
        name: one of :func:`symbol.backbone_names`.
        embedding_size: D.
        image_size: pixels of a side; None: what the network is made for.
        fp16: mixed precision.
        device: ``cpu`` or ``gpu``: the form of the network that is trained there.

    Raises:
        ValueError: an unknown name, or images that the network does not take.
    """
    size = image_size if image_size is not None else symbol.default_image_size(name)
    reduced = "float16" if device == "gpu" else "float16-emulated"
    network = symbol.build_backbone(name, embedding_size, precision=reduced if fp16 else "float32", train_on=device)
    one, two = (_measure(network, batch, size) for batch in (1, 2))
    kept_per_image = two.kept_bytes - one.kept_bytes
    return NetworkCost(
        parameters=one.parameters,
        flops_per_image=one.flops,
        activation_bytes_per_image=round(PLAN_OVER_KEPT * kept_per_image),
        fixed_bytes=one.kept_bytes - kept_per_image,
        input_bytes_per_image=3 * size * size * (1 + 1 + 4),
    )


@dataclass(frozen=True)
class _Measured:
    parameters: int
    flops: int
    kept_bytes: int


def _measure(network: mx.sym.Symbol, batch: int, size: int) -> _Measured:
    arrays = _inferred_arrays(network, (batch, 3, size, size))
    nodes = json.loads(network.tojson())["nodes"]
    kept: dict[str, int] = {}
    flops = 0
    for node in nodes:
        if node["op"] == "null":
            continue
        inputs = [nodes[entry[0]] for entry in node["inputs"]]
        reads_inputs, reads_output = _BACKWARD_READS.get(node["op"], _BOTH)
        read = ([one for one in inputs if one["op"] != "null"] if reads_inputs else []) + [node] * reads_output
        for one in read:
            shape, dtype = _array_of(one, arrays)
            kept[one["name"]] = math.prod(shape) * np.dtype(dtype).itemsize
        if node["op"] in ("Convolution", "FullyConnected"):
            weight_shape, _ = _array_of(inputs[1], arrays)
            flops += 2 * math.prod(_array_of(node, arrays)[0]) * math.prod(weight_shape[1:])
    trained = [argument for argument in network.list_arguments() if argument != "data"]
    return _Measured(sum(math.prod(arrays[one][0]) for one in trained), flops, sum(kept.values()))


def _inferred_arrays(network: mx.sym.Symbol, data_shape: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Name → (shape, type) of everything that a network computes or is given."""
    internals = network.get_internals()
    try:
        _, shapes, _ = internals.infer_shape(data=data_shape)
    except mx.MXNetError:
        raise ValueError(
            f"the network does not take images of {data_shape[2]}×{data_shape[3]} pixels: "
            "set --image-size to what it is made for"
        ) from None
    _, types, _ = internals.infer_type(data="float32")
    return dict(zip(internals.list_outputs(), zip(shapes, types, strict=True), strict=True))


def _array_of(node: dict[str, Any], arrays: dict[str, tuple[tuple[int, ...], Any]]) -> tuple[tuple[int, ...], Any]:
    return arrays[node["name"] if node["op"] == "null" else f"{node['name']}_output"]
