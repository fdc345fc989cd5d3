"""Results of ``claims.py`` by arm: means, deviations and what they tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from claims_grid import Arm
from scipy import stats


class Runs:
    """All finished runs.

    Args:
        results: as ``claims_run.run`` gives them, any number of seeds of any arms.
    """

    def __init__(self, results: Sequence[dict[str, Any]]) -> None:
        self.results = results
        self._by_arm: dict[str, list[dict[str, Any]]] = {}
        for result in sorted(results, key=lambda result: result["case"]["seed"]):
            self._by_arm.setdefault(Arm(**result["case"]["arm"]).name, []).append(result)

    def has(self, arm: Arm) -> bool:
        """Whether there is a run of it."""
        return arm.name in self._by_arm

    def knows(self, arm: Arm, quantity: str) -> bool:
        """Whether there are runs of it, all of which measured the quantity."""
        return self.has(arm) and all(quantity in result["points"][-1] for result in self.of(arm))

    def of(self, arm: Arm) -> list[dict[str, Any]]:
        """Its runs, seed by seed."""
        return self._by_arm[arm.name]

    def values(self, arm: Arm, quantity: str) -> np.ndarray:
        """(seeds,) a figure at the end of each run."""
        return np.array([result["points"][-1][quantity] for result in self.of(arm)])

    def curve(self, arm: Arm, quantity: str) -> tuple[np.ndarray, np.ndarray]:
        """Images seen at each point, (points,), and the figure there, (seeds, points)."""
        found = self.of(arm)
        images = np.array([point["images"] for point in found[0]["points"]])
        return images, np.array([[point[quantity] for point in result["points"]] for result in found])

    def text(self, arm: Arm, quantity: str, digits: int, sign: str = "") -> str:
        """``mean ± deviation`` over seeds, with the divisor n − 1; a dash where there is no run or no such figure."""
        if not self.knows(arm, quantity):
            return "–"
        values = self.values(arm, quantity)
        spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{values.mean():.{digits}f}{spread}{sign}"


@dataclass(frozen=True)
class Difference:
    """The mean of one arm less that of another, and its 95 % interval by Welch's t; None of a single seed."""

    mean: float
    low: float | None
    high: float | None

    def interval(self, digits: int) -> str:
        """The interval in words."""
        return f"{signed(self.low, digits)} to {signed(self.high, digits)}"

    @property
    def outcome(self) -> int:
        """1 and −1: more and less, and 0 is not in the interval; 0: the seeds do not tell the arms apart."""
        if self.low is None or self.low <= 0.0 <= self.high:
            return 0
        return 1 if self.mean > 0 else -1


def signed(value: float, digits: int) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def difference(runs: Runs, arm: Arm, other: Arm, quantity: str) -> Difference:
    """What ``arm`` ends with, less what ``other`` ends with."""
    a, b = runs.values(arm, quantity), runs.values(other, quantity)
    mean = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Difference(mean, None, None)
    parts = [part.var(ddof=1) / len(part) for part in (a, b)]
    error = sum(parts) ** 0.5
    if error == 0.0:
        return Difference(mean, mean, mean)
    freedom = error**4 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    width = float(stats.t.ppf(0.975, freedom)) * error
    return Difference(mean, mean - width, mean + width)
