"""All pairs, listed pairs and distractors in tiles, against every pair on its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.collectives import SingleProcess, run_thread_ranks
from partial_fc.evaluation.all_pairs import all_pairs
from partial_fc.evaluation.distractor_search import search_distractors
from partial_fc.evaluation.pair_scores import PairPlan, pair_scores
from partial_fc.evaluation.score_blocks import normalize_rows, score_tiles, tiles_of, upper_tiles
from partial_fc.testing_scores import largest_tar, megaface_rank_1, split_pairs

FARS = (0.3, 0.01)


def whole_numbers(seed: int, rows: int, most: int = 2) -> np.ndarray:
    """Rows whose products float32 holds exactly, with many ties."""
    return np.random.default_rng(seed).integers(-most, most + 1, (rows, 5)).astype(np.float32) / 8


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    identities=st.lists(st.integers(0, 5), min_size=5, max_size=31).filter(
        lambda i: len(set(i)) > 1 and len(set(i)) < len(i)
    ),
    tile=st.sampled_from([3, 7, 64]),
    ranks=st.sampled_from([1, 2, 4]),
    histogram=st.booleans(),
)
def test_all_pairs(seed, identities, tile, ranks, histogram):
    rows, identity_N = whole_numbers(seed, len(identities)), np.array(identities)
    positives, negatives = split_pairs(rows, identities)
    for result in run_thread_ranks(
        ranks, lambda c: all_pairs(rows, identity_N, FARS, c, "x", histogram=histogram, tile=tile)
    ):
        assert [(p.tar, p.far) for p in result.points] == [largest_tar(positives, negatives, far) for far in FARS]
        assert result.positives_P.tolist() == sorted(positives)
        assert result.negatives.count == len(negatives)


def test_all_embeddings_equal():
    result = all_pairs(np.full((9, 4), 0.5, np.float32), np.arange(9) // 3, [0.5], SingleProcess(), "x")
    assert (result.points[0].tar, result.points[0].far) == (0, 0)


@pytest.mark.parametrize("identities", [[0, 0, 0], [0, 1, 2]])
def test_pairs_of_one_kind_give_no_number(identities):
    with pytest.raises(ValueError, match="x: rates need pairs of both kinds"):
        all_pairs(np.eye(3, dtype=np.float32), np.array(identities), [0.1], SingleProcess(), "x")


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("tile", [4, 16, 100])
def test_listed_pairs(ranks, tile):
    rng = np.random.default_rng(3)
    rows = whole_numbers(4, 61)
    first, second = rng.integers(0, 40, 500), rng.integers(20, 61, 500)
    plan = PairPlan(61, first, second, tile=tile)
    assert sorted(plan.order_P.tolist()) == list(range(500))
    for scores in run_thread_ranks(ranks, lambda c: pair_scores(rows, plan, c, "x")):
        assert scores.dtype == np.float32
        assert scores.tolist() == [float(rows[first[p]] @ rows[second[p]]) for p in plan.order_P]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("histogram", [False, True])
@pytest.mark.parametrize(("seed", "most"), [(0, 2), (1, 1), (2, 0)])
def test_distractors(ranks, histogram, seed, most):
    """The last case: all features are equal, and nobody is found."""
    probes, distractors = whole_numbers(seed, 13, most), whole_numbers(seed + 50, 37, most)
    probes[:9] += 0.5  # some mates are found
    identities = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5])
    positives, _ = split_pairs(probes, identities)
    negatives = (probes @ distractors.T).ravel().tolist()
    for result in run_thread_ranks(
        ranks,
        lambda c: search_distractors(
            probes, identities, distractors.__getitem__, 37, FARS, c, "x", histogram=histogram, tile=5
        ),
    ):
        assert result.rank_1 == megaface_rank_1(probes, identities, distractors)
        assert [(p.tar, p.far) for p in result.points] == [largest_tar(positives, negatives, far) for far in FARS]
        assert (result.searches, result.negatives.count) == (20, 13 * 37)


def test_tiles_cover_each_score_once():
    seen = np.zeros((11, 17), int)
    for rows, columns in tiles_of(11, 17, size=4):
        seen[rows, columns] += 1
    assert (seen == 1).all()
    upper = np.zeros((11, 11), int)
    for rows, columns in upper_tiles(11, size=4):
        upper[rows, columns] += 1
    assert (upper[np.triu_indices(11, 1)] == 1).all() and upper.max() == 1


def test_scores_are_products():
    left, right = whole_numbers(5, 9), whole_numbers(6, 7)
    for (rows, columns), scores in score_tiles(left, right, tiles_of(9, 7, size=4)):
        assert (scores == left[rows] @ right[columns].T).all()


def test_rows_without_a_direction_are_named():
    rows = np.ones((6, 3), np.float32)
    rows[2], rows[4, 1] = 0, np.nan
    with pytest.raises(ValueError, match=r"2 of 6 templates of X are zero or not finite .*the first: 2, 4"):
        normalize_rows(rows, "templates of X")
    rows = normalize_rows(np.full((5, 2), 3, np.float32), "x")
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)
