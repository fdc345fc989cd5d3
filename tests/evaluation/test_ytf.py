"""YouTube Faces: pairs of videos judged by all their frames, against loops over frames and pairs of frames."""

import cv2
import numpy as np
import pytest

from partial_fc.collectives import SingleProcess, run_thread_ranks
from partial_fc.evaluation import ytf
from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.registry import KINDS
from partial_fc.evaluation.targets import Settings, parse_target
from partial_fc.evaluation.verification import verify_distances
from partial_fc.evaluation.ytf import read_splits, video_distances, video_means

SIZE, FOLDS = 6, 3


class PixelModel:
    batch_size, image_size, embedding_size = 4, SIZE, SIZE * SIZE * 3

    def embed(self, images_BHWC):
        return images_BHWC.reshape(len(images_BHWC), -1).astype(np.float32) - 127.5


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of 12 people, of 1 to 4 frames, and a split list in the official form."""
    folder = tmp_path_factory.mktemp("ytf")
    rng = np.random.default_rng(0)
    for person in range(12):
        base = rng.integers(0, 256, (SIZE, SIZE, 3))
        for video in (0, 1):
            for frame in range(1 + (person + video) % 4):
                noisy = np.clip(base + rng.normal(size=base.shape) * 110, 0, 255).astype(np.uint8)
                path = folder / "images" / f"Name_{person}" / str(video) / f"aligned_detect_{video}.{9 + frame}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(cv2.imencode(".png", noisy)[1].tobytes())
    lines = ["split number, pair number, first name, second name, is same"]
    for person in range(12):
        fold = 1 + person % FOLDS
        lines.append(f"{fold}, {person}, Name_{person}/0, Name_{person}/1, 1")
        lines.append(f"{fold}, {person}, Name_{person}/1, Name_{(person + 1) % 12}/0, 0")
    (folder / "splits.txt").write_text("\n".join(lines) + "\n")
    return folder


def evaluate(text, settings=None, collectives=None):
    spec = parse_target(text, KINDS)
    embedder = Embedder("m", PixelModel(), collectives or SingleProcess())
    return KINDS[spec.kind].open(spec).evaluate(embedder, settings or Settings())


def values(result):
    return {metric.name: (metric.value, metric.deviation) for metric in result.metrics}


def frame_units(folder, video, flip):
    units = []
    for path in sorted((folder / "images" / video).iterdir(), key=lambda path: int(path.stem.rpartition(".")[2])):
        pixels = cv2.imread(str(path))[:, :, ::-1].astype(float) - 127.5
        total = pixels.ravel() + (pixels[:, ::-1].ravel() if flip else 0)
        units.append(total / np.sqrt((total**2).sum()))
    return units


def distance(first, second, mean_over):
    if mean_over == "pairs":
        return np.mean([((x - y) ** 2).sum() for x in first for y in second])
    means = [sum(units) / len(units) for units in (first, second)]
    means = [mean / np.sqrt((mean**2).sum()) for mean in means]
    return ((means[0] - means[1]) ** 2).sum()


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("mean_over", ["frames", "pairs"])
@pytest.mark.parametrize("frames_at_once", [1, 7, 1000])
def test_against_loops(videos, monkeypatch, flip, mean_over, frames_at_once):
    monkeypatch.setattr(ytf, "FRAMES_AT_ONCE", frames_at_once)
    result = evaluate(f"ytf={videos}/splits.txt,images={videos}/images,mean={mean_over}", Settings(flip=flip))
    pairs = read_splits(videos / "splits.txt")
    units = {video: frame_units(videos, video, flip) for video in pairs.paths}
    named = zip(pairs.paths[0::2], pairs.paths[1::2], strict=True)
    distance_P = np.array([distance(units[one], units[two], mean_over) for one, two in named])
    expected = verify_distances(distance_P, pairs.is_same, xnorm=1.0, folds=pairs.fold_P)
    assert values(result)["accuracy"] == (pytest.approx(expected.accuracy), pytest.approx(expected.accuracy_std))
    assert 0.5 < expected.accuracy < 1, "a set where nothing is at stake shows nothing"
    assert values(result)["AUC"][0] == pytest.approx(expected.auc)
    frames = sum(1 + (person + video) % 4 for person in range(12) for video in (0, 1))
    assert result.counts == {
        "pairs": 24, "videos": 24, "images": frames, "positives": 12, "negatives": 12, "folds": FOLDS
    }  # fmt: skip


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_same_on_any_number_of_ranks(videos, ranks):
    text = f"ytf={videos}/splits.txt,images={videos}/images"
    expected = values(evaluate(text))
    for result in run_thread_ranks(ranks, lambda collectives: evaluate(text, None, collectives)):
        assert values(result) == expected


def test_the_two_means_by_hand():
    embeddings_VFD = np.array([[[3, 0], [0, 2], [5, 0]]], np.float32)
    means_WD = video_means(embeddings_VFD, [2, 1])
    np.testing.assert_allclose(means_WD, [[0.5, 0.5], [1, 0]])
    pair = np.array([0, 1])
    np.testing.assert_allclose(video_distances(means_WD, pair, "pairs"), [(0 + 2) / 2])
    np.testing.assert_allclose(video_distances(means_WD, pair, "frames"), [2 - np.sqrt(2)])


def test_the_corrected_list_has_a_column_more(tmp_path):
    path = tmp_path / "splits_corrected.txt"
    path.write_text(
        "split number, pair number, first name, second name, is same, corrected\n"
        "2, 1, A/0, A/1, 1, 0\n"
        "1, 1, B/0, B/2, 1, 1\n"
    )
    pairs = read_splits(path)
    assert pairs.paths == ["B/0", "B/2", "A/0", "A/1"], "fold after fold"
    assert (pairs.is_same.tolist(), pairs.fold_P.tolist()) == ([True, False], [1, 2])


def test_fewer_frames_are_evenly_spread(videos):
    result = evaluate(f"ytf={videos}/splits.txt,images={videos}/images,frames=1")
    assert result.counts["images"] == 24
    frames = ytf._frames_of(videos / "images" / "Name_3" / "0", 2)
    assert [path.name for path in frames] == ["aligned_detect_0.9.jpg", "aligned_detect_0.12.jpg"], "by number"


@pytest.mark.parametrize(
    ("change", "options", "error", "reason"),
    [
        (
            ("/1,", "/7,"),
            "",
            FileNotFoundError,
            r"ytf: 12 of its 24 videos have no frames in .*Name_0/7, .* and 2 more",
        ),
        (("1, 0, Name_0/0", "x, 0, Name_0/0"), "", ValueError, "line 2 must be `split, pair, NAME/VIDEO"),
        (("Name_0/0, Name_0/1, 1", "Name_0/0, Name_0/1, 3"), "", ValueError, "line 2 must be"),
        ((", 1\n", ", 0\n"), "", ValueError, "all 24 are of two people"),
        (("", ""), ",mean=median", ValueError, "mean must be one of frames, pairs, not 'median'"),
        (("", ""), ",frames=some", ValueError, "frames must be a whole number"),
    ],
)
def test_bad_input(videos, tmp_path, change, options, error, reason):
    (tmp_path / "splits.txt").write_text((videos / "splits.txt").read_text().replace(*change))
    with pytest.raises(error, match=reason):
        evaluate(f"ytf={tmp_path}/splits.txt,images={videos}/images{options}")


def test_the_folder_of_videos_is_needed(videos):
    with pytest.raises(FileNotFoundError, match="ytf needs the folder of its videos"):
        evaluate(f"ytf={videos}/splits.txt")
