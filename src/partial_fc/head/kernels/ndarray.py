"""The element-wise work on a block of classes as NDArray operations: any device, and the definition of the C form."""

from __future__ import annotations

import mxnet as mx

from partial_fc.head.kernels import MASKED_LOGIT, BlockTargets, SoftmaxState, UpdateRule

nd = mx.nd


class NDArrayKernels:
    """NDArray operations; see :class:`partial_fc.head.kernels.BlockKernels` for what each computes."""

    name = "NDArray operations"

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
    ) -> None:
        nd.broadcast_mul(logits_NB, inverse_norm_B.reshape((1, -1)), out=logits_NB)
        if len(targets.sample_K):
            index = _index(targets, logits_NB)
            target_K = nd.gather_nd(logits_NB, index)
            _set_entries(state.target_logit_N, target_K, index[0:1])
            _set_entries(logits_NB, nd.full(target_K.shape, MASKED_LOGIT, ctx=target_K.context), index)
        block_max_N = nd.max(logits_NB, axis=1)
        max_N = nd.maximum(state.max_N, block_max_N)
        block_sum_N = nd.sum(nd.exp(nd.broadcast_sub(logits_NB, max_N.reshape((-1, 1)))), axis=1)
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
    ) -> None:
        probability_NB = nd.broadcast_sub(logits_NB, state.max_N.reshape((-1, 1)))
        nd.broadcast_sub(probability_NB, excess_N.reshape((-1, 1)), out=probability_NB)
        nd.exp(probability_NB, out=probability_NB)
        nd.broadcast_mul(probability_NB, logits_NB, out=logits_NB)
        nd.sum(logits_NB, axis=0, out=projection_B)
        nd.broadcast_mul(probability_NB, inverse_norm_B.reshape((1, -1)), out=logits_NB)
        if len(targets.sample_K):
            index = _index(targets, logits_NB)
            gradient_K = nd.take(target_gradient_N, index[0])
            target_K = nd.take(state.target_logit_N, index[0])
            _set_entries(logits_NB, gradient_K * nd.take(inverse_norm_B, index[1]), index)
            # Several samples may have the same target: scatter_nd would keep one, this one adds them all.
            added_B = nd._internal._backward_gather_nd(
                gradient_K * target_K, index[1:2], shape=projection_B.shape
            )
            projection_B += added_B

    def update(
        self,
        weight_BD: mx.nd.NDArray,
        momentum_BD: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        gradient_BD: mx.nd.NDArray,
        projection_B: mx.nd.NDArray,
        rule: UpdateRule,
    ) -> None:
        factor_B = projection_B * nd.square(inverse_norm_B) * rule.projection_factor - rule.decay
        momentum_BD *= rule.momentum
        momentum_BD += gradient_BD * rule.gradient_factor
        momentum_BD += nd.broadcast_mul(weight_BD, factor_B.reshape((-1, 1)))
        weight_BD += momentum_BD
        inverse_norm_B[:] = inverse_norms(weight_BD)


def inverse_norms(weight_BD: mx.nd.NDArray) -> mx.nd.NDArray:
    """1/|w_j| of each row, (B,) float32. A row of zeros has no direction: its inverse norm is 0, its cosines too."""
    ones_1D = nd.ones((1, weight_BD.shape[1]), ctx=weight_BD.context)
    squares_B = nd.FullyConnected(nd.square(weight_BD), ones_1D, num_hidden=1, no_bias=True).reshape((-1,))
    return nd.where(squares_B > 0, nd.rsqrt(squares_B), nd.zeros_like(squares_B))


def _index(targets: BlockTargets, like: mx.nd.NDArray) -> mx.nd.NDArray:
    index = nd.empty((2, len(targets.sample_K)), ctx=like.context, dtype="int32")
    index[0] = targets.sample_K
    index[1] = targets.column_K
    return index


def _set_entries(array: mx.nd.NDArray, values_K: mx.nd.NDArray, index: mx.nd.NDArray) -> None:
    nd._internal._scatter_set_nd(lhs=array, rhs=values_K, indices=index, shape=array.shape, out=array)
