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
            :class:`partial_fc.head.margin.SVMargin`.
        hard_weight: t; a negative with cos > cos_target − m counts as t·cos + t − 1 (Wang et al., "Mis-classified
            Vector Guided Softmax Loss for Face Recognition", arXiv 1912.00833). None: as its cosine.
        hard_margin: m.
    """

    target: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    hard_weight: float | None = None
    hard_margin: float = 0.0

    @property
    def largest_negative(self) -> float:
        """What no negative passes, hard or not."""
        return 1.0 if self.hard_weight is None else 2 * self.hard_weight - 1
