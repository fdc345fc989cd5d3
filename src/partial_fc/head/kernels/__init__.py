"""The element-wise work on a block of classes, behind one interface.

Legend: N embeddings of the global batch, B classes of a block, D embedding size; s the scale of the logits.
Everything is float32 and in place; the two forms (NDArray operations, C) compute the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mxnet as mx
import numpy as np

# Stands for −∞ at a target's own entry while the margin is not known: exp() of it is 0, and 0 times it is 0.
MASKED_LOGIT = -1e30


@dataclass(frozen=True)
class BlockTargets:
    """The samples whose target lies in a block of classes.

    Attributes:
        sample_K: (K,) int32, numbers of the samples, ascending.
        column_K: (K,) int32, the column of each one's target within the block.
    """

    sample_K: np.ndarray
    column_K: np.ndarray


@dataclass
class SoftmaxState:
    """What the blocks' forward passes leave behind, on the compute device, one number a sample.

    Attributes:
        max_N, sum_N: running maximum of the logits and Σ exp(logit − max), targets left out.
        target_logit_N: s·cos to the target, where this rank owns it; before the margin.
    """

    max_N: mx.nd.NDArray
    sum_N: mx.nd.NDArray
    target_logit_N: mx.nd.NDArray


@dataclass(frozen=True)
class UpdateRule:
    """One step of SGD with momentum on the rows of a block.

        k_j  = projection_factor·h_j·inv_j² − decay
        M    ← momentum·M + gradient_factor·G + k·W
        W    ← W + M                                   inv ← 1/|W|

    which is M ← μM − η(dW + λW) with gradient_factor = −η·s/N, projection_factor = η/N, decay = η·λ, because
    dW = (s/N)·G − (h/N)·inv²·W is the gradient through the normalisation of W.
    """

    gradient_factor: float
    projection_factor: float
    decay: float
    momentum: float


class BlockKernels(Protocol):
    """The element-wise work of one block of classes."""

    def start(self, state: SoftmaxState) -> None:
        """max ← −∞, sum ← 0, target logit ← 0."""

    def forward(
        self,
        logits_NB: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        targets: BlockTargets,
        state: SoftmaxState,
    ) -> None:
        """Z ← Z·inv; the targets' Z go to target_logit and MASKED_LOGIT takes their place; then max and sum go on."""

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
        """p = exp((Z − max) − excess); h_j = Σ_n p·Z; Z ← p·inv. At a target, with its gradient g: Z ← g·inv,
        h += g·target_logit.

        ``excess_N`` is lse − max, with the lse over all ranks. Logits near each other differ exactly in float32, large
        as they may be; an lse of 64,000 in float32 is off by 0.004, and every probability with it.
        """

    def update(
        self,
        weight_BD: mx.nd.NDArray,
        momentum_BD: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        gradient_BD: mx.nd.NDArray,
        projection_B: mx.nd.NDArray,
        rule: UpdateRule,
    ) -> None:
        """One step of the rule on the rows, in place."""
