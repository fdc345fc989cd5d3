"""The element-wise work on a block of classes as NDArray operations: any device, and the definition of the C form."""

from __future__ import annotations

import math

import mxnet as mx
import numpy as np

from partial_fc.head import matmul
from partial_fc.head.buffers import Buffers
from partial_fc.head.initialization import initial_rows
from partial_fc.head.kernels import MASKED_LOGIT, BlockTargets, NegativeRule, SoftmaxState, UpdateRule
from partial_fc.head.row_store import RowStore

nd = mx.nd


# σ(x) = exp(x)/(1 + exp(x)) is exp(x) to float32's last bit where x is at most −16: see _exponentials.
_SHIFT = 16.0
_UNSHIFT = math.exp(_SHIFT)


class _Scratch:
    """Memory for results that live within one block's work: fresh pages would cost more than the work done in them."""

    def __init__(self) -> None:
        self._buffers: dict[mx.Context, Buffers] = {}

    def like(self, array: mx.nd.NDArray, number: int = 0) -> mx.nd.NDArray:
        """Float32 memory of the array's shape on its device."""
        buffers = self._buffers.setdefault(array.context, Buffers(array.context))
        return buffers.get("scratch", number, array.shape)


class NDArrayLogitKernels:
    """NDArray operations; see :class:`partial_fc.head.kernels.LogitKernels` for what each computes.

    ``state.max_N`` lies 16 above the running maximum of the logits, so that every exponential is taken far below 0.
    What is computed of it and ``state.sum_N`` is the same for any reference.
    """

    name = "NDArray operations"

    def __init__(self) -> None:
        self._scratch = _Scratch()

    def start(self, state: SoftmaxState) -> None:
        state.max_N[:] = MASKED_LOGIT
        state.sum_N[:] = 0
        state.target_logit_N[:] = 0

    def forward(
        self,
        logits_NB: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        targets: BlockTargets,
        state: SoftmaxState,
        negatives: NegativeRule | None = None,
    ) -> None:
        nd.broadcast_mul(logits_NB, inverse_norm_B.reshape((1, -1)), out=logits_NB)
        index = targets.index_2K
        if index is not None:
            target_K = nd.gather_nd(logits_NB, index)
            _set_entries(state.target_logit_N, target_K, index[0:1])
            _mask(logits_NB, index)
        after_NB = logits_NB if negatives is None else _negative_logits(logits_NB, negatives)
        max_N = nd.maximum(state.max_N, _row_max(after_NB) + _SHIFT)
        shifted_NB = self._scratch.like(logits_NB)
        nd.broadcast_sub(after_NB, max_N.reshape((-1, 1)), out=shifted_NB)
        block_sum_N = _row_sums(_exponentials(shifted_NB))
        nd.elemwise_add(state.sum_N * nd.exp(state.max_N - max_N), block_sum_N, out=state.sum_N)
        max_N.copyto(state.max_N)

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
        negatives: NegativeRule | None = None,
    ) -> None:
        index = targets.index_2K
        if raw:
            nd.broadcast_mul(logits_NB, inverse_norm_B.reshape((1, -1)), out=logits_NB)
            if index is not None:
                _mask(logits_NB, index)
        # Probabilities times exp(−16); the factor goes into the two small arrays that they are multiplied by.
        probability_NB = self._scratch.like(logits_NB)
        after_NB = logits_NB if negatives is None else _negative_logits(logits_NB, negatives)
        nd.broadcast_sub(after_NB, state.max_N.reshape((-1, 1)), out=probability_NB)
        nd.broadcast_sub(probability_NB, (excess_N + _SHIFT).reshape((-1, 1)), out=probability_NB)
        _exponentials(probability_NB)
        if negatives is not None:
            nd.elemwise_mul(probability_NB, _negative_slopes(logits_NB, negatives), out=probability_NB)
        nd.elemwise_mul(probability_NB, logits_NB, out=logits_NB)
        unshift_1N = nd.full((1, logits_NB.shape[0]), _UNSHIFT, ctx=logits_NB.context)
        nd.dot(unshift_1N, logits_NB, out=projection_B.reshape((1, -1)))
        nd.broadcast_mul(probability_NB, (inverse_norm_B * _UNSHIFT).reshape((1, -1)), out=logits_NB)
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

    def __init__(self) -> None:
        self._scratch = _Scratch()

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
        self,
        store: RowStore,
        rows_B: mx.nd.NDArray,
        weight_BD: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        factors_B4: mx.nd.NDArray | None = None,
    ) -> None:
        _weight(store, rows_B, weight_BD)
        if factors_B4 is None:
            nd.take(store.inverse_norm_R, rows_B, out=inverse_norm_B)
            return
        momentum_BD = _momentum(store, rows_B, self._scratch.like(weight_BD, 1))
        change_BD = nd.broadcast_mul(weight_BD, factors_B4[:, 0:1], out=self._scratch.like(weight_BD))
        change_BD += nd.broadcast_mul(momentum_BD, factors_B4[:, 1:2], out=momentum_BD)
        weight_BD += change_BD
        inverse_norms(weight_BD, change_BD).copyto(inverse_norm_B)

    def update(
        self,
        store: RowStore,
        rows_B: mx.nd.NDArray | slice,
        current_BD: mx.nd.NDArray,
        gradient_BD: mx.nd.NDArray,
        projection_B: mx.nd.NDArray,
        rule: UpdateRule,
        factors_B4: mx.nd.NDArray | None = None,
    ) -> None:
        if isinstance(rows_B, slice):
            assert factors_B4 is None
            part = store.part(rows_B)
            momentum_BD, inverse_norm_B = part.momentum_RD, part.inverse_norm_R
        else:
            momentum_BD = _momentum(store, rows_B, self._scratch.like(current_BD, 1))
            if factors_B4 is None:
                inverse_norm_B = nd.take(store.inverse_norm_R, rows_B)
            else:
                inverse_norm_B = inverse_norms(current_BD, self._scratch.like(current_BD))
                missed_BD = _weight(store, rows_B, self._scratch.like(current_BD))
                nd.broadcast_mul(momentum_BD, factors_B4[:, 3:4], out=momentum_BD)
                momentum_BD += nd.broadcast_mul(missed_BD, factors_B4[:, 2:3], out=missed_BD)
        # Both factors hold η. In one pass over the three arrays: M ← μM − decay·W − rescale·(G + k·W), W ← W + M.
        per_gradient = rule.projection_factor / rule.gradient_factor if rule.gradient_factor else 0.0
        factor_B = projection_B * nd.square(inverse_norm_B) * per_gradient
        change_BD = self._scratch.like(current_BD)
        nd.broadcast_mul(current_BD, factor_B.reshape((-1, 1)), out=change_BD)
        nd.elemwise_add(change_BD, gradient_BD, out=change_BD)
        nd.sgd_mom_update(
            current_BD, change_BD, momentum_BD, lr=1.0, momentum=rule.momentum, wd=rule.decay,
            rescale_grad=-rule.gradient_factor, out=current_BD,
        )  # fmt: skip
        if isinstance(rows_B, slice):
            inverse_norms(current_BD, change_BD).copyto(inverse_norm_B)
        else:
            _store(store, rows_B, current_BD, momentum_BD, rule.random_key)


def _negative_logits(logits_NB: mx.nd.NDArray, rule: NegativeRule) -> mx.nd.NDArray:
    """Z' of the rule, in fresh memory."""
    after_NB = nd.where(_is_hard(logits_NB, rule), _hard_logits(logits_NB, rule), logits_NB)
    if math.isinf(rule.filter):
        return after_NB
    return nd.where(logits_NB > rule.filter, nd.full(logits_NB.shape, MASKED_LOGIT, ctx=logits_NB.context), after_NB)


def _hard_logits(logits_NB: mx.nd.NDArray, rule: NegativeRule) -> mx.nd.NDArray:
    return (rule.linear + rule.quadratic * logits_NB) * logits_NB + rule.constant


def _negative_slopes(logits_NB: mx.nd.NDArray, rule: NegativeRule) -> mx.nd.NDArray:
    """dZ'/dZ where Z is not left out."""
    slope_NB = rule.linear + 2 * rule.quadratic * logits_NB
    return nd.where(_is_hard(logits_NB, rule), slope_NB, nd.ones_like(logits_NB))


def _is_hard(logits_NB: mx.nd.NDArray, rule: NegativeRule) -> mx.nd.NDArray:
    return nd.broadcast_greater(logits_NB, rule.threshold_N.reshape((-1, 1)))


def inverse_norms(weight_BD: mx.nd.NDArray, scratch_BD: mx.nd.NDArray | None = None) -> mx.nd.NDArray:
    """1/|w_j| of each row, (B,) float32. A row of zeros has no direction: its inverse norm is 0, its cosines too."""
    squares_B = _row_sums(nd.square(weight_BD, out=scratch_BD))
    return nd.where(squares_B > 0, nd.rsqrt(squares_B), nd.zeros_like(squares_B))


def _exponentials(matrix_NB: mx.nd.NDArray) -> mx.nd.NDArray:
    """exp(x) in place, of x of at most −16, to 1e-7: the logistic function, which oneDNN computes 5 times as fast."""
    return nd.Activation(matrix_NB, act_type="sigmoid", out=matrix_NB)


def _row_max(matrix_NB: mx.nd.NDArray) -> mx.nd.NDArray:
    """(N,) max_j, NaN passed over: on a CPU as pooling, which oneDNN computes 5 times as fast as nd.max."""
    if matrix_NB.context.device_type != "cpu":
        return nd.max(matrix_NB, axis=1)
    n, b = matrix_NB.shape
    return nd.Pooling(matrix_NB.reshape((1, n, b, 1)), kernel=(b, 1), pool_type="max").reshape((-1,))


def _row_sums(matrix_BD: mx.nd.NDArray) -> mx.nd.NDArray:
    """(B,) Σ_d, as a product with ones: six times as fast on a CPU as nd.sum over the last axis."""
    ones_1D = nd.ones((1, matrix_BD.shape[1]), ctx=matrix_BD.context)
    sum_B1 = nd.empty((matrix_BD.shape[0], 1), ctx=matrix_BD.context)
    matmul.logits(matrix_BD, ones_1D, sum_B1)
    return sum_B1.reshape((-1,))


def _weight(store: RowStore, rows_B: mx.nd.NDArray, out_BD: mx.nd.NDArray) -> mx.nd.NDArray:
    """Rows as float32, as they are stored."""
    if store.weight_RD.dtype == np.float32:
        return nd.take(store.weight_RD, rows_B, out=out_BD)
    return nd.cast(nd.take(store.weight_RD, rows_B), dtype="float32", out=out_BD)


def _momentum(store: RowStore, rows_B: mx.nd.NDArray, out_BD: mx.nd.NDArray) -> mx.nd.NDArray:
    """Rows of the momentum as float32."""
    if store.momentum_RD.dtype == np.float32:
        return nd.take(store.momentum_RD, rows_B, out=out_BD)
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
    _put(store.inverse_norm_R, rows_B, inverse_norms(weight_BD.astype("float32", copy=False)))


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


def _mask(logits_NB: mx.nd.NDArray, index: mx.nd.NDArray) -> None:
    _set_entries(logits_NB, nd.full((index.shape[1],), MASKED_LOGIT, ctx=logits_NB.context), index)


def _set_entries(array: mx.nd.NDArray, values_K: mx.nd.NDArray, index: mx.nd.NDArray) -> None:
    nd._internal._scatter_set_nd(lhs=array, rhs=values_K, indices=index, shape=array.shape, out=array)
