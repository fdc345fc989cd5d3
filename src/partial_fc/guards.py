"""What a step does about numbers that go wrong and about requests to end: small parts beside the step.

Each takes the same decision on every rank, from numbers that are the same on every rank.
"""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass
from types import FrameType

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives, RankError

Gradients = dict[str, mx.nd.NDArray]

_MOST_ARRAYS = 100  # of one operation: MXNet's over many arrays have room for so many at least


class NumbersWentWrongError(RankError):
    """Too many updates in a row were skipped: every rank raises it, at the same update."""


class RanksDifferError(RankError):
    """The ranks' backbones, which must be equal to the last bit, are not: every rank raises it."""


@dataclass
class GradientClip:
    """Clipping by the global norm: g ← g·min(1, max_norm/|g|), |g| over all parameters of the backbone together.

    Attributes:
        max_norm: the largest norm of the gradient that an update applies.
        collectives: the ranks; one all-reduce (max) of one float64 an update, so that a device whose sums differ
            in their last bit from run to run does not let the ranks' backbones part.
    """

    max_norm: float
    collectives: Collectives

    def __post_init__(self) -> None:
        if not 0.0 < self.max_norm < math.inf:
            raise ValueError(f"the largest norm of a gradient must be positive, but is {self.max_norm}")

    def norm_and_factor(self, gradients: Gradients, loss_scale: float) -> tuple[float, float]:
        """(|g|, min(1, max_norm/|g|)) for the gradients g·loss_scale, which are not changed.

        A norm that float32 cannot hold is infinite, and its factor 0.
        """
        arrays = list(gradients.values())
        groups = [arrays[first : first + _MOST_ARRAYS] for first in range(0, len(arrays), _MOST_ARRAYS)]
        squares = [mx.nd.multi_sum_sq(*group, num_arrays=len(group)) for group in groups]
        total = mx.nd.array([sum(part.asnumpy().sum(dtype=np.float64) for part in squares)], dtype="float64")
        with self.collectives.waiting("the gradient's norm"):
            total = self.collectives.all_reduce(total, "backbone.norm", "max").asscalar()
        norm = math.sqrt(total) / loss_scale
        return norm, min(1.0, self.max_norm / norm) if norm > 0.0 else 1.0


class StopRequest:
    """The wish that training ends at the next step's boundary, with a checkpoint: SIGTERM, SIGINT or SIGUSR1.

    One rank's wish is enough: it travels with the labels. A second Ctrl-C does not wait for the boundary.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def made(self) -> bool:
        """Whether this rank was asked."""
        return self.signal is not None

    def listen(self) -> None:
        """Takes note of the signals from now on. In the main thread alone."""
        for number in self.SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
