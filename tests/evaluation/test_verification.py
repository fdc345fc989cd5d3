"""Verification keeps to InsightFace's protocol, and the exact search finds what any search could."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.collectives import RankError, SingleProcess, run_thread_ranks
from partial_fc.evaluation.roc import tar_at_far
from partial_fc.evaluation.verification import (
    INSIGHTFACE_THRESHOLDS,
    kfold_accuracy,
    most_accurate_threshold,
    verify_pairs,
    verify_set,
)
from partial_fc.evaluation.verification_set import VerificationSet


def accuracy_at(threshold, distances, is_same):
    right = [(distance < threshold) == same for distance, same in zip(distances, is_same, strict=True)]
    return sum(right) / len(right)


def insightface_folds(distances, is_same, folds):
    """The protocol as its words say, a pair and a threshold at a time."""
    pairs = len(distances)
    sizes = [pairs // folds + (fold < pairs % folds) for fold in range(folds)]
    accuracies, thresholds, start = [], [], 0
    for size in sizes:
        test = list(range(start, start + size))
        train = [i for i in range(pairs) if i not in test]
        best_threshold, best_accuracy = None, -1.0
        for step in range(400):
            threshold = np.arange(0, 4, 0.01)[step]
            accuracy = accuracy_at(threshold, [distances[i] for i in train], [is_same[i] for i in train])
            if accuracy > best_accuracy:
                best_threshold, best_accuracy = threshold, accuracy
        accuracy = accuracy_at(best_threshold, [distances[i] for i in test], [is_same[i] for i in test])
        accuracies.append(accuracy)
        thresholds.append(best_threshold)
        start += size
    return accuracies, thresholds


# Distances on the grid's own points too, where `<` and `≤` differ.
distances_and_kinds = st.lists(
    st.tuples(st.sampled_from(INSIGHTFACE_THRESHOLDS[::40].tolist()) | st.floats(0, 4), st.booleans()),
    min_size=7,
    max_size=31,
)


@settings(max_examples=40, deadline=None)
@given(pairs=distances_and_kinds, folds=st.integers(2, 7))
def test_folds_against_the_words_of_the_protocol(pairs, folds):
    distances, is_same = map(list, zip(*pairs, strict=True))
    accuracy_K, threshold_K = kfold_accuracy(np.array(distances), np.array(is_same), folds=folds)
    expected_accuracies, expected_thresholds = insightface_folds(distances, is_same, folds)
    assert accuracy_K.tolist() == expected_accuracies
    assert threshold_K.tolist() == expected_thresholds


@settings(max_examples=200, deadline=None)
@given(pairs=distances_and_kinds)
def test_exact_search_is_as_good_as_any_threshold(pairs):
    distances, is_same = map(np.array, zip(*pairs, strict=True))
    best = max(accuracy_at(t, distances, is_same) for t in [0.0, *np.nextafter(distances, 5)])
    threshold = most_accurate_threshold(distances, is_same, None)
    assert accuracy_at(threshold, distances, is_same) == best


def test_exact_search_parts_neighbouring_floats():
    low = 1.0
    high = np.nextafter(low, 2)
    threshold = most_accurate_threshold(np.array([low, high]), np.array([True, False]), None)
    assert low < threshold <= high


def test_exact_thresholds_do_not_see_their_fold():
    """A fold's own distances may not move the threshold that it is judged by."""
    rng = np.random.default_rng(0)
    distance_P, is_same_P = rng.uniform(0, 4, 60), rng.random(60) < 0.5
    _, before = kfold_accuracy(distance_P, is_same_P, folds=6, thresholds=None)
    distance_P[10:20] = rng.uniform(0, 4, 10)
    _, after = kfold_accuracy(distance_P, is_same_P, folds=6, thresholds=None)
    assert before[1] == after[1]
    assert (before != after).any()


def random_pairs(pairs, views=2, size=16, seed=0):
    """Embeddings where pairs of one person are near, of norms far from 1."""
    rng = np.random.default_rng(seed)
    is_same_P = rng.random(pairs) < 0.5
    people = rng.normal(size=(2 * pairs, size))
    people[1::2][is_same_P] = people[0::2][is_same_P]
    noise = rng.normal(size=(views, 2 * pairs, size))
    return (5 * (people + 0.9 * noise)).astype(np.float32), is_same_P


@pytest.mark.parametrize("views", [1, 2])
def test_verify_pairs_against_the_definition(views):
    embeddings_VND, is_same_P = random_pairs(123, views)
    result = verify_pairs(embeddings_VND, is_same_P, folds=10, target_fars=[0.1, 0.3])
    distances, norms = [], []
    for pair in range(123):
        unit = []
        for image in (2 * pair, 2 * pair + 1):
            total = sum(embeddings_VND[view, image].astype(float) for view in range(views))
            unit.append(total / np.sqrt(sum(x * x for x in total)))
            norms += [np.linalg.norm(embeddings_VND[view, image]) for view in range(views)]
        distances.append(sum((a - b) ** 2 for a, b in zip(*unit, strict=True)))
    accuracies, thresholds = insightface_folds(distances, is_same_P.tolist(), 10)
    assert result.pairs == 123
    assert result.fold_accuracies == tuple(accuracies)
    assert result.fold_thresholds == tuple(thresholds)
    assert result.accuracy == pytest.approx(sum(accuracies) / 10, rel=1e-12)
    deviation = np.sqrt(sum((a - result.accuracy) ** 2 for a in accuracies) / 10)
    assert result.accuracy_std == pytest.approx(deviation, rel=1e-12)
    assert 0.6 < result.accuracy < 1, "a set where nothing is at stake shows nothing"
    best = max(accuracy_at(t, distances, is_same_P) for t in INSIGHTFACE_THRESHOLDS)
    assert accuracy_at(result.best_threshold, distances, is_same_P) == best
    assert result.xnorm == pytest.approx(sum(norms) / len(norms), rel=1e-6)
    points = tar_at_far(-np.array(distances), is_same_P, [0.1, 0.3])
    assert [(p.far, p.tar) for p in result.tar_at_far] == [(p.far, p.tar) for p in points]


def test_scale_changes_the_norm_alone():
    embeddings_VND, is_same_P = random_pairs(50)
    result, scaled = verify_pairs(embeddings_VND, is_same_P), verify_pairs(4 * embeddings_VND, is_same_P)
    assert scaled.xnorm == pytest.approx(4 * result.xnorm, rel=1e-6)
    assert scaled.fold_accuracies == result.fold_accuracies
    assert scaled.tar_at_far == result.tar_at_far


@pytest.mark.parametrize("thresholds", [INSIGHTFACE_THRESHOLDS, None])
def test_equal_embeddings_tell_nothing(thresholds):
    is_same_P = np.arange(40) % 4 == 0
    result = verify_pairs(np.ones((1, 80, 8), np.float32), is_same_P, thresholds=thresholds)
    assert result.accuracy == pytest.approx(0.75)  # "two people" for every pair
    assert [point.tar for point in result.tar_at_far] == [0.0] * 6


def test_a_collapsed_model_needs_the_exact_search():
    """Embeddings that differ by less than the grid's first step: the grid sees them all as equal."""
    embeddings_VND, is_same_P = random_pairs(200)
    embeddings_VND += 2000
    grid = verify_pairs(embeddings_VND, is_same_P)
    exact = verify_pairs(embeddings_VND, is_same_P, thresholds=None)
    assert grid.accuracy < 0.6 < 0.7 < exact.accuracy


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e, s: (e, s, 31), "not 31 of 30 pairs"),
        (lambda e, s: (e, s, 1), "2 folds or more"),
        (lambda e, s: (e, np.ones_like(s), 10), "all 30 are of one person"),
        (lambda e, s: (e, np.zeros_like(s), 10), "all 30 are of two people"),
        (lambda e, s: (e[:, :-2], s, 10), "30 pairs need embeddings"),
        (lambda e, s: (e[0], s, 10), "30 pairs need embeddings"),
        (lambda e, s: (np.where(np.arange(60)[:, None] == 7, np.nan, e), s, 10), r"1 of 60 .*the first: 7\)"),
        (lambda e, s: (np.where(np.arange(60)[:, None] == 8, np.inf, e), s, 10), r"1 of 60 .*the first: 8\)"),
        (lambda e, s: (e * 0, s, 10), "60 of 60 embeddings are zero"),
    ],
)
def test_no_number_from_what_has_none(change, reason):
    embeddings_VND, is_same_P, folds = change(*random_pairs(30))
    with pytest.raises(ValueError, match=reason):
        verify_pairs(embeddings_VND, is_same_P, folds=folds)


def pixel_set(pairs=9, size=8):
    """PNG noise; pairs of one person repeat an image with its left half changed."""
    rng = np.random.default_rng(5)
    images, is_same = [], []
    for pair in range(pairs):
        first = rng.integers(0, 256, (size, size, 3), np.uint8)
        second = rng.integers(0, 256, (size, size, 3), np.uint8)
        is_same.append(pair % 3 != 0)
        if is_same[-1]:
            second[:, size // 2 :] = first[:, size // 2 :]
        images += [cv2.imencode(".png", image)[1].tobytes() for image in (first, second)]
    images[2] = images[0]
    return VerificationSet("pixels", images, np.array(is_same))


def embed_pixels(images_BHWC):
    return images_BHWC.reshape(len(images_BHWC), -1).astype(np.float32) - 127.5


@pytest.mark.parametrize("flip", [True, False])
def test_verify_set_is_the_same_on_any_number_of_ranks(flip):
    def run(collectives, embed=embed_pixels):
        return verify_set(
            pixel_set(), embed, image_size=8, batch_size=4, collectives=collectives, flip=flip, folds=3
        )

    expected = run(SingleProcess())
    pixels = [cv2.imdecode(np.frombuffer(i, np.uint8), 1)[:, :, ::-1] for i in pixel_set().images]
    views = [embed_pixels(np.array(pixels)), embed_pixels(np.array(pixels)[:, :, ::-1])][: 1 + flip]
    assert expected == verify_pairs(np.array(views), pixel_set().is_same, folds=3)
    for ranks in (2, 3, 7):
        assert run_thread_ranks(ranks, run) == [expected] * ranks

    with pytest.raises(RankError, match="pixels: 18 of 18 embeddings are zero"):
        run_thread_ranks(2, lambda collectives: run(collectives, lambda images: 0 * embed_pixels(images)))
