"""True-accept rates at false-accept rates.

A pair's score is high when its two images are alike. A threshold t accepts the pairs whose score is above t:

    TAR(t) = |{positive pairs: score > t}| / |positive pairs|
    FAR(t) = |{negative pairs: score > t}| / |negative pairs|

The TAR at a target FAR is the largest TAR(t) whose FAR(t) does not exceed the target. Pairs of equal scores
are accepted or refused together, so nothing depends on their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OperatingPoint:
    """The threshold for a target FAR, and what it gives: `far` ≤ `target_far`, rates in [0, 1].

    `is_resolved` is False when there are fewer than 1/target_far negatives: the point then is that of no
    false accept, and more negatives could move it.
    """

    target_far: float
    far: float
    tar: float
    threshold: float
    is_resolved: bool


def tar_at_far(
    scores_P: np.ndarray, is_same_P: np.ndarray, target_fars: Sequence[float]
) -> list[OperatingPoint]:
    """An `OperatingPoint` for each of `target_fars`, from the scores of P pairs; higher is more alike.

    Raises:
        ValueError: a target outside (0, 1), a score that is NaN, or no positive or no negative pair.
    """
    positives = np.sort(scores_P[is_same_P])
    negatives = np.sort(scores_P[~is_same_P])
    if len(positives) == 0 or len(negatives) == 0:
        raise ValueError(
            f"rates need pairs of both kinds, but {len(positives)} pairs are of one person "
            f"and {len(negatives)} of two"
        )
    if np.isnan(positives[-1]) or np.isnan(negatives[-1]):  # NaN sorts last
        raise ValueError("a score is not a number")
    points = []
    for target_far in target_fars:
        accepts = false_accepts_allowed(target_far, len(negatives))
        threshold = negatives[len(negatives) - 1 - accepts]  # the best negative that must be refused
        points.append(
            OperatingPoint(
                target_far=target_far,
                far=_count_above(negatives, threshold) / len(negatives),
                tar=_count_above(positives, threshold) / len(positives),
                threshold=float(threshold),
                is_resolved=accepts > 0,
            )
        )
    return points


def false_accepts_allowed(target_far: float, negatives: int) -> int:
    """The largest k with k / negatives ≤ target_far, by that very division: 0.29 of 100 is 29, not 28."""
    if not 0 < target_far < 1:
        raise ValueError(f"a false-accept rate must lie between 0 and 1, but is {target_far}")
    accepts = int(target_far * negatives) + 1
    while accepts / negatives > target_far:
        accepts -= 1
    return accepts


def _count_above(ascending: np.ndarray, threshold: float) -> int:
    return len(ascending) - int(np.searchsorted(ascending, threshold, side="right"))
