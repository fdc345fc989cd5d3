"""The element-wise work on a block of classes as NDArray operations: any device, and the definition of the C form."""

from __future__ import annotations

import mxnet as mx
import numpy as np

from partial_fc.head.initialization import initial_rows
from partial_fc.head.kernels import MASKED_LOGIT, BlockTargets, SoftmaxState, UpdateRule
from partial_fc.head.row_store import RowStore

nd = mx.nd


class NDArrayLogitKernels:
    """NDArray operations; see :class:`partial_fc.head.kernels.LogitKernels` for what each computes."""

    name = "NDArray operations"

    def start(self, state: SoftmaxState) -> None:
        state.max_N[:] = MASKED_LOGIT
        state.sum_N[:] = 0
        state.target_logit_N[:] = 0

    def forward(
        self, logits_NB: mx.nd.NDArray, inverse_norm_B: mx.nd.NDArray, targets: BlockTargets, state: SoftmaxState
    ) -> None:
        nd.broadcast_mul(logits_NB, inverse_norm_B.reshape((1, -1)), out=logits_NB)
        if len(targets.sample_K):
            index = _index(targets, logits_NB)
            target_K = nd.gather_nd(logits_NB, index)
            _set_entries(state.target_logit_N, target_K, index[0:1])
            _mask(logits_NB, index)
        block_max_N = nd.max(logits_NB, axis=1)
        max_N = nd.maximum(state.max_N, block_max_N)
        block_sum_N = _row_sums(nd.exp(nd.broadcast_sub(logits_NB, max_N.reshape((-1, 1)))))
        state.sum_N[:] = state.sum_N * nd.exp(state.max_N - max_N) + block_sum_N
        state.max_N[:] = max_N

    def backward(
        self,
        logits_NB: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        targets: BlockTargets,
        state: SoftmaxState,
        excess_N: mx.nd.NDArray,
        target_gradient_N: mx.nd.NDArray,
        projection_B: mx.nd.NDArray,
        raw: bool = False,
    ) -> None:
        index = _index(targets, logits_NB) if len(targets.sample_K) else None
        if raw:
            nd.broadcast_mul(logits_NB, inverse_norm_B.reshape((1, -1)), out=logits_NB)
            if index is not None:
                _mask(logits_NB, index)
        probability_NB = nd.broadcast_sub(logits_NB, state.max_N.reshape((-1, 1)))
        nd.broadcast_sub(probability_NB, excess_N.reshape((-1, 1)), out=probability_NB)
        nd.exp(probability_NB, out=probability_NB)
        nd.broadcast_mul(probability_NB, logits_NB, out=logits_NB)
        ones_1N = nd.ones((1, logits_NB.shape[0]), ctx=logits_NB.context)
        projection_B[:] = nd.dot(ones_1N, logits_NB).reshape((-1,))
        nd.broadcast_mul(probability_NB, inverse_norm_B.reshape((1, -1)), out=logits_NB)
        if index is not None:
            gradient_K = nd.take(target_gradient_N, index[0])
            target_K = nd.take(state.target_logit_N, index[0])
            _set_entries(logits_NB, gradient_K * nd.take(inverse_norm_B, index[1]), index)
            # Several samples may have the same target: scatter_nd would keep one, this one adds them all.
            projection_B += nd._internal._backward_gather_nd(
                gradient_K * target_K, index[1:2], shape=projection_B.shape
            )


class NDArrayRowKernels:
    """NDArray operations; see :class:`partial_fc.head.kernels.RowKernels` for what each computes."""

    name = "NDArray operations"

    def initialize(self, store: RowStore, rows: np.ndarray) -> None:
        size = store.weight_RD.shape[1]
        step = max(1, 2**22 // size)  # rows made at a time: their hashes take 8 bytes an element
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            values = nd.array(initial_rows(store.seed, part + store.first_class, size), ctx=store.weight_RD.context)
            stored = values.astype(store.weight_RD.dtype)
            index = nd.array(part, ctx=values.context, dtype="int64")
            _put(store.weight_RD, index, stored)
            _put(store.inverse_norm_R, index, inverse_norms(stored.astype("float32")))

    def gather(
        self, store: RowStore, rows_B: mx.nd.NDArray, weight_BD: mx.nd.NDArray, inverse_norm_B: mx.nd.NDArray
    ) -> None:
        if store.weight_RD.dtype == np.float32:
            nd.take(store.weight_RD, rows_B, out=weight_BD)
        else:
            nd.cast(nd.take(store.weight_RD, rows_B), dtype="float32", out=weight_BD)
        nd.take(store.inverse_norm_R, rows_B, out=inverse_norm_B)

    def update(
        self,
        store: RowStore,
        rows_B: mx.nd.NDArray | slice,
        current_BD: mx.nd.NDArray,
        gradient_BD: mx.nd.NDArray,
        projection_B: mx.nd.NDArray,
        rule: UpdateRule,
    ) -> None:
        if isinstance(rows_B, slice):
            part = store.part(rows_B)
            momentum_BD, inverse_norm_B = part.momentum_RD, part.inverse_norm_R
            momentum_BD *= rule.momentum
        else:
            inverse_norm_B = nd.take(store.inverse_norm_R, rows_B)
            momentum_BD = _momentum(store, rows_B) * rule.momentum
        factor_B1 = (projection_B * nd.square(inverse_norm_B) * rule.projection_factor - rule.decay).reshape((-1, 1))
        momentum_BD += gradient_BD * rule.gradient_factor
        momentum_BD += nd.broadcast_mul(current_BD, factor_B1)
        current_BD += momentum_BD
        if isinstance(rows_B, slice):
            inverse_norm_B[:] = inverse_norms(current_BD)
        else:
            _store(store, rows_B, current_BD, momentum_BD, rule.random_key)


def inverse_norms(weight_BD: mx.nd.NDArray) -> mx.nd.NDArray:
    """1/|w_j| of each row, (B,) float32. A row of zeros has no direction: its inverse norm is 0, its cosines too."""
    squares_B = _row_sums(nd.square(weight_BD))
    return nd.where(squares_B > 0, nd.rsqrt(squares_B), nd.zeros_like(squares_B))


def _row_sums(matrix_BD: mx.nd.NDArray) -> mx.nd.NDArray:
    """(B,) Σ_d, as a product with ones: six times as fast on a CPU as nd.sum over the last axis."""
    ones_1D = nd.ones((1, matrix_BD.shape[1]), ctx=matrix_BD.context)
    return nd.FullyConnected(matrix_BD, ones_1D, num_hidden=1, no_bias=True).reshape((-1,))


def _momentum(store: RowStore, rows_B: mx.nd.NDArray) -> mx.nd.NDArray:
    """Rows of the momentum as float32."""
    stored_BD = nd.take(store.momentum_RD, rows_B).astype("float32")
    if store.scale_R1 is None:
        return stored_BD
    signed_BD = nd.where(stored_BD > 127, stored_BD - 256, stored_BD)  # int8 from its bit pattern
    return nd.broadcast_mul(signed_BD, nd.take(store.scale_R1, rows_B))


def _store(
    store: RowStore, rows_B: mx.nd.NDArray, weight_BD: mx.nd.NDArray, momentum_BD: mx.nd.NDArray, random_key: int
) -> None:
    """Puts rows and momentum back in the types that they are kept in; fewer bits are rounded stochastically."""
    if weight_BD.dtype != store.weight_RD.dtype or momentum_BD.dtype != store.momentum_RD.dtype:
        mx.random.seed(random_key, ctx=weight_BD.context)
    if store.weight_RD.dtype == np.float16:
        weight_BD = _to_half(weight_BD)
    if store.scale_R1 is not None:
        largest_B1 = nd.max(nd.abs(momentum_BD), axis=1, keepdims=True)
        per_unit_B1 = nd.where(largest_B1 > 0, 127.0 / largest_B1, nd.zeros_like(largest_B1))
        rounded_BD = nd.clip(_round(nd.broadcast_mul(momentum_BD, per_unit_B1)), -127, 127)
        momentum_BD = nd.where(rounded_BD < 0, rounded_BD + 256, rounded_BD).astype("uint8")
        _put(store.scale_R1, rows_B, largest_B1 / 127.0)
    elif store.momentum_RD.dtype == np.float16:
        momentum_BD = _to_half(momentum_BD)
    _put(store.weight_RD, rows_B, weight_BD)
    _put(store.momentum_RD, rows_B, momentum_BD)
    _put(store.inverse_norm_R, rows_B, inverse_norms(weight_BD.astype("float32")))


def _to_half(values: mx.nd.NDArray) -> mx.nd.NDArray:
    """The float16 above or below each value, each as likely as it is near; past float16's range its largest."""
    # float16 has 10 bits after the leading one, down to 2^-24. log2 may be off at a power of 2; its neighbour's unit
    # is half or twice as large, and of the values that it gives the nearest float16 is taken.
    exponent = nd.floor(nd.log2(nd.maximum(nd.abs(values), 2.0**-14)))
    unit = 2.0 ** (exponent - 10.0)
    return nd.clip(_round(values / unit) * unit, -65504.0, 65504.0).astype("float16")


def _round(values: mx.nd.NDArray) -> mx.nd.NDArray:
    """Each value to the integer above or below it, each as likely as it is near."""
    return nd.floor(values + nd.random.uniform(0, 1, shape=values.shape, ctx=values.context))


def _put(stored: mx.nd.NDArray, rows_B: mx.nd.NDArray, values: mx.nd.NDArray) -> None:
    nd.contrib.index_copy(stored, rows_B, values, out=stored)


def _index(targets: BlockTargets, like: mx.nd.NDArray) -> mx.nd.NDArray:
    index = nd.empty((2, len(targets.sample_K)), ctx=like.context, dtype="int32")
    index[0] = targets.sample_K
    index[1] = targets.column_K
    return index


def _mask(logits_NB: mx.nd.NDArray, index: mx.nd.NDArray) -> None:
    _set_entries(logits_NB, nd.full((index.shape[1],), MASKED_LOGIT, ctx=logits_NB.context), index)


def _set_entries(array: mx.nd.NDArray, values_K: mx.nd.NDArray, index: mx.nd.NDArray) -> None:
    nd._internal._scatter_set_nd(lhs=array, rhs=values_K, indices=index, shape=array.shape, out=array)
