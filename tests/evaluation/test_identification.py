"""1:N search and template features, against loops over probes and media."""

import math

import numpy as np
import pytest

from partial_fc.collectives import SingleProcess, run_thread_ranks
from partial_fc.evaluation import identification, templates
from partial_fc.evaluation.identification import find_mates, insightface_tpir, rank_rates, search, tpir_at_fpir
from partial_fc.evaluation.templates import template_features, weigh_images
from partial_fc.testing_scores import largest_tpir, rank_of_mate, template_feature

PARTS = [slice(0, 6), slice(6, 13)]


def problem(seed: int, most: int = 2):
    """Probes of 13 enrolled subjects and of two that are not enrolled, as rows with exact products and ties."""
    rng = np.random.default_rng(seed)
    gallery = rng.integers(-most, most + 1, (13, 6)).astype(np.float32) / 8
    subjects = rng.permutation(100)[:13]
    probe_subjects = np.r_[rng.choice(subjects, 40), 900, 901]
    mates = find_mates(probe_subjects, subjects)
    probes = (gallery[mates] + rng.integers(-most, most + 1, (42, 6)) / 8).astype(np.float32)
    return probes, probe_subjects, gallery, subjects, mates


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(("seed", "most"), [(0, 2), (1, 1), (2, 0)])
def test_search(ranks, seed, most, monkeypatch):
    monkeypatch.setattr(identification, "TILE", 8)  # 4 probes at a time
    probes, probe_subjects, gallery, subjects, mates = problem(seed, most)
    scores = probes @ gallery.T
    mated = [p for p in range(42) if mates[p] >= 0]
    expected_ranks = [rank_of_mate(scores[p], mates[p]) for p in mated]
    for result in run_thread_ranks(
        ranks, lambda c: search(probes, gallery, mates, PARTS, c, "x", others=30)
    ):
        assert result.rank_P[mated].tolist() == expected_ranks
        assert rank_rates(result, [1, 5, 10]) == [np.mean(np.array(expected_ranks) <= k) for k in (1, 5, 10)]
        points = tpir_at_fpir(result, PARTS, [0.01, 0.1, 0.5])
        for part, of_gallery in zip(PARTS, points, strict=True):
            for point, fpir in zip(of_gallery, (0.01, 0.1, 0.5), strict=True):
                assert point.tar == largest_tpir(scores[:, part], probe_subjects, subjects[part], fpir)
                assert point.far <= fpir
        others = [scores[p, g] for p in range(42) for g in range(13) if mates[p] != g]
        assert result.highest_others.tolist() == sorted(others, reverse=True)[:30]


def test_insightface_form():
    probes, _, gallery, _, mates = problem(4)
    probes, mates = probes[:40], mates[:40]
    result = search(probes, gallery, mates, PARTS, SingleProcess(), "x", others=4)
    scores = probes @ gallery.T
    others = sorted((scores[p, g] for p in range(40) for g in range(13) if mates[p] != g), reverse=True)
    for target in (0.01, 0.1):
        threshold = others[math.ceil(40 * target) - 1]
        assert insightface_tpir(result, target) == np.mean([scores[p, mates[p]] > threshold for p in range(40)])


def test_what_has_no_number():
    with pytest.raises(ValueError, match="a subject may be enrolled once"):
        find_mates(np.array([1]), np.array([3, 1, 3]))
    probes, _, gallery, _, mates = problem(5)
    result = search(probes, gallery, mates, PARTS, SingleProcess(), "x", others=9)
    with pytest.raises(ValueError, match="a mate for every probe, but 2 have none"):
        insightface_tpir(result, 0.1)
    with pytest.raises(ValueError, match="probes with a mate in a gallery and probes without"):
        tpir_at_fpir(search(probes[:9], gallery, np.full(9, 1), PARTS, SingleProcess(), "x"), PARTS, [0.1])
    with pytest.raises(ValueError, match="no probe has a mate"):
        rank_rates(search(probes[:9], gallery, np.full(9, -1), PARTS, SingleProcess(), "x"), [1])


@pytest.mark.parametrize("rows_at_once", [1, 3, 1000])
def test_templates(rows_at_once, monkeypatch):
    monkeypatch.setattr(templates, "_ROWS_AT_ONCE", rows_at_once)
    rng = np.random.default_rng(6)
    features = rng.standard_normal((57, 4)).astype(np.float32)
    template, media = rng.integers(0, 11, 57) * 7, rng.integers(0, 4, 57)
    known, found = template_features(features, template, media, "x")
    assert known.tolist() == sorted(set(template.tolist()))
    for number, feature in zip(known, found, strict=True):
        of_it = template == number
        assert feature == pytest.approx(template_feature(features[of_it].astype(float), media[of_it]), abs=1e-6)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("feature_norm", [True, False])
@pytest.mark.parametrize("detector_score", [True, False])
def test_the_three_switches(flip, feature_norm, detector_score):
    rng = np.random.default_rng(7)
    views = rng.standard_normal((2 if flip else 1, 5, 3)).astype(np.float32)
    score = rng.random(5)
    expected = []
    for image in range(5):
        feature = views[0, image] + views[1, image] if flip else views[0, image]
        if not feature_norm:
            feature = feature / np.linalg.norm(feature)
        expected.append(feature * score[image] if detector_score else feature)
    weighed = weigh_images(views, score, feature_norm=feature_norm, detector_score=detector_score)
    assert weighed == pytest.approx(np.array(expected), abs=1e-6)


def test_templates_without_a_direction():
    with pytest.raises(ValueError, match="1 of 2 templates of x are zero"):
        template_features(np.array([[1.0], [1], [-1]], np.float32), np.array([1, 2, 2]), np.arange(3), "x")
    with pytest.raises(ValueError, match="3 features need a template and a medium each, but there are 2 and 3"):
        template_features(np.ones((3, 1), np.float32), np.arange(2), np.arange(3), "x")
    with pytest.raises(ValueError, match="3 images need a detector score each, but there are 2"):
        weigh_images(np.ones((1, 3, 2), np.float32), np.ones(2), feature_norm=True, detector_score=True)
