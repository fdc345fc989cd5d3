"""IJB-B and IJB-C from a miniature of their folders."""

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from partial_fc.collectives import RankError, run_thread_ranks
from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.ijb import KINDS
from partial_fc.evaluation.ijb_lists import read_images, read_pairs, read_subjects
from partial_fc.evaluation.targets import Settings, parse_target
from partial_fc.testing_scores import largest_tar, largest_tpir, rank_of_mate, template_feature

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ijb_miniature import TinyModel, tiny_embedder, write_ijb  # noqa: E402

SETTINGS = Settings(target_fars=(0.4, 0.1))


def open_target(text: str):
    spec = parse_target(text, KINDS)
    return KINDS[spec.kind].open(spec)


def numbers(result) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


@pytest.fixture(name="ijbc", scope="module")
def _ijbc(tmp_path_factory):
    return write_ijb(tmp_path_factory.mktemp("data") / "IJBC")


def test_the_lists(ijbc):
    meta = ijbc / "meta"
    images = read_images(meta / "ijbc_face_tid_mid.txt", meta / "ijbc_name_5pts_score.txt")
    assert (len(images.name_N), len(set(images.template_N)), len(set(images.media_N))) == (11, 7, 9)
    assert images.landmarks_N52.shape == (11, 5, 2) and images.landmarks_N52[0, 1, 0] == np.float32(96.33)
    assert images.detector_score_N[2] == np.float32(0.6)
    pairs = read_pairs(meta / "ijbc_template_pair_label.txt")
    assert (len(pairs.is_same_P), pairs.is_same_P.sum(), pairs.first_P[-1], pairs.second_P[-1]) == (10, 4, 10, 16)
    gallery = read_subjects(meta / "ijbc_1N_gallery_G2.csv")
    assert (gallery.template_Q.tolist(), gallery.subject_Q.tolist()) == ([11, 12], [8, 9])
    assert read_subjects(meta / "ijbc_1N_probe_mixed.csv").template_Q.tolist() == [13, 14, 15, 16]


def reference_templates(ijbc, flip: bool, feature_norm: bool, detector_score: bool) -> dict[int, np.ndarray]:
    """Template features image by image, from the model and the aligner alone."""
    import cv2

    from partial_fc.data.align import align

    meta = ijbc / "meta"
    images: dict[int, list[tuple[np.ndarray, int]]] = {}
    media = (meta / "ijbc_face_tid_mid.txt").read_text().split("\n")[:-1]
    points = (meta / "ijbc_name_5pts_score.txt").read_text().split("\n")[:-1]
    for line, other in zip(media, points, strict=True):
        name, template, medium = line.split()
        *landmarks, score = map(float, other.split()[1:])
        pixels = cv2.imread(str(ijbc / "loose_crop" / name))[:, :, ::-1]
        face = align(np.ascontiguousarray(pixels), np.array(landmarks, np.float32).reshape(5, 2), 112)
        feature = TinyModel().embed(face[None])[0].astype(float)
        if flip:
            feature = feature + TinyModel().embed(face[None, :, ::-1])[0]
        if not feature_norm:
            feature = feature / np.linalg.norm(feature)
        if detector_score:
            feature = feature * score
        images.setdefault(int(template), []).append((feature, int(medium)))
    return {one: template_feature(*zip(*content, strict=True)) for one, content in images.items()}


@pytest.mark.parametrize("switches", [(True, True, True), (False, False, False), (True, False, True)])
def test_all_numbers_against_loops(ijbc, switches):
    features = reference_templates(ijbc, *switches)
    names = ("flip", "feature_norm", "detector_score")
    text = "".join(f",{name}={'yes' if on else 'no'}" for name, on in zip(names, switches, strict=True))
    result = open_target(f"ijbc={ijbc}{text},insightface=yes").evaluate(tiny_embedder(), SETTINGS)
    found = numbers(result)

    pairs = [line.split() for line in (ijbc / "meta" / "ijbc_template_pair_label.txt").read_text().splitlines()]
    scores = {0: [], 1: []}
    for first, second, label in pairs:
        scores[int(label)].append(float(features[int(first)] @ features[int(second)]))
    for far in (0.4, 0.1):
        assert found[f"TAR@FAR={far:.0e}"] == largest_tar(scores[1], scores[0], far)[0]

    gallery, probes = {10: 7, 11: 8, 12: 9}, {13: 7, 14: 8, 15: 9, 16: 7}
    similarity = np.array([[features[p] @ features[g] for g in gallery] for p in probes])
    mates = [list(gallery.values()).index(subject) for subject in probes.values()]
    ranks = [rank_of_mate(row, mate) for row, mate in zip(similarity, mates, strict=True)]
    assert found["Rank-1"] == np.mean(np.array(ranks) <= 1) and found["Rank-5"] == 1
    for fpir in (0.01, 0.1):
        both = [
            largest_tpir(similarity[:, part], [*probes.values()], subjects, fpir)
            for part, subjects in ((slice(0, 1), [7]), (slice(1, 3), [8, 9]))
        ]
        assert found[f"TPIR@FPIR={fpir}"] == np.mean(both)
        others = np.delete(similarity.ravel(), [3 * p + mate for p, mate in enumerate(mates)])
        threshold = np.sort(others)[::-1][int(np.ceil(4 * fpir)) - 1]
        expected = np.mean([similarity[p, mate] > threshold for p, mate in enumerate(mates)])
        assert found[f"TPIR@FPIR={fpir} (InsightFace)"] == expected
    assert result.counts == {
        "images": 11, "templates": 7, "pairs": 10, "positives": 4, "negatives": 6, "gallery": 3, "probes": 4,
        "mated probes": 4,
    }  # fmt: skip
    assert {curve.kind for curve in result.curves} == {"roc", "cmc"}


def test_the_switches_matter(ijbc):
    with_norm, without = (reference_templates(ijbc, True, norm, False) for norm in (True, False))
    assert abs(with_norm[12] - without[12]).max() > 1e-4


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_give_the_same_numbers(ijbc, ranks):
    alone = open_target(f"ijbc={ijbc}").evaluate(tiny_embedder(), SETTINGS)
    for result in run_thread_ranks(
        ranks, lambda c: open_target(f"ijbc={ijbc}").evaluate(tiny_embedder(c), SETTINGS)
    ):
        assert numbers(result) == numbers(alone)


def test_ijbb_has_galleries_of_other_names(tmp_path):
    target = open_target(f"ijbb={write_ijb(tmp_path / 'IJBB', 'ijbb')},protocol=1:N")
    result = target.evaluate(tiny_embedder(), SETTINGS)
    assert "Rank-1" in numbers(result) and "pairs" not in result.counts


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("face_tid_mid", "8.jpg 14 106\n", "", "has 10 images and ijbc_name_5pts_score.txt 11"),
        ("face_tid_mid", "8.jpg 14", "9.jpg 14", "line 8 is of 9.jpg in .* and of 8.jpg in"),
        ("face_tid_mid", "8.jpg 14 106", "8.jpg 14", "line 8: a line is NAME TEMPLATE MEDIUM"),
        ("face_tid_mid", "14 106", "x 106", "line 8: 'x 106' must be integers"),
        ("face_tid_mid", "4.jpg 11 102", "4.jpg 10 102", "1 templates of ijbc_template_pair_label.txt have no media"),
        ("name_5pts_score", "0.6000", "nan", "line 3: landmarks and scores must be finite"),
        ("template_pair_label", "10 16 1", "10 99 1", "have no media .*: 99"),
        ("template_pair_label", "10 16 1", "10 16 2", "line 10: the label must be 0 or 1, but is 2"),
        ("template_pair_label", "10 16 1", "10 16", "a line is TEMPLATE TEMPLATE LABEL"),
        ("template_pair_label", " 1\n", " 0\n", "0 of its 10 are of one person"),
        ("1N_probe_mixed", "15,9,d", "15,8,d", "template 15 is of subject 8 and of 9"),
        ("1N_probe_mixed", "14,8,b", "77,8,b", "1 templates of ijbc_1N_probe_mixed.csv have no media .*: 77"),
        ("1N_gallery_G2", "11,8", "11,7", "a subject may be enrolled once"),
    ],
)
def test_bad_lists_are_one_sentence_and_no_number(tmp_path, file, old, new, message):
    path = write_ijb(tmp_path / "IJBC") / "meta" / f"ijbc_{file}.txt"
    path = path if path.exists() else path.with_suffix(".csv")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        open_target(f"ijbc={tmp_path / 'IJBC'}")


def test_missing_images_are_told_together(tmp_path):
    ijbc = write_ijb(tmp_path / "IJBC")
    for name in ("3.jpg", "7.jpg"):
        (ijbc / "loose_crop" / name).unlink()
    with pytest.raises(FileNotFoundError, match="2 of its 11 images are not there: .*3.jpg, .*7.jpg"):
        open_target(f"ijbc={ijbc}")


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_bad_embedding_gives_no_number(ijbc, value):
    class Broken(TinyModel):
        def embed(self, images_BHWC):
            embeddings = super().embed(images_BHWC)
            embeddings[1] = value
            return embeddings

    target = open_target(f"ijbc={ijbc}")
    with pytest.raises(RankError):
        run_thread_ranks(2, lambda c: target.evaluate(Embedder("broken", Broken(), c), SETTINGS))


def test_the_histogram_counts_all_pairs(ijbc):
    histogram = open_target(f"ijbc={ijbc}").evaluate(tiny_embedder(), SETTINGS).histogram
    assert (histogram.positives_K.sum(), histogram.negatives_K.sum()) == (4, 6)


@pytest.mark.parametrize(
    ("left_out", "options", "message"),
    [
        ((), ",insightface=yes", None),
        (("16,",), "", None),
        (("13,", "16,"), "", "probes with a mate in a gallery and probes without, but 0 of 2 have one"),
        (("14,", "15,"), "", "probes with a mate in a gallery and probes without, but 2 of 2 have one"),
        (("",), "", "names no template under its line of titles"),
    ],
)
def test_probes_without_numbers_are_found_before_a_model_runs(tmp_path, left_out, options, message):
    path = write_ijb(tmp_path / "IJBC") / "meta" / "ijbc_1N_probe_mixed.csv"
    titles, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([titles, *(line for line in lines if not line.startswith(left_out))]))
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        open_target(f"ijbc={tmp_path / 'IJBC'}{options}")


def test_insightfaces_form_needs_a_mate_for_each_probe(tmp_path):
    path = write_ijb(tmp_path / "IJBC") / "meta" / "ijbc_1N_probe_mixed.csv"
    path.write_text(path.read_text().replace("16,7,e", "16,5,e"))
    open_target(f"ijbc={tmp_path / 'IJBC'}")
    with pytest.raises(ValueError, match="InsightFace's form needs a mate for every probe, but 1 have none"):
        open_target(f"ijbc={tmp_path / 'IJBC'},insightface=yes")
