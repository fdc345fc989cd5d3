"""Margin softmaxes that look at the batch: AdaFace, CurricularFace, SV-softmax, beside the margins that do not.

Legend: N embeddings of the global batch. cos_n is the cosine of sample n to its own class center, cos_nj to another.

A margin softmax says, for each batch, what the target's logit is (a margin), and what the logits of the other classes
are (hard negatives may count for more). What it keeps from batch to batch is the same on every rank, since every rank
sees the norms of all embeddings, and the cosines to the targets are shared where they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from partial_fc.head.margin import Margin, SVMargin, TargetMargin

_EPSILON = 1e-3


@dataclass(frozen=True)
class HardNegatives:
    """The cosine of a negative above its sample's threshold becomes linear·cos + quadratic·cos² + constant.

    Attributes:
        threshold_N: (N,) float64, cosines.
    """

    threshold_N: np.ndarray
    linear: float
    quadratic: float
    constant: float

    @property
    def largest(self) -> float:
        """What no negative passes, hard or not."""
        return max(1.0, abs(self.linear) + abs(self.quadratic) + self.constant)


@dataclass(frozen=True)
class BatchMargin:
    """A margin softmax for one batch.

    Attributes:
        target: the margin of the targets.
        hard: what hard negatives become; None where all count as their cosine.
        statistics: what is kept once the batch's update is made.
    """

    target: TargetMargin
    hard: HardNegatives | None = None
    statistics: Mapping[str, float] = field(default_factory=dict)


class MarginSoftmax(Protocol):
    """A margin softmax, with what it keeps from batch to batch.

    Attributes:
        needs_norms: whether it looks at the embeddings' norms.
        needs_targets: whether it looks at the cosines to the targets of all ranks: one all-reduce more.
        statistics: numbers that go with a checkpoint, by name; the same on every rank.
    """

    needs_norms: bool
    needs_targets: bool
    statistics: Mapping[str, float]

    def for_batch(self, norm_N: np.ndarray | None, target_cosine_N: np.ndarray | None) -> BatchMargin:
        """The margin of a batch; changes nothing: :meth:`keep` does, when the batch's update is made.

        Args:
            norm_N: (N,) float64, |x_n|, where ``needs_norms``.
            target_cosine_N: (N,) float64, cos_n before any margin, where ``needs_targets``.
        """
        ...

    def keep(self, statistics: Mapping[str, float]) -> None:
        """Takes a batch's statistics, or a checkpoint's."""
        ...


def as_margin_softmax(margin: Margin | MarginSoftmax) -> MarginSoftmax:
    """A margin as a margin softmax that looks at nothing."""
    return FixedMargin(margin) if isinstance(margin, Margin) else margin


class FixedMargin:
    """cos(m1·θ + m2) − m3 at the target, whatever the batch: ArcFace, CosFace, and their combination."""

    needs_norms = needs_targets = False

    def __init__(self, margin: Margin) -> None:
        self._batch = BatchMargin(margin)
        self.statistics: Mapping[str, float] = {}

    def for_batch(self, norm_N: np.ndarray | None, target_cosine_N: np.ndarray | None) -> BatchMargin:
        return self._batch

    def keep(self, statistics: Mapping[str, float]) -> None:
        """There is nothing to keep."""


class AdaFace:
    """AdaFace: the margin adapts to the quality of an image, of which the embedding's norm tells.

        z_n     = clip(h·(|x_n| − μ)/(σ + 0.001), −1, 1)
        target  = cos(θ_n − m·z_n) − (m·z_n + m)                θ_n − m·z_n clipped to [0.001, π − 0.001]
        μ, σ    ← α·(mean, deviation of the batch's norms over all ranks) + (1 − α)·(μ, σ)

    z is no function of x to the gradient. Norms are clipped to [0.001, 100]; the deviation divides by N − 1; μ and σ
    begin as 20 and 100. As in the authors' code, whose training takes α = 0.01; the paper's text says 0.99, which in
    its equation would weigh the newest batch, of an average that is to be steadier than one batch. Cosines are clipped
    at 1 − 1e-7, as :class:`partial_fc.head.margin.Margin` has them, and at 1 − 1e-3 there.

    Source: Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022, arXiv 2204.00964, eq. 14–17.

    Args:
        m: the margin, an angle and a cosine at once, in [0, π/2).
        h: how far a norm of one deviation takes z, positive.
        alpha: weight of the newest batch in μ and σ, in (0, 1].

    Raises:
        ValueError: a value out of its range.
    """

    needs_norms, needs_targets = True, False

    def __init__(self, m: float = 0.4, h: float = 0.333, alpha: float = 0.01) -> None:
        if not 0.0 <= m < math.pi / 2:
            raise ValueError(f"AdaFace's margin m must lie in [0, π/2), but is {m}")
        if not 0.0 < h < math.inf:
            raise ValueError(f"AdaFace's concentration h must be finite and positive, but is {h}")
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"AdaFace's alpha, the weight of the newest batch, must lie in (0, 1], but is {alpha}")
        self.m, self.h, self.alpha = m, h, alpha
        self.statistics: Mapping[str, float] = {"norm_mean": 20.0, "norm_deviation": 100.0}

    def for_batch(self, norm_N: np.ndarray | None, target_cosine_N: np.ndarray | None) -> BatchMargin:
        assert norm_N is not None
        norm_N = np.clip(norm_N, 0.001, 100.0)
        deviation = norm_N.std(ddof=1) if len(norm_N) > 1 else 0.0
        mean, deviation = (
            float(self.alpha * new + (1.0 - self.alpha) * self.statistics[name])
            for name, new in (("norm_mean", norm_N.mean()), ("norm_deviation", deviation))
        )
        z_N = np.clip(self.h * (norm_N - mean) / (deviation + _EPSILON), -1.0, 1.0)
        statistics = {"norm_mean": mean, "norm_deviation": deviation}
        return BatchMargin(lambda cosine_N: self._target(cosine_N, z_N), statistics=statistics)

    def keep(self, statistics: Mapping[str, float]) -> None:
        self.statistics = _same_names(self, statistics)

    def _target(self, cosine_N: np.ndarray, z_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Past these bounds the angle below is clipped whatever the margin, or the slope of arccos is no number.
        theta_N = np.arccos(np.clip(cosine_N, -1.0 + 1e-7, 1.0 - 1e-7))
        angle_N = theta_N - self.m * z_N
        inside_N = (angle_N >= _EPSILON) & (angle_N <= math.pi - _EPSILON)
        slope_N = np.where(inside_N, np.sin(angle_N) / np.sin(theta_N), 0.0)
        value_N = np.cos(np.clip(angle_N, _EPSILON, math.pi - _EPSILON))
        return value_N - (self.m * z_N + self.m), slope_N


class CurricularFace:
    """CurricularFace: ArcFace at the target, and hard negatives that count for more the further training is.

        target    = cos(θ_n + m)
        negative  = cos_nj·(t + cos_nj)   where cos_nj > target;   cos_nj elsewhere
        t         ← α·mean_n cos_n + (1 − α)·t         over all ranks, from 0 on, before the batch is weighted

    Past θ + m = π the target goes on as :class:`partial_fc.head.margin.Margin` does.

    Source: Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition", CVPR 2020,
    arXiv 2004.00288, eq. 6–8.

    Args:
        m: the margin in radians, in [0, π).
        alpha: weight of the newest batch in t, in (0, 1].

    Raises:
        ValueError: a value out of its range.
    """

    needs_norms, needs_targets = False, True

    def __init__(self, m: float = 0.5, alpha: float = 0.01) -> None:
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"CurricularFace's alpha, the newest batch's weight, must lie in (0, 1], but is {alpha}")
        self.margin = Margin(m2=m)
        self.alpha = alpha
        self.statistics: Mapping[str, float] = {"t": 0.0}

    def for_batch(self, norm_N: np.ndarray | None, target_cosine_N: np.ndarray | None) -> BatchMargin:
        assert target_cosine_N is not None
        t = float(self.alpha * target_cosine_N.mean() + (1.0 - self.alpha) * self.statistics["t"])
        hard = HardNegatives(self.margin(target_cosine_N)[0], linear=t, quadratic=1.0, constant=0.0)
        return BatchMargin(self.margin, hard, {"t": t})

    def keep(self, statistics: Mapping[str, float]) -> None:
        self.statistics = _same_names(self, statistics)


class SVSoftmax:
    """SV-softmax with CosFace's margin: negatives closer than the margin allows count for more (support vectors).

        target    = cos_n − m where cos_n > m,   cos_n elsewhere
        negative  = t·cos_nj + t − 1   where cos_nj > cos_n − m;   cos_nj elsewhere

    Source: Wang et al., "Support Vector Guided Softmax Loss for Face Recognition", arXiv 1812.11317, and
    "Mis-classified Vector Guided Softmax Loss for Face Recognition", arXiv 1912.00833, eq. 5–8, whose code has the
    target's condition.

    Args:
        m: in [0, 1).
        t: at least 1.

    Raises:
        ValueError: a value out of its range.
    """

    needs_norms, needs_targets = False, True

    def __init__(self, m: float = 0.4, t: float = 1.2) -> None:
        if not 1.0 <= t < math.inf:
            raise ValueError(f"SV-softmax multiplies hard negatives by t, finite and at least 1, but t is {t}")
        self._target = SVMargin(m)
        self.m, self.t = m, t
        self.statistics: Mapping[str, float] = {}

    def for_batch(self, norm_N: np.ndarray | None, target_cosine_N: np.ndarray | None) -> BatchMargin:
        assert target_cosine_N is not None
        hard = HardNegatives(target_cosine_N - self.m, linear=self.t, quadratic=0.0, constant=self.t - 1.0)
        return BatchMargin(self._target, hard)

    def keep(self, statistics: Mapping[str, float]) -> None:
        """There is nothing to keep."""


def _same_names(margin: MarginSoftmax, statistics: Mapping[str, float]) -> dict[str, float]:
    """Raises ValueError for statistics of another margin softmax, or that are no numbers."""
    if statistics.keys() != margin.statistics.keys() or not all(map(math.isfinite, statistics.values())):
        ours = ", ".join(margin.statistics)
        raise ValueError(f"{type(margin).__name__} keeps {ours}, all finite, but was given {dict(statistics)}")
    return {name: float(value) for name, value in statistics.items()}
