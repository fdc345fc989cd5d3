"""Thresholds over streams of negative scores, against every threshold tried."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.collectives import RankError, SingleProcess, run_thread_ranks
from partial_fc.evaluation import negative_scores as module
from partial_fc.evaluation.negative_scores import HighestScores, bins_of, negative_scores, operating_points
from partial_fc.evaluation.rates import roc_curve, score_histogram
from partial_fc.testing_scores import largest_tar

FARS = (0.5, 0.1, 0.03, 0.001)

few_scores = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.1, 0.10001, 0.3, 0.9, 1.0, 1.25]), min_size=1, max_size=40)
any_scores = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(few_scores | any_scores, few_scores | any_scores, st.booleans(), st.sampled_from([1, 2, 3]))
def test_rates_are_those_of_every_threshold_tried(positives, negatives, histogram, ranks):
    shares = np.array_split(np.array(negatives, np.float32), 5)

    def rates(collectives):
        own = shares[collectives.rank :: collectives.size]
        blocks = [np.r_[share, np.float32(-np.inf)] for share in own]
        found = negative_scores(lambda: blocks, len(negatives), FARS, collectives, "x", histogram=histogram)
        return operating_points(np.array(positives, np.float32), found)

    expected = [largest_tar(np.float32(positives), np.float32(negatives), far) for far in FARS]
    for points in run_thread_ranks(ranks, rates):
        assert [(point.tar, point.far) for point in points] == expected


@pytest.mark.parametrize("histogram", [False, True])
def test_all_equal_scores_accept_nobody(histogram):
    blocks = [np.full((30, 40), 0.25, np.float32)] * 3
    found = negative_scores(lambda: blocks, 3600, [0.1], SingleProcess(), "x", histogram=histogram)
    (point,) = operating_points(np.full(7, 0.25, np.float32), found)
    assert (point.tar, point.far, point.threshold, point.is_resolved) == (0, 0, 0.25, True)


def test_both_ways_agree_on_many_scores(monkeypatch):
    monkeypatch.setattr(module, "_COLLECTED_AT_ONCE", 1000)
    rng = np.random.default_rng(0)
    blocks = [np.tanh(rng.standard_normal((50, 60))).astype(np.float32).round(3) for _ in range(20)]
    scores = np.concatenate([block.ravel() for block in blocks])
    positives = rng.random(333).astype(np.float32)
    tail, histogram = (
        negative_scores(lambda: blocks, scores.size, FARS, SingleProcess(), "x", histogram=way) for way in (False, True)
    )
    assert tail.thresholds == histogram.thresholds
    for one in tail.thresholds:
        assert one.false_accepts == np.count_nonzero(scores > np.float32(one.score)) <= one.allowed
        assert one.score == np.sort(scores)[::-1][one.allowed]
    assert histogram.histogram.sum() == score_histogram(positives, histogram).negatives_K.sum() == scores.size
    for known in (tail, histogram):
        (curve,) = roc_curve(positives, known)
        assert (np.diff(curve.x_K) > 0).all() and (np.diff(curve.y_K) >= 0).all()
        for far, tar in list(zip(curve.x_K, curve.y_K, strict=True))[:: len(curve.x_K) // 7]:
            accepts = round(far * scores.size)
            refused = np.sort(scores)[::-1][accepts] if far < 1 else -np.inf
            accepted = np.sort(scores)[::-1][accepts - 1] if far > 0 else np.inf
            assert np.mean(positives >= accepted) <= tar <= np.mean(positives > refused)
            assert known is histogram or tar == np.mean(positives > refused)


def test_many_false_accepts_go_by_histogram(monkeypatch):
    monkeypatch.setattr(module, "TAIL_AT_MOST", 10)
    scores = np.arange(100, dtype=np.float32) / 100
    found = negative_scores(lambda: [scores], 100, [0.2, 0.01], SingleProcess(), "x")
    assert found.highest is None and [one.false_accepts for one in found.thresholds] == [20, 1]


def test_the_highest_scores_are_kept():
    rng = np.random.default_rng(1)
    highest = HighestScores(17)
    blocks = [rng.standard_normal((1000, 1500)).astype(np.float32) for _ in range(3)]
    for block in blocks:
        highest.add(block)
    everything = np.sort(np.concatenate([block.ravel() for block in blocks]))[::-1]
    assert (highest.descending() == everything[:17]).all()


def test_bins_are_monotone_and_hold_what_lies_outside():
    scores = np.sort(np.random.default_rng(2).uniform(-1.1, 1.1, 10000).astype(np.float32))
    assert (np.diff(bins_of(scores).astype(int)) >= 0).all()
    assert bins_of(np.array([-3, -1, 1, 3], np.float32)).tolist() == [0, 0, 65535, 65535]


@pytest.mark.parametrize("histogram", [False, True])
def test_a_block_that_one_rank_cannot_read_ends_all(histogram):
    def rates(collectives):
        def blocks():
            yield np.zeros(5, np.float32)
            if collectives.rank == 1:
                raise OSError("a file is gone")

        return negative_scores(blocks, 10, [0.1], collectives, "x", histogram=histogram)

    with pytest.raises(RankError, match="rank 1: a file is gone"):
        run_thread_ranks(2, rates)


def test_no_negatives_or_no_positives_give_no_number():
    with pytest.raises(ValueError, match="no pair of two people"):
        negative_scores(list, 0, [0.1], SingleProcess(), "x")
    found = negative_scores(lambda: [np.zeros(3, np.float32)], 3, [0.1], SingleProcess(), "x")
    with pytest.raises(ValueError, match="no pair of one person"):
        operating_points(np.empty(0), found)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_highest_scores_on_threads(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(module, "_FOR_THREADS", 10)
    scores = np.random.default_rng(3).integers(-50, 50, 1003).astype(np.float32)
    scores[::7] = -np.inf
    highest = HighestScores(205)
    for block in np.array_split(scores, 4):
        highest.add(block)
    assert highest.descending().tolist() == sorted(scores.tolist(), reverse=True)[:205]
