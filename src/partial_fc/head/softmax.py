"""The cross-entropy over classes that are sharded over ranks: what each rank finds, merged by one all-reduce.

Legend: N embeddings of the global batch, S sampled classes of this rank.

    lse_local[n] = log Σ_j exp(logit[n,j])               over this rank's S classes, its targets left out
    lse[n]       = log Σ_ranks Σ_j exp(logit[n,j])       with the target's logit s·margin(cos) in its place
    loss         = (1/N) Σ_n (lse[n] − logit[n, target(n)])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.head.margin import TargetMargin

# exp(lse_local − s) with lse_local in [−s(1 + m) , s + log S] fits float64 (1e±308) up to here; where hard negatives
# count for more, the largest logit takes the place of s.
LARGEST_SCALE_WITHOUT_MAX = 300.0


@dataclass(frozen=True)
class MergedSoftmax:
    """The softmax of the global batch, as one rank needs it for its gradients.

    Attributes:
        loss: mean cross-entropy over the samples that have a target, in nats; the same number on every rank.
        lse_N: (N,) float64, log of the normaliser over all ranks; infinite for a sample without a target, whose
            probabilities are 0 by that.
        target_gradient_N: (N,) float64, (samples/s)·d loss/d cos at the target; 0 for samples whose target is not here.
        samples: how many have a target: N with PPRN sampling. What the gradients of all samples are divided by.
    """

    loss: float
    lse_N: np.ndarray
    target_gradient_N: np.ndarray
    samples: int


def merge_softmax(
    max_N: np.ndarray,
    sum_N: np.ndarray,
    target_logit_N: np.ndarray,
    owned_N: np.ndarray,
    *,
    margin: TargetMargin,
    scale: float,
    collectives: Collectives,
    every_target: bool = True,
    largest_negative: float = 1.0,
) -> MergedSoftmax:
    """Merges the ranks' partial sums of exponentials and takes the loss.

    One all-reduce of 2N float64 (16·N bytes), of 3N where targets may be missing; for logits that may pass 300
    another one (max) of N float64 before it.

    Args:
        max_N, sum_N: (N,) this rank's running maximum of the logits and Σ_j exp(logit − max), targets left out.
        target_logit_N: (N,) s·cos to the target where this rank owns it, anything elsewhere.
        owned_N: (N,) bool, whether this rank owns the target.
        margin, scale: the logit of a target is scale·margin(cosine).
        every_target: whether each sample's target is owned by some rank. Samples of which it is not, as purely random
            sampling leaves them, have no part in the loss.
        largest_negative: no logit of a negative is larger than scale times this; the same on every rank, at least 1.

    A loss that is not finite is returned as it is: it is the same on every rank. An embedding that is no number makes
    it none, whether its sample has a part in the loss or not: its gradients would be none either.
    """
    n = len(owned_N)
    margin_N, slope_N = margin(np.where(owned_N, target_logit_N, 0.0).astype(np.float64) / scale)
    target_logit_N = np.where(owned_N, scale * margin_N, 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        local_lse_N = max_N.astype(np.float64) + np.log(sum_N.astype(np.float64))
        local_lse_N = np.where(owned_N, np.logaddexp(local_lse_N, target_logit_N), local_lse_N)
        reference_N = np.full(n, scale * largest_negative)
        if scale * largest_negative > LARGEST_SCALE_WITHOUT_MAX:
            reference_N = _all_reduce(local_lse_N, "head.softmax_max", "max", collectives)
        parts = [np.exp(local_lse_N - reference_N), target_logit_N, *([] if every_target else [owned_N])]
        sums = _all_reduce(np.concatenate(parts), "head.softmax_sum", "sum", collectives)
        lse_N = reference_N + np.log(sums[:n])
        present_N = np.full(n, True) if every_target else sums[2 * n :] > 0
        samples = int(present_N.sum())
        loss = float(np.sum((lse_N - sums[n : 2 * n])[present_N]) / max(samples, 1))
        loss = math.nan if np.isnan(lse_N).any() else loss
        lse_N = np.where(present_N, lse_N, np.inf)
        probability_N = np.exp(target_logit_N - lse_N)
    return MergedSoftmax(loss, lse_N, np.where(owned_N, (probability_N - 1.0) * slope_N, 0.0), samples)


def _all_reduce(values: np.ndarray, name: str, op: str, collectives: Collectives) -> np.ndarray:
    """The reduction of a few numbers of the host, in float64 and on the CPU, where they are and are needed."""
    tensor = mx.nd.array(values, ctx=mx.cpu(), dtype=np.float64)
    with collectives.waiting(name):
        return collectives.all_reduce(tensor, name, op).asnumpy()
