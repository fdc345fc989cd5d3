"""The three matrix products of a block of classes, through the fastest path that MXNet has for them.

``FullyConnected`` and its backward run oneDNN on a CPU (on AVX-512 machines 3 times as fast as the OpenBLAS behind
``nd.dot`` and ``nd.linalg_gemm``) and cuBLAS on a GPU. The backward operator is registered but has no Python name; the
forward one is called without its name too, because ``amp.init()`` makes every function of that name one of float16.

Legend: N embeddings, B classes of a block, D embedding size.
"""

from __future__ import annotations

import ctypes

import mxnet as mx
from mxnet._ctypes.ndarray import _imperative_invoke
from mxnet.base import _LIB, OpHandle, c_str, check_call


def _operator(name: str) -> int:
    handle = OpHandle()
    check_call(_LIB.NNGetOpHandle(c_str(name), ctypes.byref(handle)))
    return handle.value


_FULLY_CONNECTED = _operator("FullyConnected")
_FULLY_CONNECTED_BACKWARD = _operator("_backward_FullyConnected")


def logits(x_ND: mx.nd.NDArray, weight_BD: mx.nd.NDArray, out_NB: mx.nd.NDArray) -> None:
    """out = x · weightᵀ, float32."""
    _fully_connected(_FULLY_CONNECTED, [x_ND, weight_BD], weight_BD.shape[0], [out_NB])


def gradients(
    coefficient_NB: mx.nd.NDArray,
    x_ND: mx.nd.NDArray,
    weight_BD: mx.nd.NDArray,
    out_x_ND: mx.nd.NDArray,
    out_weight_BD: mx.nd.NDArray,
) -> None:
    """out_x = coefficient · weight and out_weight = coefficientᵀ · x, float32."""
    inputs = [coefficient_NB, x_ND, weight_BD]
    _fully_connected(_FULLY_CONNECTED_BACKWARD, inputs, weight_BD.shape[0], [out_x_ND, out_weight_BD])


def x_gradient(
    coefficient_NB: mx.nd.NDArray, weight_BD: mx.nd.NDArray, scratch_DB: mx.nd.NDArray, out_x_ND: mx.nd.NDArray
) -> None:
    """out = coefficient · weight, float32: one half of :func:`gradients`, where the other comes later or never.

    ``scratch`` must be part of a larger array: of one of its own oneDNN would change the layout, at each call.
    """
    if out_x_ND.context.device_type == "gpu":
        mx.nd.dot(coefficient_NB, weight_BD, out=out_x_ND)
    else:  # a copy and oneDNN take a third of the time of nd.dot
        logits(coefficient_NB, mx.nd.transpose(weight_BD, out=scratch_DB), out_x_ND)


def weight_gradient(
    coefficient_NB: mx.nd.NDArray, x_DN: mx.nd.NDArray, scratch_BN: mx.nd.NDArray, out_weight_BD: mx.nd.NDArray
) -> None:
    """out = coefficientᵀ · x, float32, of x transposed: the other half."""
    logits(mx.nd.transpose(coefficient_NB, out=scratch_BN), x_DN, out_weight_BD)


def _fully_connected(
    operator: int, inputs: list[mx.nd.NDArray], num_hidden: int, outputs: list[mx.nd.NDArray]
) -> None:
    _imperative_invoke(operator, inputs, ["num_hidden", "no_bias"], [str(num_hidden), "True"], outputs, False, False)
