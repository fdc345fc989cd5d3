"""Margin softmaxes that look at the batch, in their naive dense form: the papers' equations, in float64, one class.

They take nothing but the hyper-parameters from the code that they check, and keep their own statistics.

Legend: N embeddings of the global batch, S classes that take part, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable

import mxnet as mx
import numpy as np

from partial_fc.head.margin_softmax import AdaFace, CurricularFace, MarginSoftmax, SVSoftmax

nd = mx.nd

DenseMarginSoftmax = Callable[[nd.NDArray, nd.NDArray, nd.NDArray], tuple[nd.NDArray, nd.NDArray]]
"""From x (N, D), the cosines (N, S) and which of them are targets (N, S) to the cosines of targets with their margin
and those of negatives, (N, S) each. Called once a batch, under autograd."""


def dense_margin_softmax(margin: MarginSoftmax) -> DenseMarginSoftmax:
    """The dense form, with statistics as before the first batch."""
    if isinstance(margin, AdaFace):
        return _adaface(margin.m, margin.h, margin.alpha)
    if isinstance(margin, CurricularFace):
        return _curricularface(margin.margin.m2, margin.alpha)
    assert isinstance(margin, SVSoftmax)
    return _sv(margin.m, margin.t)


def _adaface(m: float, h: float, alpha: float) -> DenseMarginSoftmax:
    kept = {"mean": 20.0, "deviation": 100.0}

    def apply(x: nd.NDArray, cosine: nd.NDArray, target: nd.NDArray) -> tuple[nd.NDArray, nd.NDArray]:
        norms = [min(max(float(np.linalg.norm(row)), 0.001), 100.0) for row in x.asnumpy()]
        mean = sum(norms) / len(norms)
        deviation = (sum((norm - mean) ** 2 for norm in norms) / (len(norms) - 1)) ** 0.5
        kept["mean"] = alpha * mean + (1 - alpha) * kept["mean"]
        kept["deviation"] = alpha * deviation + (1 - alpha) * kept["deviation"]
        z = [max(-1.0, min(1.0, h * (norm - kept["mean"]) / (kept["deviation"] + 1e-3))) for norm in norms]
        z = nd.array(z, dtype="float64").reshape((-1, 1))
        angle = nd.clip(nd.broadcast_sub(nd.arccos(cosine), m * z), 1e-3, np.pi - 1e-3)
        return nd.broadcast_sub(nd.cos(angle), m * z + m), cosine

    return apply


def _curricularface(m: float, alpha: float) -> DenseMarginSoftmax:
    kept = {"t": 0.0}

    def apply(x: nd.NDArray, cosine: nd.NDArray, target: nd.NDArray) -> tuple[nd.NDArray, nd.NDArray]:
        # Past π as the plain cosine, continuously: this project's way.
        angle = nd.arccos(cosine) + m
        with_margin = nd.where(angle <= np.pi, nd.cos(angle), cosine - np.cos(np.pi - m) - 1)
        with mx.autograd.pause():
            own = nd.sum(cosine * target, axis=1, keepdims=True)
            kept["t"] = alpha * float(nd.mean(own).asscalar()) + (1 - alpha) * kept["t"]
            hard = nd.broadcast_greater(cosine, nd.sum(with_margin * target, axis=1, keepdims=True))
        return with_margin, nd.where(hard, cosine * (kept["t"] + cosine), cosine)

    return apply


def _sv(m: float, t: float) -> DenseMarginSoftmax:
    def apply(x: nd.NDArray, cosine: nd.NDArray, target: nd.NDArray) -> tuple[nd.NDArray, nd.NDArray]:
        with mx.autograd.pause():
            hard = nd.broadcast_greater(cosine, nd.sum(cosine * target, axis=1, keepdims=True) - m)
        return nd.where(cosine > m, cosine - m, cosine), nd.where(hard, t * cosine + t - 1, cosine)

    return apply
