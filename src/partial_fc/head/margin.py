"""From the target's cosine to its logit: the margins of ArcFace, CosFace, their combination, and the SV softmax.

    margin(c) = cos(m1·θ + m2) − m3,   θ = arccos(c)            (arXiv 1801.07698, 1801.09414)

Past m1·θ + m2 = π that cosine rises again, and with it the logit of a sample far from its center. From there on the
margin falls as the plain cosine does, −1 − (cos θ_π − c) − m3 with θ_π = (π − m2)/m1: continuous, falling with θ over
all of [0, π], and its gradient draws every sample to its center.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TargetMargin = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From the targets' cosines (N,) to margin(cos) and its derivative d margin / d cos, (N,) float64 each."""

# A fp32 cosine is off by some 1e-7 and may pass 1, where arccos is not defined and its slope not bounded.
_LARGEST_COSINE = 1.0 - 1e-7


@dataclass(frozen=True)
class Margin:
    """cos(m1·θ + m2) − m3 at the target.

    Attributes:
        m1: factor of the angle, at least 1 (SphereFace).
        m2: added angle in radians, in [0, π) (ArcFace 0.5).
        m3: subtracted cosine, at least 0 (CosFace 0.4).

    Raises:
        ValueError: a value out of its range.
    """

    m1: float = 1.0
    m2: float = 0.0
    m3: float = 0.0

    def __post_init__(self) -> None:
        if not 1.0 <= self.m1 < math.inf:
            raise ValueError(
                f"the margin m1 multiplies the angle and must be finite and at least 1, but is {self.m1}"
            )
        if not 0.0 <= self.m2 < math.pi:
            raise ValueError(f"the margin m2 is an angle in radians, in [0, π), but is {self.m2}")
        if not 0.0 <= self.m3 < math.inf:
            raise ValueError(
                f"the margin m3 is taken off the cosine and must be finite and not negative, but is {self.m3}"
            )

    def __call__(self, cosine_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Applies the margin to the targets' cosines.

        Args:
            cosine_N: (N,) float64 in [−1, 1] up to rounding; what lies outside is clipped.

        Returns:
            margin(c) and its derivative d margin / d c, each (N,) float64.
        """
        if self.m1 == 1.0 and self.m2 == 0.0:
            return cosine_N - self.m3, np.ones_like(cosine_N)
        cosine_N = np.clip(cosine_N, -_LARGEST_COSINE, _LARGEST_COSINE)
        theta_N = np.arccos(cosine_N)
        sine_N = np.sqrt(1.0 - cosine_N * cosine_N)
        angle_N = self.m1 * theta_N + self.m2
        # dc = −sin θ dθ, so that d cos(m1·θ + m2) / dc = m1·sin(m1·θ + m2) / sin θ.
        value_N = np.cos(angle_N)
        slope_N = self.m1 * np.sin(angle_N) / sine_N
        past_N = angle_N > math.pi
        value_N[past_N] = -1.0 + cosine_N[past_N] - math.cos((math.pi - self.m2) / self.m1)
        slope_N[past_N] = 1.0
        return value_N - self.m3, slope_N


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
