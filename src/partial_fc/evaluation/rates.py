"""Operating points as metrics and curves of a report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from partial_fc.evaluation.negative_scores import BINS, NegativeScores
from partial_fc.evaluation.roc import OperatingPoint
from partial_fc.evaluation.targets import Curve, Metric, ScoreHistogram

_CURVE_POINTS = 2000
_PLOT_BINS = 256


def far_metrics(points: Sequence[OperatingPoint]) -> list[Metric]:
    """`TAR@FAR=1e-04` and so on."""
    return [far_metric(f"TAR@FAR={point.target_far:.0e}", point) for point in points]


def far_metric(name: str, point: OperatingPoint) -> Metric:
    """A point under a name of its own."""
    details = {"far": point.far, "threshold": point.threshold}
    return Metric(name, point.tar, is_resolved=point.is_resolved, details=details)


def roc_curve(positives_P: np.ndarray, negatives: NegativeScores) -> list[Curve]:
    """TAR over FAR as far as the negatives are known: at the highest ones, evenly on a log axis, or at the bins."""
    positives_P = np.sort(positives_P)
    if negatives.highest is not None:
        last = len(negatives.highest) - 1
        places = np.unique(np.geomspace(1, last + 1, _CURVE_POINTS).astype(np.int64)) - 1
        thresholds = negatives.highest[places]
        above = np.searchsorted(-negatives.highest, -thresholds, side="left")
    else:
        above = np.cumsum(negatives.histogram[::-1])  # of the bins from the top down
        places = np.unique(np.linspace(0, BINS - 1, _CURVE_POINTS).astype(np.int64))
        above = above[places]
        edges = np.float32(1) - (places + 1).astype(np.float32) * np.float32(2 / BINS)
        thresholds = np.nextafter(edges, np.float32(-2))  # a bin holds its lower edge
    accepted = len(positives_P) - np.searchsorted(positives_P, thresholds, side="right")
    fars = np.unique(above)
    last = np.searchsorted(above, fars, side="right") - 1  # the lowest threshold of a FAR has its largest TAR
    return [Curve("roc", fars / negatives.count, accepted[last] / len(positives_P))]


def score_histogram(positives_P: np.ndarray, negatives: NegativeScores) -> ScoreHistogram | None:
    """Both kinds of scores in a few bins, for a plot; None where the negatives were not counted."""
    if negatives.histogram is None:
        return None
    edges = np.linspace(-1, 1, _PLOT_BINS + 1)
    positives_K, _ = np.histogram(np.clip(positives_P, -1, 1), edges)
    return ScoreHistogram(edges, positives_K, negatives.histogram.reshape(_PLOT_BINS, -1).sum(axis=1))
