"""The learning rate as a function of the update's number, counted from 0.

    warm-up      lr(u) = base·(u + 1)/w                                   for u < w
    steps        lr(u) = base·factor^(number of steps ≤ u)
    polynomial   lr(u) = final + (base − final)·(1 − p)^power             p = (u − w)/(last − w), at most 1
    cosine       lr(u) = final + (base − final)·(1 + cos(π·p))/2
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from partial_fc.config import SHAPES

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class StepSchedule:
    """lr(u) = base · factor^(number of steps ≤ u).

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
        _check_base(self.base)
        if list(self.steps) != sorted(set(self.steps)) or any(step < 1 for step in self.steps):
            raise ValueError(
                f"the updates of the learning rate's steps must ascend from 1, but are {self.steps}"
            )

    def __call__(self, update: int) -> float:
        return self.base * self.factor ** bisect.bisect_right(self.steps, update)


@dataclass(frozen=True)
class PolynomialSchedule:
    """lr(u) = final + (base − final)·(1 − p)^power, where p goes from 0 at ``first`` to 1 at ``last``.

    Attributes:
        base, final: the rates at both ends, 0 ≤ final ≤ base.
        first, last: updates; before ``first`` the rate is base, from ``last`` on it is final.
        power: 1 falls in a straight line.

    Raises:
        ValueError: a value out of its range.
    """

    base: float
    last: int
    final: float = 0.0
    first: int = 0
    power: float = 2.0

    def __post_init__(self) -> None:
        _check_decay(self.base, self.final, self.first, self.last)
        if not 0.0 < self.power < math.inf:
            raise ValueError(f"the power of the learning rate must be positive, but is {self.power}")

    def __call__(self, update: int) -> float:
        left = 1.0 - _progress(update, self.first, self.last)
        return self.final + (self.base - self.final) * left**self.power


@dataclass(frozen=True)
class CosineSchedule:
    """lr(u) = final + (base − final)·(1 + cos(π·p))/2; attributes and errors as :class:`PolynomialSchedule`'s."""

    base: float
    last: int
    final: float = 0.0
    first: int = 0

    def __post_init__(self) -> None:
        _check_decay(self.base, self.final, self.first, self.last)

    def __call__(self, update: int) -> float:
        done = _progress(update, self.first, self.last)
        return self.final + (self.base - self.final) * (1.0 + math.cos(math.pi * done)) / 2.0


@dataclass(frozen=True)
class WarmUp:
    """lr(u) = base·(u + 1)/updates for u < updates, then what ``after`` says: no update has a rate of 0."""

    base: float
    updates: int
    after: Schedule

    def __post_init__(self) -> None:
        _check_base(self.base)
        if self.updates < 0:
            raise ValueError(f"a warm-up must not be shorter than 0 updates, but is {self.updates}")

    def __call__(self, update: int) -> float:
        return self.base * (update + 1) / self.updates if update < self.updates else self.after(update)


def make_schedule(
    shape: str,
    base: float,
    *,
    last: int,
    warmup_updates: int = 0,
    steps: Sequence[int] = (),
    factor: float = 0.1,
    final: float = 0.0,
    power: float = 2.0,
) -> Schedule:
    """The schedule of a run of ``last`` updates; polynomial and cosine begin where the warm-up ends.

    Raises:
        ValueError: an unknown shape, or a value out of its range.
    """
    if shape == "steps":
        after: Schedule = StepSchedule(base, steps, factor)
    elif shape == "polynomial":
        after = PolynomialSchedule(base, last, final, warmup_updates, power)
    elif shape == "cosine":
        after = CosineSchedule(base, last, final, warmup_updates)
    else:
        raise ValueError(f"unknown schedule {shape!r}: choose one of {', '.join(SHAPES)}")
    return WarmUp(base, warmup_updates, after) if warmup_updates else after


def _progress(update: int, first: int, last: int) -> float:
    return min(max(update - first, 0) / (last - first), 1.0)


def _check_base(base: float) -> None:
    if not 0.0 < base < math.inf:
        raise ValueError(f"the learning rate must be positive, but is {base}")


def _check_decay(base: float, final: float, first: int, last: int) -> None:
    _check_base(base)
    if not 0.0 <= final <= base:
        raise ValueError(f"the last learning rate must lie in [0, {base}], but is {final}")
    if not 0 <= first < last:
        raise ValueError(f"a schedule of {last} updates must be longer than its warm-up, which takes {first}")
