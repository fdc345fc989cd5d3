"""The margins of F²C's samples in the pool: what Partial FC's are, and those of the SV softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class F2CMargin:
    """The margin softmax of samples whose identity is in the pool.

    Attributes:
        target: from the target's cosine to its logit and slope, as :class:`partial_fc.head.margin.Margin` and
            :class:`SVMargin`.
        hard_weight: t; a negative with cos > cos_target − m counts as t·cos + t − 1 (Wang et al., "Mis-classified
            Vector Guided Softmax Loss for Face Recognition", arXiv 1912.00833). None: as its cosine.
        hard_margin: m.
    """

    target: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    hard_weight: float | None = None
    hard_margin: float = 0.0


@dataclass(frozen=True)
class SVMargin:
    """cos − m at the target where cos > m, and the cosine alone below: m3 in [0, 1).

    Raises:
        ValueError: a margin out of its range.
    """

    m3: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.m3 < 1.0:
            raise ValueError(f"the margin of the SV softmax is taken off a cosine, in [0, 1), but is {self.m3}")

    def __call__(self, cosine_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """margin(c) and its derivative, each (N,) float64."""
        return np.where(cosine_N > self.m3, cosine_N - self.m3, cosine_N), np.ones_like(cosine_N)
