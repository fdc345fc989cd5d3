"""The softmax of F²C's two logit matrices over all ranks, both in one all-reduce.

Legend: N samples of the global batch, I of them whose identity is in the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.head.f2c_margin import F2CMargin
from partial_fc.head.kernels import MASKED_LOGIT, SoftmaxState, TargetColumns
from partial_fc.head.softmax import merge_softmax


@dataclass(frozen=True)
class BothSoftmaxes:
    """Attributes:

    loss: Σ over both matrices of the mean cross-entropy over the I samples, in nats; the same on every rank.
    excess_2I: (2, I) float64, log of the normaliser over all ranks less this rank's largest logit.
    target_gradient_2I: (2, I) float64, (I/s)·d loss / d cos at the target; 0 where another rank has it.
    """

    loss: float
    excess_2I: np.ndarray
    target_gradient_2I: np.ndarray


def merge_both(
    states: Sequence[SoftmaxState],
    targets: Sequence[TargetColumns],
    target_logits: Sequence[np.ndarray],
    samples: int,
    *,
    margin: F2CMargin,
    scale: float,
    collectives: Collectives,
) -> BothSoftmaxes:
    """Merges what the ranks found. One all-reduce of 4N float64, as many numbers for every I.

    Samples out of the pool fill up the 2N rows: each has but one class, its own, on rank 0. Its loss is 0.

    Args:
        states, targets, target_logits: of each matrix; s·cos to the targets where this rank has them, (I,).
        samples: N.
    """
    inside = len(targets[0].column_N)
    max_2N = np.full((2, samples), MASKED_LOGIT)
    sum_2N, target_2N = np.zeros((2, samples)), np.zeros((2, samples))
    owned_2N = np.full((2, samples), collectives.rank == 0)
    for matrix, state in enumerate(states):
        owned_2N[matrix, :inside] = targets[matrix].column_N >= 0
        if inside:
            max_2N[matrix, :inside] = state.max_N.asnumpy()
            sum_2N[matrix, :inside] = state.sum_N.asnumpy()
            target_2N[matrix, :inside] = target_logits[matrix]
    merged = merge_softmax(
        *(part.reshape(-1) for part in (max_2N, sum_2N, target_2N, owned_2N)),
        margin=margin.target,
        scale=scale,
        collectives=collectives,
        largest_negative=margin.largest_negative,
    )
    return BothSoftmaxes(
        loss=merged.loss * 2 * samples / max(inside, 1),
        excess_2I=(merged.lse_N.reshape(2, samples) - max_2N)[:, :inside],
        target_gradient_2I=merged.target_gradient_N.reshape(2, samples)[:, :inside],
    )
