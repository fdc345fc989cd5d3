"""The learning rate as a function of the update's number."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepSchedule:
    """lr(u) = base · factor^(number of steps ≤ u), updates counted from 0.

    Attributes:
        base: the first learning rate, positive.
        steps: the updates from which on the learning rate is lower, ascending.
        factor: what each step multiplies it by.

    Raises:
        ValueError: a rate that is not positive, or steps that do not ascend.
    """

    base: float
    steps: Sequence[int] = field(default=())
    factor: float = 0.1

    def __post_init__(self) -> None:
        if not self.base > 0.0:
            raise ValueError(f"the learning rate must be positive, but is {self.base}")
        if list(self.steps) != sorted(set(self.steps)) or any(step < 1 for step in self.steps):
            raise ValueError(
                f"the updates of the learning rate's steps must ascend from 1, but are {self.steps}"
            )

    def __call__(self, update: int) -> float:
        return self.base * self.factor ** bisect.bisect_right(self.steps, update)
