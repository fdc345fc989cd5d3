"""Thresholds for false-accept rates over more negative scores than memory holds, exact to the last tie.

The threshold for a FAR is the score of the best negative that must be refused: with k = the largest number of false
accepts that the FAR allows, the (k + 1)-th highest. Two ways find it:

- tail: one pass keeps the highest scores; a block costs a comparison with a bound that rises.
- histogram: one pass counts all scores in 65,536 bins, a second collects those of the bins that hold a threshold
  (the form of F²C, arXiv 2105.10375, with the exact count that its bins alone do not give).

A block is any float32 array; entries that are no negative pairs are −inf. Blocks of all ranks together are the scores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from partial_fc.collectives import Collectives, together
from partial_fc.evaluation.roc import OperatingPoint, false_accepts_allowed

TAIL_AT_MOST = 1 << 24
"""Scores that the tail keeps at most, 64 MiB: a FAR of 1e-3 over 10¹⁰ pairs. Beyond, the histogram serves."""

CURVE_SCORES = 1 << 17
"""Scores that the tail keeps in any case, so that a curve can be drawn."""

BINS = 1 << 16
_COLLECTED_AT_ONCE = 1 << 22
_SAMPLE_STRIDE = 61
_FOR_THREADS = 1 << 20

Blocks = Callable[[], Iterable[np.ndarray]]
"""Gives a rank's blocks, the same at each call."""


@dataclass(frozen=True)
class Threshold:
    """For a target FAR: accept scores above `score`; `false_accepts` ≤ `allowed` negatives are above it."""

    target_far: float
    score: float
    false_accepts: int
    allowed: int


@dataclass(frozen=True)
class NegativeScores:
    """What is known of the negatives: `thresholds` in the order asked for, and for plots the highest scores, descending
    (tail), or the counts in `BINS` equal bins of [−1, 1] (histogram); what was not asked for is None."""

    count: int
    thresholds: tuple[Threshold, ...]
    highest: np.ndarray | None = None
    histogram: np.ndarray | None = None


class HighestScores:
    """The `keep` highest of all scores shown to it."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._bound = -np.inf
        self._kept: list[np.ndarray] = []
        self._count = 0

    def add(self, scores: np.ndarray) -> None:
        """Takes a block in. Once `keep` scores are held none at or below the lowest of them can matter."""
        flat = scores.reshape(-1)
        if self._bound == -np.inf and len(flat) > 2 * self._keep:
            self._bound = _bound_by_sample(flat, self._keep)
        for above in _on_threads(lambda part: part[part > self._bound], flat):
            if len(above):
                self._kept.append(above)
                self._count += len(above)
        if self._count > 2 * self._keep + _COLLECTED_AT_ONCE // 4:
            self._shrink()

    def descending(self) -> np.ndarray:
        """The scores held, highest first."""
        self._shrink()
        if not self._kept:
            return np.empty(0, np.float32)
        runs = np.concatenate(_on_threads(np.sort, self._kept[0]))
        runs.sort(kind="stable")  # which merges what is sorted
        return runs[::-1]

    def _shrink(self) -> None:
        if not self._kept:
            return
        scores = np.concatenate(self._kept) if len(self._kept) > 1 else self._kept[0]
        if len(scores) > self._keep:
            scores = np.partition(scores, len(scores) - self._keep)[len(scores) - self._keep :]
            self._bound = scores[0]  # the pivot: none of the others is lower
        self._kept, self._count = [scores], len(scores)


def _on_threads(function: Callable[[np.ndarray], np.ndarray], scores: np.ndarray) -> list[np.ndarray]:
    """`function` of the parts of many scores, one a thread: NumPy lets go of the interpreter. Few are one part."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    if threads == 1 or len(scores) < _FOR_THREADS:
        return [function(scores)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, np.array_split(scores, threads)))


def _bound_by_sample(scores: np.ndarray, keep: int) -> np.float32:
    """A bound with at least `keep` scores above it and, with luck, few more; −inf where the luck fails."""
    sample = scores[:: min(_SAMPLE_STRIDE, max(1, keep // 64))]
    place = len(sample) - 1 - int(1.1 * keep * len(sample) / len(scores) + 16)
    if place < 0:
        return np.float32(-np.inf)
    bound = np.partition(sample, place)[place]
    return bound if np.count_nonzero(scores > bound) >= keep else np.float32(-np.inf)


def negative_scores(
    blocks: Blocks,
    negatives: int,
    target_fars: Sequence[float],
    collectives: Collectives,
    name: str,
    *,
    histogram: bool = False,
) -> NegativeScores:
    """The thresholds for `target_fars` over the `negatives` finite scores of all ranks' blocks, the same on every rank.

    Two object gathers (tail) or four (histogram), of a few MiB.

    Args:
        negatives: how many scores there are in all.
        histogram: take that way whatever the FARs; otherwise the tail serves where its scores fit `TAIL_AT_MOST`.

    Raises:
        ValueError: a FAR outside (0, 1), or no negative.
        RankError: on every rank, for a ValueError or OSError that blocks raise on any.
    """
    if negatives <= 0:
        raise ValueError(f"{name} has no pair of two people: there is no false-accept rate")
    allowed = [false_accepts_allowed(far, negatives) for far in target_fars]
    if histogram or max(allowed) >= TAIL_AT_MOST:
        return _by_histogram(blocks, negatives, target_fars, allowed, collectives, name)
    return _by_tail(blocks, negatives, target_fars, allowed, collectives, name)


def operating_points(positives_P: np.ndarray, negatives: NegativeScores) -> list[OperatingPoint]:
    """TAR at each threshold's FAR; `positives_P` the scores of all pairs of one person.

    Raises:
        ValueError: there is none.
    """
    if len(positives_P) == 0:
        raise ValueError("there is no pair of one person: there is no true-accept rate")
    return [
        OperatingPoint(
            target_far=one.target_far,
            far=one.false_accepts / negatives.count,
            tar=float(np.count_nonzero(positives_P > one.score) / len(positives_P)),
            threshold=one.score,
            is_resolved=one.allowed > 0,
        )
        for one in negatives.thresholds
    ]


def _by_tail(
    blocks: Blocks,
    negatives: int,
    target_fars: Sequence[float],
    allowed: Sequence[int],
    collectives: Collectives,
    name: str,
) -> NegativeScores:
    keep = max(max(allowed) + 1, min(negatives, CURVE_SCORES))
    highest = HighestScores(keep)
    with together(collectives, f"{name}.scores"):  # blocks may come from files
        for block in blocks():
            highest.add(block)
    parts = collectives.gather_objects(highest.descending(), f"{name}.highest")
    scores = parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts))[::-1][:keep]
    assert len(scores) == keep, (len(scores), keep, negatives)
    ascending = scores[::-1]
    found = []
    for far, accepts in zip(target_fars, allowed, strict=True):
        above = keep - int(np.searchsorted(ascending, scores[accepts], side="right"))
        found.append(Threshold(far, float(scores[accepts]), above, accepts))
    return NegativeScores(negatives, tuple(found), highest=scores)


def bins_of(scores: np.ndarray) -> np.ndarray:
    """The bin of each score, uint16: monotone, so that a bin's scores are all above those of a lower one."""
    places = scores * np.float32(BINS / 2)
    places += np.float32(BINS / 2)
    np.clip(places, 0, BINS - 1, out=places)
    return places.astype(np.uint16)


def count_bins(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """How many of the blocks' finite scores are in each bin, (BINS,) int64."""
    counts = np.zeros(BINS, np.int64)
    for block in blocks:
        counts += np.bincount(bins_of(block).reshape(-1), minlength=BINS)
        counts[0] -= np.count_nonzero(np.isneginf(block))  # they were clipped into it
    return counts


def _by_histogram(
    blocks: Blocks,
    negatives: int,
    target_fars: Sequence[float],
    allowed: Sequence[int],
    collectives: Collectives,
    name: str,
) -> NegativeScores:
    own = distinct = None
    with together(collectives, f"{name}.scores"):
        own = count_bins(blocks())
    counts = sum(collectives.gather_objects(own, f"{name}.histogram"))
    assert counts.sum() == negatives, (counts.sum(), negatives)
    at_or_above = np.cumsum(counts[::-1])[::-1]
    # The bin of the (k + 1)-th highest is the last with more than k scores in it and above.
    bins = [int(np.searchsorted(-at_or_above, -accepts, side="left")) - 1 for accepts in allowed]
    with together(collectives, f"{name}.collect"):
        distinct = _collect(blocks(), sorted(set(bins)))
    parts = collectives.gather_objects(distinct, f"{name}.bins")
    scores, times = _merge([part[0] for part in parts], [part[1] for part in parts])
    found = []
    for far, accepts, place in zip(target_fars, allowed, bins, strict=True):
        inside = bins_of(scores) == place
        above_bin = int(at_or_above[place] - counts[place])
        descending, repeats = scores[inside][::-1], times[inside][::-1]
        reached = above_bin + np.cumsum(repeats)
        index = int(np.searchsorted(reached, accepts, side="right"))
        found.append(Threshold(far, float(descending[index]), int(reached[index] - repeats[index]), accepts))
    return NegativeScores(negatives, tuple(found), histogram=counts)


def _collect(blocks: Iterable[np.ndarray], bins: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct finite scores of the given bins, ascending, and how often each is there."""
    wanted = np.zeros(BINS, bool)
    wanted[list(bins)] = True
    scores, times, pending = [], [], 0
    for block in blocks:
        found = block[wanted[bins_of(block)]]
        found = found[found > -np.inf]
        scores.append(found)
        times.append(np.ones(len(found), np.int64))
        pending += len(found)
        if pending > _COLLECTED_AT_ONCE:  # many ties become one entry
            merged = _merge(scores, times)
            scores, times, pending = [merged[0]], [merged[1]], 0
    return _merge(scores, times)


def _merge(scores: Sequence[np.ndarray], times: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if not scores:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    distinct, place = np.unique(np.concatenate(scores), return_inverse=True)
    counts = np.zeros(len(distinct), np.int64)
    np.add.at(counts, place, np.concatenate(times))
    return distinct, counts
