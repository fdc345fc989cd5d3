"""One number over the updates of a run, thinned while it is read: memory does not grow with the log.

Legend: K points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MAX_POINTS = 1000
"""Of a series: more than a figure has pixels in which they could be told apart."""


@dataclass(frozen=True)
class Points:
    """What is drawn of a series; float64 all, (K,) each.

    Attributes:
        update_K: the updates, ascending; of a point of several entries their mean.
        value_K: the entries' mean; NaN where none of them has a finite value, where a line is interrupted.
        low_K, high_K: the smallest and the largest of the entries.
        entries_K: how many entries have a finite value.
    """

    update_K: np.ndarray
    value_K: np.ndarray
    low_K: np.ndarray
    high_K: np.ndarray
    entries_K: np.ndarray

    @property
    def is_thinned(self) -> bool:
        """Whether a point stands for more than one entry."""
        return bool(np.any(self.entries_K > 1))

    @property
    def lowest(self) -> float:
        """Of all entries; infinite where there is none."""
        return float(self.low_K[self.entries_K > 0].min(initial=np.inf))

    @property
    def highest(self) -> float:
        """Of all entries; −infinite where there is none."""
        return float(self.high_K[self.entries_K > 0].max(initial=-np.inf))


class Series:
    """Takes entries in the order of their updates, and keeps at most `max_points` points of them.

    The updates from `first` to `last` are divided among `max_points` bins of one size, and a bin gives a point: an
    entry is a point of its own wherever no other falls into its bin.

    Attributes, once it is closed:
        last: (update, value) of the last entry with a finite value; None before there is one.
        lowest, highest: of those with the smallest and the largest value, the first.
        total: the sum of the finite values; of `finite` entries.
        not_finite: how many entries have none.
    """

    def __init__(self, first: int, last: int, max_points: int = MAX_POINTS) -> None:
        self._first = first
        self._span = last - first + 1
        self._bins = min(max_points, self._span)
        self._pending: tuple[int, float] | None = None
        self._bin = -1
        self._points: list[tuple[float, float, float, float, int]] = []
        self._open_bin()
        self.last: tuple[int, float] | None = None
        self.lowest: tuple[int, float] | None = None
        self.highest: tuple[int, float] | None = None
        self.total = 0.0
        self.finite = 0
        self.not_finite = 0

    def add(self, update: int, value: float) -> None:
        """Adds an entry; a second one of the same update takes the place of the first."""
        if self._pending is not None and self._pending[0] != update:
            self._settle()
        self._pending = update, value

    def close(self) -> None:
        """Ends the series: it takes no more entries."""
        self._settle()
        self._close_bin()

    def points(self) -> Points:
        """What there is to draw, once the series is closed."""
        columns = np.array(self._points, dtype=np.float64).reshape(-1, 5).T
        return Points(*columns)

    @property
    def mean(self) -> float | None:
        """Of the finite values."""
        return self.total / self.finite if self.finite else None

    def _settle(self) -> None:
        if self._pending is None:
            return
        update, value = self._pending
        self._pending = None
        place = (update - self._first) * self._bins // self._span
        if place != self._bin:
            self._close_bin()
            self._bin = place
        self._updates += update
        self._count += 1
        if not math.isfinite(value):
            self.not_finite += 1
            return
        self._finite += 1
        self._sum += value
        self._low = min(self._low, value)
        self._high = max(self._high, value)
        self.total += value
        self.finite += 1
        self.last = update, value
        if self.lowest is None or value < self.lowest[1]:
            self.lowest = update, value
        if self.highest is None or value > self.highest[1]:
            self.highest = update, value

    def _open_bin(self) -> None:
        self._updates, self._count, self._finite, self._sum = 0, 0, 0, 0.0
        self._low, self._high = math.inf, -math.inf

    def _close_bin(self) -> None:
        if self._count:
            update = self._updates / self._count
            if self._finite:
                mean = self._sum / self._finite
                self._points.append((update, mean, self._low, self._high, self._finite))
            else:
                self._points.append((update, math.nan, math.nan, math.nan, 0))
        self._open_bin()


def smoothed(points: Points, updates: int) -> Points:
    """value[k] = the mean of the entries at updates in (update[k] − `updates`, update[k]]; the range stays as it is.

    Where a point stands for several entries, all of them count as at its update. A point without a finite value
    stays one.
    """
    weight_K = points.entries_K
    sum_K = np.cumsum(np.where(weight_K > 0, points.value_K, 0.0) * weight_K)
    count_K = np.cumsum(weight_K)
    begin_K = np.searchsorted(points.update_K, points.update_K - updates, side="right")
    before_K = begin_K - 1
    window_sum_K = sum_K - np.where(before_K >= 0, sum_K[before_K], 0.0)
    window_count_K = count_K - np.where(before_K >= 0, count_K[before_K], 0.0)
    value_K = np.full_like(points.value_K, np.nan)
    np.divide(window_sum_K, window_count_K, out=value_K, where=weight_K > 0)
    return Points(points.update_K, value_K, points.low_K, points.high_K, weight_K)
