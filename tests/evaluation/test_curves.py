"""ROC, area and equal error rate against what their words say, ties and equal scores included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.evaluation import curves
from partial_fc.evaluation.curves import area_under, equal_error_rate, roc_curve, roc_points, score_histogram

scored_pairs = st.lists(
    st.tuples(st.integers(-3, 3).map(float) | st.floats(-1, 1), st.booleans()), min_size=2, max_size=40
).filter(lambda pairs: len({is_same for _, is_same in pairs}) == 2)


def rates(scores, is_same, threshold):
    accepted = [score > threshold for score in scores]
    false = sum(a and not s for a, s in zip(accepted, is_same, strict=True)) / (len(scores) - sum(is_same))
    true = sum(a and s for a, s in zip(accepted, is_same, strict=True)) / sum(is_same)
    return false, true


def equal_error_by_bisection(points):
    """Walks along the straight pieces of the ROC until the two errors meet."""
    for (far0, tar0), (far1, tar1) in zip(points, points[1:], strict=False):
        if far1 >= 1 - tar1:
            low, high = 0.0, 1.0
            for _ in range(100):
                middle = (low + high) / 2
                far, tar = far0 + middle * (far1 - far0), tar0 + middle * (tar1 - tar0)
                low, high = (low, middle) if far >= 1 - tar else (middle, high)
            return far0 + low * (far1 - far0)
    raise AssertionError("the last point is (1, 1)")


@settings(max_examples=200, deadline=None)
@given(pairs=scored_pairs)
def test_against_every_threshold(pairs):
    scores, is_same = map(list, zip(*pairs, strict=True))
    far_K, tar_K = roc_points(np.array(scores), np.array(is_same))
    points = [(0.0, 0.0)] + [
        rates(scores, is_same, threshold) for threshold in [*sorted(set(scores), reverse=True)[1:], -np.inf]
    ]
    assert list(zip(far_K.tolist(), tar_K.tolist(), strict=True)) == points
    wins = [
        (a > b) + (a == b) / 2
        for a, a_same in pairs if a_same
        for b, b_same in pairs if not b_same
    ]  # fmt: skip
    assert area_under(far_K, tar_K) == pytest.approx(sum(wins) / len(wins), abs=1e-12)
    assert equal_error_rate(far_K, tar_K) == pytest.approx(equal_error_by_bisection(points), abs=1e-9)


def test_by_hand():
    apart = np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False])
    assert (area_under(*roc_points(*apart)), equal_error_rate(*roc_points(*apart))) == (1.0, 0.0)
    reversed_ = -apart[0], apart[1]
    assert (area_under(*roc_points(*reversed_)), equal_error_rate(*roc_points(*reversed_))) == (0.0, 1.0)
    equal = np.zeros(4), apart[1]
    assert (area_under(*roc_points(*equal)), equal_error_rate(*roc_points(*equal))) == (0.5, 0.5)
    mixed = np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])
    assert (area_under(*roc_points(*mixed)), equal_error_rate(*roc_points(*mixed))) == (0.75, 0.5)


@pytest.mark.parametrize("is_same", [np.ones(3, bool), np.zeros(3, bool)])
def test_pairs_of_one_kind_have_no_curve(is_same):
    with pytest.raises(ValueError, match="rates need pairs of both kinds"):
        roc_points(np.arange(3.0), is_same)
    with pytest.raises(ValueError, match="not a number"):
        roc_points(np.array([0.0, np.nan]), np.array([True, False]))


def test_a_curve_loses_no_corner():
    rng = np.random.default_rng(0)
    is_same = rng.random(500) < 0.4
    far_K, tar_K = roc_points(rng.normal(size=500) + is_same, is_same)
    curve = roc_curve(far_K, tar_K)
    assert len(curve.x_K) < len(far_K)
    assert area_under(curve.x_K, curve.y_K) == pytest.approx(area_under(far_K, tar_K), rel=1e-12)


def test_a_long_curve_is_thinned(monkeypatch):
    monkeypatch.setattr(curves, "CURVE_POINTS_AT_MOST", 400)
    rng = np.random.default_rng(0)
    is_same = rng.random(100_000) < 0.5
    far_K, tar_K = roc_points(rng.normal(size=100_000) + is_same, is_same)
    curve = roc_curve(far_K, tar_K)
    assert len(curve.x_K) <= 400
    assert (curve.x_K[0], curve.y_K[0], curve.x_K[-1], curve.y_K[-1]) == (0, 0, 1, 1)
    assert area_under(curve.x_K, curve.y_K) == pytest.approx(area_under(far_K, tar_K), abs=1e-3)
    assert (np.diff(curve.x_K) >= 0).all() and (np.diff(curve.y_K) >= 0).all()


def test_the_histogram_counts_every_pair():
    scores = np.array([-5.0, -0.995, 0.0, 0.999, 7.0])
    histogram = score_histogram(scores, np.array([True, True, False, True, False]), -1, 1)
    assert (histogram.positives_K.sum(), histogram.negatives_K.sum()) == (3, 2)
    assert (histogram.positives_K[0], histogram.positives_K[-1], histogram.negatives_K[-1]) == (2, 1, 1)
