"""The TAR at a FAR is the best of all thresholds that keep to it, ties and all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.evaluation.roc import false_accepts_allowed, tar_at_far


def best_of_all_thresholds(scores, is_same, target_far):
    """Tries every threshold that can make a difference; a pair is accepted when its score is above it."""
    best = 0.0
    for threshold in [-np.inf, *scores]:
        accepted = [score > threshold for score in scores]
        false_accepts = sum(a and not s for a, s in zip(accepted, is_same, strict=True))
        true_accepts = sum(a and s for a, s in zip(accepted, is_same, strict=True))
        if false_accepts / (len(scores) - sum(is_same)) <= target_far:
            best = max(best, true_accepts / sum(is_same))
    return best


# Few values and many ties, or nearly none.
scored_pairs = st.lists(
    st.tuples(st.integers(-3, 3).map(float) | st.floats(-1, 1), st.booleans()), min_size=2, max_size=40
).filter(lambda pairs: len({is_same for _, is_same in pairs}) == 2)


@settings(max_examples=300, deadline=None)
@given(pairs=scored_pairs, target_far=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_against_every_threshold(pairs, target_far):
    scores, is_same = map(list, zip(*pairs, strict=True))
    (point,) = tar_at_far(np.array(scores), np.array(is_same), [target_far])
    assert point.tar == best_of_all_thresholds(scores, is_same, target_far)
    accepted = np.array(scores) > point.threshold
    assert point.tar == accepted[is_same].mean()
    assert point.far == accepted[~np.array(is_same)].mean() <= target_far == point.target_far


def test_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.9, 0.5, 0.5, 0.4])
    is_same = np.array([True, True, True, True, False, False, False, False])
    points = tar_at_far(scores, is_same, [0.1, 0.25, 0.5, 0.75, 0.9])
    # The best negative ties with the best positive; both negatives at 0.5 are accepted, or neither is.
    assert [point.tar for point in points] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert [point.far for point in points] == [0.0, 0.25, 0.25, 0.75, 0.75]
    assert [point.threshold for point in points] == [0.9, 0.5, 0.5, 0.4, 0.4]
    assert [point.is_resolved for point in points] == [False, True, True, True, True]


def test_equal_scores_accept_nothing():
    (point,) = tar_at_far(np.zeros(8), np.arange(8) % 2 == 0, [0.99])
    assert (point.tar, point.far) == (0.0, 0.0)


def test_false_accepts_allowed_is_what_the_division_says():
    for negatives in [1, 3, 7, 100, 1000, 15_658_489]:
        for accepts in {1, 2, 3, negatives // 10, negatives // 3, negatives - 1}:
            if not 0 < accepts < negatives:
                continue
            assert false_accepts_allowed(accepts / negatives, negatives) == accepts
            assert false_accepts_allowed(np.nextafter(accepts / negatives, 0), negatives) == accepts - 1
    assert int(0.29 * 100) == 28 and false_accepts_allowed(0.29, 100) == 29
    assert false_accepts_allowed(1e-6, 999_999) == 0
    assert false_accepts_allowed(1e-6, 1_000_000) == 1


@pytest.mark.parametrize("target_far", [0, 1, -0.1, 1.5, float("nan")])
def test_a_rate_outside_its_range_is_refused(target_far):
    with pytest.raises(ValueError, match="between 0 and 1"):
        tar_at_far(np.array([0.0, 1.0]), np.array([False, True]), [target_far])


def test_what_has_no_rates_is_refused():
    with pytest.raises(ValueError, match="0 pairs are of one person and 3 of two"):
        tar_at_far(np.zeros(3), np.zeros(3, bool), [0.1])
    with pytest.raises(ValueError, match="3 pairs are of one person and 0 of two"):
        tar_at_far(np.zeros(3), np.ones(3, bool), [0.1])
    for position in range(2):
        scores = np.zeros(2)
        scores[position] = np.nan
        with pytest.raises(ValueError, match="not a number"):
            tar_at_far(scores, np.array([False, True]), [0.1])
