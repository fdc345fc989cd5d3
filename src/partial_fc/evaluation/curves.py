"""The whole of a ROC: its points, the area under it, the rate at which both errors are equal, score histograms.

P pairs with scores, higher for more alike; K points of a curve. A threshold t accepts scores above t, as in `roc`.
"""

from __future__ import annotations

import numpy as np

from partial_fc.evaluation.targets import CURVE_POINTS_AT_MOST, Curve, ScoreHistogram

HISTOGRAM_BINS = 100


def roc_points(scores_P: np.ndarray, is_same_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`far_K` and `tar_K`, float64 and ascending, of every way that a threshold can part the pairs.

    From (0, 0) to (1, 1); pairs of equal scores are accepted together, so K is one more than the distinct scores.

    Raises:
        ValueError: a score is NaN, or there is no positive or no negative pair.
    """
    if np.isnan(scores_P).any():
        raise ValueError("a score is not a number")
    positives, negatives = int(is_same_P.sum()), int((~is_same_P).sum())
    if positives == 0 or negatives == 0:
        raise ValueError(
            f"rates need pairs of both kinds, but {positives} pairs are of one person and {negatives} of two"
        )
    order = np.argsort(-scores_P, kind="stable")
    true_accepts, false_accepts = np.cumsum(is_same_P[order]), np.cumsum(~is_same_P[order])
    descending = scores_P[order]
    last_of_equals = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
    far_K = np.append(0, false_accepts[last_of_equals]) / negatives
    tar_K = np.append(0, true_accepts[last_of_equals]) / positives
    return far_K, tar_K


def area_under(far_K: np.ndarray, tar_K: np.ndarray) -> float:
    """∫ TAR dFAR by trapezoids: the chance that a positive pair's score is above a negative's, ties counted half."""
    return float(np.sum(np.diff(far_K) * (tar_K[1:] + tar_K[:-1]) / 2))


def equal_error_rate(far_K: np.ndarray, tar_K: np.ndarray) -> float:
    """FAR = 1 − TAR where the ROC, straight between its points, meets that line."""
    excess_K = far_K - (1 - tar_K)  # from −1 to 1, never falling
    after = int(np.argmax(excess_K >= 0))
    before = after - 1
    share = -excess_K[before] / (excess_K[after] - excess_K[before])
    return float(far_K[before] + share * (far_K[after] - far_K[before]))


def roc_curve(far_K: np.ndarray, tar_K: np.ndarray) -> Curve:
    """The ROC for a plot: without the points on straight lines, and thinned where there are still too many."""
    corners = _corners(far_K, tar_K)
    if len(corners) > CURVE_POINTS_AT_MOST:
        # Even steps along both axes: on FAR's logarithm, which the plot has, and on TAR.
        wanted = CURVE_POINTS_AT_MOST // 2
        smallest = far_K[far_K > 0][0]
        by_far = np.searchsorted(far_K[corners], np.geomspace(smallest, 1, wanted)).clip(max=len(corners) - 1)
        by_tar = np.searchsorted(tar_K[corners], np.linspace(0, 1, wanted - 2)).clip(max=len(corners) - 1)
        corners = corners[np.unique(np.concatenate([[0], by_far, by_tar, [len(corners) - 1]]))]
    return Curve("roc", far_K[corners], tar_K[corners])


def score_histogram(scores_P: np.ndarray, is_same_P: np.ndarray, low: float, high: float) -> ScoreHistogram:
    """Positives and negatives in equal bins from `low` to `high`; scores beyond go into the outermost bins."""
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    inside_P = np.clip(scores_P, low, high)
    return ScoreHistogram(edges, *(np.histogram(inside_P[kind], edges)[0] for kind in (is_same_P, ~is_same_P)))


def _corners(far_K: np.ndarray, tar_K: np.ndarray) -> np.ndarray:
    """Which points the line turns at, its ends included."""
    step_far, step_tar = np.diff(far_K), np.diff(tar_K)
    turns = step_far[1:] * step_tar[:-1] != step_far[:-1] * step_tar[1:]
    return np.flatnonzero(np.concatenate([[True], turns, [True]]))
