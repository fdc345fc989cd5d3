"""The loss scale, which keeps fp16 gradients between underflow and overflow.

The gradient that enters the backbone is multiplied by the scale, and the parameters' gradients are divided by
it again in the update. All ranks see the same all-reduced gradients, so that all take the same decision.
Source: Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740.
"""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_LOSS_SCALE = 2.0**24


@dataclass
class LossScale:
    """Halved when a gradient overflows, doubled after ``growth_interval_updates`` updates without one.

    Attributes:
        value: the current scale, a power of two, at least 1.
        growth_interval_updates: 0 keeps the scale where it is: for fp32.
        clean_updates: updates since the last change or overflow.
    """

    value: float = 2.0**10
    growth_interval_updates: int = 1000
    clean_updates: int = 0

    def after_update(self, finite: bool) -> None:
        """Takes note of an update whose gradients were finite, or were not."""
        if self.growth_interval_updates == 0:
            return
        if not finite:
            self.value = max(1.0, self.value / 2.0)
            self.clean_updates = 0
            return
        self.clean_updates += 1
        if self.clean_updates == self.growth_interval_updates:
            self.value = min(LARGEST_LOSS_SCALE, self.value * 2.0)
            self.clean_updates = 0


def loss_scale_for(fp16: bool) -> LossScale:
    """A dynamic scale where a gradient is fp16 anywhere on its way, the constant 1 otherwise."""
    return LossScale() if fp16 else LossScale(value=1.0, growth_interval_updates=0)
