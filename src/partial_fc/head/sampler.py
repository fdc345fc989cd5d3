"""Which rows take part: PPRN sampling (Positive Plus Randomly Negative, arXiv 2010.05222 §3.3).

Each rank samples, among the C_k classes that it owns, every positive of the global batch, and uniformly drawn
negatives up to ``max(round(r·C_k), positives)``. The cost is that of what is drawn, O(S log S), not of what exists.
Purely random sampling, which the paper compares with, draws ``round(r·C_k)`` rows without looking at the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SAMPLERS = ("pprn", "uniform")


class RatioSchedule:
    """The sample ratio of each update: a first one, and others from given updates on.

    Args:
        first: r in (0, 1] from update 0 on.
        steps: (update, ratio), updates ascending from 1 on.

    Raises:
        ValueError: a ratio out of its range, or updates out of order.
    """

    def __init__(self, first: float, steps: Sequence[tuple[int, float]] = ()) -> None:
        for ratio in (first, *(ratio for _, ratio in steps)):
            if not 0.0 < ratio <= 1.0:
                raise ValueError(f"the sample ratio must lie in (0, 1], but is {ratio}")
        updates = [0, *(update for update, _ in steps)]
        if any(later <= earlier for earlier, later in zip(updates, updates[1:], strict=False)):
            listed = ", ".join(map(str, updates[1:]))
            raise ValueError(f"the updates at which the sample ratio changes must ascend from 1 on, but are {listed}")
        self._updates = updates
        self._ratios = [first, *(ratio for _, ratio in steps)]

    def at(self, update: int) -> float:
        """r of the update of that number, of which there were as many before it."""
        return self._ratios[int(np.searchsorted(self._updates, update, side="right")) - 1]

    @property
    def largest(self) -> float:
        """What decides the memory."""
        return max(self._ratios)


def sample_size(count: int, sample_ratio: float, positives: int) -> int:
    """S_k = max(round(r·C_k), positives, 1): never so small that a positive would be dropped."""
    return max(round(sample_ratio * count), positives, 1)


def sample_rows(
    count: int, positives: np.ndarray, sample_ratio: float, rng: np.random.Generator
) -> np.ndarray:
    """Draws the rows of one step.

    Args:
        count: C_k, the number of rows to draw from.
        positives: (P,) int64, sorted and distinct rows that must be in the sample.
        sample_ratio: r in (0, 1]; at 1 every row is taken and nothing is drawn.
        rng: the source of the negatives.

    Returns:
        (S,) int64, sorted and distinct, holding all positives; the S − P negatives are a uniformly random subset of
        the other rows.
    """
    size = sample_size(count, sample_ratio, len(positives))
    if size == count:
        return np.arange(count, dtype=np.int64)
    negatives = _draw_outside(count, positives, size - len(positives), rng)
    return np.sort(np.concatenate([positives, negatives]))


def _draw_outside(count: int, excluded: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A uniformly random subset of ``size`` of the ``count − len(excluded)`` rows outside sorted ``excluded``."""
    ranks_among_others = _random_subset(count - len(excluded), size, rng)
    # The i-th row outside `excluded` is i plus the number of excluded rows before it.
    shifted = excluded - np.arange(len(excluded))
    return ranks_among_others + np.searchsorted(shifted, ranks_among_others, side="right")


def _random_subset(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """A uniformly random subset of ``size`` of ``range(count)``, sorted, in O(size log size) time and memory."""
    if size > count // 2:
        left_out = np.zeros(count, dtype=bool)
        left_out[_random_subset(count, count - size, rng)] = True
        return np.flatnonzero(~left_out)
    # Distinct values of independent draws are a uniform subset of their number; a uniform part of one is uniform.
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < size:
        missing = size - len(drawn)
        more = rng.integers(count, size=missing + missing // 2 + 16)
        drawn = np.unique(np.concatenate([drawn, more]))
    surplus = len(drawn) - size
    if surplus == 0:
        return drawn
    keep = np.ones(len(drawn), dtype=bool)
    keep[rng.choice(len(drawn), size=surplus, replace=False, shuffle=False)] = False
    return drawn[keep]
