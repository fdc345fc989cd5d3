"""The element-wise work on a block of classes, behind one interface.

Legend: N embeddings of the global batch, B classes of a block, S sampled classes of a rank, D embedding size.
Logits are float32 and changed in place. The two forms (NDArray operations, C) compute the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import mxnet as mx
import numpy as np

from partial_fc.head.row_store import RowStore

# Stands for −∞ at a target's own entry while the margin is not known: exp() of it is 0, and 0 times it is 0.
MASKED_LOGIT = -1e30


@dataclass(frozen=True)
class TargetColumns:
    """Where the targets of a step's samples are among the classes that a rank has sampled.

    Attributes:
        column_N: (N,) int32, the target's column in [0, S), or −1 where another rank owns it.
        array_N: the same on the device that computes.
        ascending_N: (N,) int32, the columns sorted.
        ascending_2N: (2, N) int32, the numbers of the samples in that order and their columns, on the device: a block
            takes its part there, since a copy from the host would wait for the device block by block.
    """

    column_N: np.ndarray
    array_N: mx.nd.NDArray
    ascending_N: np.ndarray
    ascending_2N: mx.nd.NDArray

    @classmethod
    def on(cls, context: mx.Context, column_N: np.ndarray) -> TargetColumns:
        """Copies the columns to a device."""
        column_N = column_N.astype(np.int32)
        order_N = np.argsort(column_N, kind="stable")
        ascending_2N = np.stack([order_N, column_N[order_N]])
        array_N, array_2N = (mx.nd.array(a, ctx=context, dtype="int32") for a in (column_N, ascending_2N))
        return cls(column_N, array_N, column_N[order_N], array_2N)


@dataclass(frozen=True)
class BlockTargets:
    """The targets that lie in a block of columns [first, first + size)."""

    columns: TargetColumns
    first: int
    size: int

    @cached_property
    def index_2K(self) -> mx.nd.NDArray | None:
        """(2, K) int32 on the device, the samples whose target lies in the block and its column there; None of none."""
        begin, end = np.searchsorted(self.columns.ascending_N, [self.first, self.first + self.size]).tolist()
        if begin == end:
            return None
        sample_K, column_K = (self.columns.ascending_2N[row][begin:end] for row in (0, 1))
        return mx.nd.stack(sample_K, column_K - self.first)


@dataclass
class SoftmaxState:
    """What the blocks' forward passes leave behind, on the device that computes, one float32 a sample.

    Attributes:
        max_N, sum_N: running maximum of the logits and Σ exp(logit − max), targets left out.
        target_logit_N: s·cos to the target, where this rank owns it; before the margin.
    """

    max_N: mx.nd.NDArray
    sum_N: mx.nd.NDArray
    target_logit_N: mx.nd.NDArray


@dataclass(frozen=True)
class NegativeRule:
    """What becomes of the logits z = s·cos of the negatives before the softmax.

        z' = linear·z + quadratic·z² + constant     where z > threshold[n]: a hard negative
        z' = z                                      elsewhere
        left out of the softmax                     where z > filter

    Attributes:
        threshold_N: (N,) float32 on the device that computes; infinite where no negative is hard.
        linear, quadratic, constant: of the logits, not of the cosines.
        filter: a logit; infinite: none is left out.
    """

    threshold_N: mx.nd.NDArray
    linear: float = 1.0
    quadratic: float = 0.0
    constant: float = 0.0
    filter: float = math.inf


@dataclass(frozen=True)
class UpdateRule:
    """One step of SGD with momentum on rows of W.

        k_j  = projection_factor·h_j·inv_j² − decay
        M    ← momentum·M + gradient_factor·G + k·W
        W    ← W + M                                   inv ← 1/|W|

    which is M ← μM − η(dW + λW) with gradient_factor = −η·s/N, projection_factor = η/N, decay = η·λ, because
    dW = (s/N)·G − (h/N)·inv²·W is the gradient through the normalisation of W. M holds the row's last change, as
    MXNet's SGD has it.

    ``random_key`` (32 bits, another one each step) decides how rows of fewer than 32 bits are rounded.
    """

    gradient_factor: float
    projection_factor: float
    decay: float
    momentum: float
    random_key: int = 0


class LogitKernels(Protocol):
    """The work on a block's logits, on the device that computes."""

    def start(self, state: SoftmaxState) -> None:
        """max ← −∞, sum ← 0, target logit ← 0."""

    def forward(
        self,
        logits_NB: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        targets: BlockTargets,
        state: SoftmaxState,
        negatives: NegativeRule | None = None,
    ) -> None:
        """Z ← Z·inv; the targets' Z go to target_logit and MASKED_LOGIT takes their place; then max and sum go on.

        With ``negatives`` max and sum are those of Z', while Z stays: the gradient needs both.
        """

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
        """p = exp((Z − max) − excess); h_j = Σ_n p·Z; Z ← p·inv. At a target, with its gradient g: Z ← g·inv,
        h += g·target_logit. With ``negatives`` p = exp((Z' − max) − excess)·dZ'/dZ.

        ``raw`` logits are those of the product alone: Z ← Z·inv and the masking are done first.
        ``excess_N`` is lse − max, with the lse over all ranks. Logits near each other differ exactly in float32, large
        as they may be; an lse of 64,000 in float32 is off by 0.004, and every probability with it.
        """


class RowKernels(Protocol):
    """The work on rows of W, where they are stored.

    Rows may have missed updates, in which they had no gradient: ``factors_B4``, (B, 4) float32, hold what brings each
    up to date (:mod:`partial_fc.head.decay_history`); None where none has missed any.

        W ← W + (f0·W + f1·M)       M ← f2·W + f3·M         inv ← 1/|W|
    """

    def initialize(self, store: RowStore, rows: np.ndarray) -> None:
        """Gives rows (int64, ascending) their initial value (:mod:`partial_fc.head.initialization`)."""

    def gather(
        self,
        store: RowStore,
        rows_B: mx.nd.NDArray,
        weight_BD: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        factors_B4: mx.nd.NDArray | None = None,
    ) -> None:
        """weight ← the stored rows as float32 and up to date, inverse norm ← theirs; beside what the device computes.

        The store stays as it is: should the step be skipped, nothing has happened.
        """

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
        """One step of the rule on the stored rows; ``current_BD`` are the rows as gather gave them, or their view.

        With factors, rows are an array, and what is stored gets up to date with the step.
        """
