"""MegaFace from feature files and from images: the kit's lists and InsightFace's, noises, both forms."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from partial_fc.collectives import RankError, run_thread_ranks
from partial_fc.evaluation.megaface import KINDS
from partial_fc.evaluation.megaface_files import read_face_list, read_feature, read_noises, write_feature
from partial_fc.evaluation.targets import Settings, parse_target
from partial_fc.testing_scores import largest_tar, megaface_rank_1, split_pairs

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ijb_miniature import TinyModel, tiny_embedder, write_image  # noqa: E402

PROBES = [f"{name}/{name}_{number}.png" for name in ("Ann_Lee", "Bo_Ek", "Cy_Ray") for number in (1, 2, 3)]
DISTRACTORS = [f"{100 + i // 4}/{i}@N01/{i}_0.jpg" for i in range(21)]


def open_target(text: str):
    spec = parse_target(text, KINDS)
    return KINDS[spec.kind].open(spec)


def numbers(result) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(name="features")
def _features(tmp_path):
    """A folder of feature files with lists in the kit's form, and the features."""
    rng = np.random.default_rng(0)
    centers = np.repeat(rng.standard_normal((3, 6)), 3, axis=0)
    probes = (centers + rng.standard_normal((9, 6))).astype(np.float32)
    distractors = rng.standard_normal((21, 6)).astype(np.float32)
    for folder, paths, rows in (("facescrub", PROBES, probes), ("megaface", DISTRACTORS, distractors)):
        for path, row in zip(paths, rows, strict=True):
            write_feature(tmp_path / folder / f"{path}_r5.bin", row)
    identities = [path.split("/")[0] for path in PROBES]
    (tmp_path / "probes.json").write_text(json.dumps({"path": PROBES, "id": identities}))
    (tmp_path / "distractors.json_21_1").write_text(json.dumps({"path": DISTRACTORS}))
    (tmp_path / "facescrub_noises.txt").write_text("#noisy\nBo_Ek_2.png\nnot_there_1.png\n")
    (tmp_path / "megaface_noises.txt").write_text(f"# noisy\n3\t{DISTRACTORS[4]}\n{DISTRACTORS[20]}\n")
    return tmp_path, unit(probes.astype(float)), unit(distractors.astype(float))


def target_text(folder: Path, *more: str) -> str:
    lists = f"probes={folder}/probes.json,distractors={folder}/distractors.json_21_1"
    return ",".join([f"megaface={folder}", "suffix=_r5.bin", lists, *more])


NOISES = "probe_noises={0}/facescrub_noises.txt,distractor_noises={0}/megaface_noises.txt"


def test_a_feature_file_is_an_opencv_matrix(tmp_path):
    path = tmp_path / "a.bin"
    for header in ((3, 1, 4, 5), (1, 3, 12, 5)):
        path.write_bytes(struct.pack("<4i3f", *header, 1.5, -2, 0.25))
        assert read_feature(path).tolist() == [1.5, -2, 0.25]
    write_feature(path, np.array([1.5, -2, 0.25]))
    assert path.read_bytes() == struct.pack("<4i3f", 3, 1, 4, 5, 1.5, -2, 0.25)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has 0 bytes"),
        (struct.pack("<4i3d", 3, 1, 8, 6, 1, 2, 3), "its header must be .* but is 3, 1, 8, 6"),
        (struct.pack("<4i4f", 2, 2, 8, 5, 1, 2, 3, 4), "its header must be .* but is 2, 2, 8, 5"),
        (struct.pack("<4i2f", 3, 1, 4, 5, 1, 2), "3 numbers need 28 bytes, not 24"),
        (struct.pack("<4i", -1, 1, 4, 5), "its header must be"),
    ],
)
def test_what_is_no_feature_file(tmp_path, data, message):
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_feature(tmp_path / "a.bin")


def test_lists(tmp_path):
    (tmp_path / "lst").write_text("./data/facescrub_images/Ann_Lee/Ann_Lee_1.png\n./data/facescrub_images/B/B_2.png\n")
    faces = read_face_list(tmp_path / "lst", with_identities=True)
    assert (faces.paths, faces.identities) == (["Ann_Lee/Ann_Lee_1.png", "B/B_2.png"], ["Ann_Lee", "B"])
    (tmp_path / "lst").write_text("./data/megaface_images/1/2@N/3_0.jpg\n")
    assert read_face_list(tmp_path / "lst", with_identities=False).paths == ["1/2@N/3_0.jpg"]
    (tmp_path / "noises").write_text("# a\nA_1.png\n7\t1/2/3.jpg\n\n")
    assert read_noises(tmp_path / "noises") == {"A_1.png", "1/2/3.jpg"}


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("histogram", ["yes", "no"])
def test_feature_files(features, ranks, histogram):
    folder, probes, distractors = features
    identities = [path.split("/")[0] for path in PROBES]
    positives, _ = split_pairs(probes, identities)
    target = open_target(target_text(folder, f"histogram={histogram}"))
    for result in run_thread_ranks(ranks, lambda c: target.evaluate(tiny_embedder(c), Settings())):
        assert numbers(result) == {
            "Rank-1": megaface_rank_1(probes, identities, distractors),
            "TAR@FAR=1e-06": largest_tar(positives, (probes @ distractors.T).ravel(), 1e-6)[0],
        }
        assert 0 < numbers(result)["Rank-1"] < 1
        assert (result.counts["searches"], result.counts["positives"], result.counts["negatives"]) == (18, 9, 189)
        assert not result.metrics[1].is_resolved and (result.histogram is not None) == (histogram == "yes")


def test_noises_are_removed(features):
    folder, probes, distractors = features
    result = open_target(target_text(folder, NOISES.format(folder))).evaluate(tiny_embedder(), Settings())
    kept, others = np.delete(probes, 4, axis=0), np.delete(distractors, [4, 20], axis=0)
    identities = [path.split("/")[0] for path in PROBES if path != PROBES[4]]
    assert numbers(result)["Rank-1"] == megaface_rank_1(kept, identities, others)
    assert (result.counts["noisy probes"], result.counts["noisy distractors"], result.counts["probes"]) == (1, 2, 8)


@pytest.mark.parametrize("ranks", [1, 2])
def test_insightface_replaces_a_noisy_probe(features, ranks):
    folder, probes, distractors = features
    (folder / "facescrub" / f"{PROBES[4]}_r5.bin").unlink()  # it is not needed
    target = open_target(target_text(folder, NOISES.format(folder), "noises=insightface"))
    replaced = probes.copy()
    replaced[4] = (probes[3] + probes[5]) / np.linalg.norm(probes[3] + probes[5])
    expected = megaface_rank_1(
        replaced, [path.split("/")[0] for path in PROBES], np.delete(distractors, [4, 20], axis=0)
    )
    for result in run_thread_ranks(ranks, lambda c: target.evaluate(tiny_embedder(c), Settings())):
        assert result.counts["probes"] == 9
        assert numbers(result)["Rank-1"] == expected
        (curve,) = result.curves
        assert curve.y_K[-1] == 1


def test_from_images(tmp_path):
    import cv2

    for place, path in enumerate(PROBES):
        write_image(tmp_path / "facescrub_images" / path, place // 3, place)
    for place, path in enumerate(DISTRACTORS):
        write_image(tmp_path / "megaface_images" / path, 50 + place, 100 + place)
    (tmp_path / "facescrub_lst").write_text("".join(f"data/facescrub_images/{path}\n" for path in PROBES))
    (tmp_path / "megaface_lst").write_text("".join(f"data/megaface_images/{path}\n" for path in DISTRACTORS))
    result = open_target(f"megaface={tmp_path}").evaluate(tiny_embedder(), Settings())

    def embed(folder: str, paths: list[str]) -> np.ndarray:
        images = np.stack([cv2.imread(str(tmp_path / folder / path))[:, :, ::-1] for path in paths])
        model = TinyModel()
        return unit((model.embed(images) + model.embed(images[:, :, ::-1])).astype(float))

    probes, distractors = embed("facescrub_images", PROBES), embed("megaface_images", DISTRACTORS)
    expected = megaface_rank_1(probes, [path.split("/")[0] for path in PROBES], distractors)
    assert numbers(result)["Rank-1"] == expected > 0


def test_what_is_missing_is_told_together(features):
    folder, *_ = features
    (folder / "facescrub" / f"{PROBES[1]}_r5.bin").unlink()
    (folder / "megaface" / f"{DISTRACTORS[2]}_r5.bin").unlink()
    with pytest.raises(FileNotFoundError, match="2 of its 30 images are not there"):
        open_target(target_text(folder))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (np.full(6, np.nan), "rank 0: 1 of 21 distractors of megaface after the first 0 are zero or not finite"),
        (np.zeros(6), "zero or not finite"),
        (np.ones(5), "has 5 numbers, but the features before it have 6"),
    ],
)
def test_a_bad_distractor_ends_all_ranks(features, row, message):
    folder, *_ = features
    write_feature(folder / "megaface" / f"{DISTRACTORS[3]}_r5.bin", row)
    with pytest.raises(RankError, match=message):
        run_thread_ranks(2, lambda c: open_target(target_text(folder)).evaluate(tiny_embedder(c), Settings()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("probes.json", '{"path": ["a/b"], "id": []', "is not JSON"),
        ("probes.json", '{"path": ["a/b"], "id": ["a", "b"]}', "has 1 paths, but 2 identities"),
        ("probes.json", '{"path": ["a/b", "c/d"], "id": ["a", "c"]}', "no two probes are of one person"),
        ("probes.json", '{"path": ["a/b", "a/b"], "id": ["a", "a"]}', "names 1 faces twice"),
        ("distractors.json_21_1", '{"paths": ["a"]}', "must hold a list of strings `path`"),
        ("distractors.json_21_1", '{"path": []}', "names no face"),
        ("facescrub_noises.txt", "Bo_Ek_1.png\nBo_Ek_2.png\nBo_Ek_3.png", "all probes of 1 people are noises"),
    ],
)
def test_bad_lists(features, name, content, message):
    folder, *_ = features
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        open_target(target_text(folder, NOISES.format(folder), "noises=insightface"))
