"""The classification layer written the obvious way: what a straightforward port of the paper's formulas costs.

It normalises W into a new array, makes a one-hot matrix, takes exponentials, sums and a quotient as separate
operations, lets autograd find the gradients, and draws negatives with ``np.random.choice`` over a set difference.
A benchmark sets the real layer beside it.

Legend: N embeddings of the global batch, S sampled classes of a rank, D embedding size.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.head.margin import Margin
from partial_fc.head.partition import ClassPartition

nd = mx.nd


class PlainPartialFC:
    """The plain layer of one rank; arguments as of :class:`partial_fc.head.partial_fc.PartialFC`."""

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        collectives: Collectives,
        *,
        margin: Margin,
        scale: float = 64.0,
        sample_ratio: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        seed: int = 0,
    ) -> None:
        partition = ClassPartition(num_classes, collectives.size)
        self._collectives = collectives
        self._first = partition.start(collectives.rank)
        self._count = partition.count(collectives.rank)
        self._margin, self._scale, self._sample_ratio = margin, scale, sample_ratio
        self._momentum, self._weight_decay = momentum, weight_decay
        mx.random.seed(seed)
        self.weight = nd.random.normal(0, 0.01, shape=(self._count, embedding_size))
        self.momentum = nd.zeros_like(self.weight)

    def sample(self, label_N: np.ndarray) -> np.ndarray:
        """(S,) rows: the positives and, up to the sample's size, random others."""
        owned = label_N[(label_N >= self._first) & (label_N < self._first + self._count)] - self._first
        positives = np.unique(owned)
        if self._sample_ratio == 1.0:
            return np.arange(self._count)
        size = max(round(self._sample_ratio * self._count), len(positives))
        others = np.setdiff1d(np.arange(self._count), positives)
        negatives = np.random.choice(others, size - len(positives), replace=False)
        return np.sort(np.concatenate([positives, negatives]))

    def step(self, embedding_BD: mx.nd.NDArray, label_N: np.ndarray, learning_rate: float) -> tuple[float, nd.NDArray]:
        """One step: the loss, and d loss / d embedding (B, D); the sampled rows are changed."""
        rows = self.sample(label_N)
        index = nd.array(rows, dtype="int64")
        everything = len(rows) == self._count
        weight_SD = self.weight if everything else nd.take(self.weight, index)
        momentum_SD = self.momentum if everything else nd.take(self.momentum, index)
        x_ND = self._collectives.all_gather(embedding_BD, "plain.embeddings")
        one_hot_NS = nd.array(label_N[:, None] - self._first == rows[None, :], dtype="float32")
        x_ND.attach_grad()
        weight_SD.attach_grad()
        with mx.autograd.record():
            unit_x_ND = nd.L2Normalization(x_ND)
            unit_weight_SD = nd.L2Normalization(weight_SD)
            cosine_NS = nd.dot(unit_x_ND, unit_weight_SD, transpose_b=True)
            logits_NS = self._scale * (cosine_NS + one_hot_NS * (self._with_margin(cosine_NS) - cosine_NS))
        max_N1 = nd.max(logits_NS, axis=1, keepdims=True)
        max_N1 = self._collectives.all_reduce(max_N1, "plain.max", "max")
        exponential_NS = nd.exp(nd.broadcast_sub(logits_NS, max_N1))
        sum_N1 = self._collectives.all_reduce(nd.sum(exponential_NS, axis=1, keepdims=True), "plain.sum")
        probability_NS = nd.broadcast_div(exponential_NS, sum_N1)
        target_N = self._collectives.all_reduce(nd.sum(one_hot_NS * probability_NS, axis=1), "plain.target")
        loss = float(-nd.mean(nd.log(target_N)).asscalar())
        logits_NS.backward((probability_NS - one_hot_NS) / len(label_N))
        nd.sgd_mom_update(
            weight_SD, weight_SD.grad, momentum_SD, lr=learning_rate, wd=self._weight_decay, momentum=self._momentum,
            out=weight_SD,
        )  # fmt: skip
        if not everything:
            self.weight[index] = weight_SD
            self.momentum[index] = momentum_SD
        gradient_BD = self._collectives.reduce_scatter(x_ND.grad, "plain.gradients")
        return loss, gradient_BD

    def _with_margin(self, cosine_NS: mx.nd.NDArray) -> mx.nd.NDArray:
        if self._margin.m1 == 1.0 and self._margin.m2 == 0.0:
            return cosine_NS - self._margin.m3
        theta_NS = nd.arccos(nd.clip(cosine_NS, -1 + 1e-6, 1 - 1e-6))
        return nd.cos(self._margin.m1 * theta_NS + self._margin.m2) - self._margin.m3
