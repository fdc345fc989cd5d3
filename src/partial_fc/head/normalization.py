"""Vectors to their directions, and gradients back through that.

Legend: N vectors, D their size.
"""

from __future__ import annotations

import mxnet as mx

nd = mx.nd


def normalize(x_ND: nd.NDArray) -> tuple[nd.NDArray, nd.NDArray]:
    """x/|x| (N, D) and 1/|x| (N, 1), float32; a vector of zeros has no direction: both are 0."""
    squares_N1 = nd.sum(nd.square(x_ND), axis=1, keepdims=True)
    inverse_N1 = nd.where(squares_N1 == 0, nd.zeros_like(squares_N1), nd.rsqrt(squares_N1))
    return nd.broadcast_mul(x_ND, inverse_N1), inverse_N1


def through_normalization(gradient_ND: nd.NDArray, unit_ND: nd.NDArray, inverse_norm_N1: nd.NDArray) -> nd.NDArray:
    """From the gradient by x/|x| to that by x: (g − <g, x̂> x̂)/|x|, (N, D) float32."""
    along_N1 = nd.sum(gradient_ND * unit_ND, axis=1, keepdims=True)
    return nd.broadcast_mul(gradient_ND - nd.broadcast_mul(unit_ND, along_N1), inverse_norm_N1)
