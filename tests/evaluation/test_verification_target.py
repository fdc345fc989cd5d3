"""Verification sets as targets: from a `.bin`, a folder and a `.rec` the same numbers, and no number from bad input."""

import cv2
import numpy as np
import pytest

from partial_fc.collectives import RankError, SingleProcess, run_thread_ranks
from partial_fc.data.align import align, template
from partial_fc.data.decode import decode
from partial_fc.data.record_writer import RecordWriter
from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.images import load_pixels
from partial_fc.evaluation.registry import KINDS
from partial_fc.evaluation.targets import Settings, parse_target
from partial_fc.evaluation.verification import verify_pairs
from partial_fc.evaluation.verification_set import save_bin
from partial_fc.evaluation.worst_pairs import draw_pairs, worst_pairs

SIZE, PEOPLE = 8, 20


class PixelModel:
    batch_size, image_size, embedding_size = 4, SIZE, SIZE * SIZE * 3

    def embed(self, images_BHWC):
        return images_BHWC.reshape(len(images_BHWC), -1).astype(np.float32) - 127.5


class OtherModel(PixelModel):
    def __init__(self, output):
        self.output = output

    def embed(self, images_BHWC):
        return self.output(super().embed(images_BHWC))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """40 images of 20 people, the second of each a noisy copy of the first; an SLLFW-like list; `.bin` and `.rec`."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(7)
    names, lines, flags, images = [], [], [], {}
    with RecordWriter(folder / "faces.rec", (SIZE, SIZE)) as writer:
        for person in range(PEOPLE):
            base = rng.integers(0, 256, (SIZE, SIZE, 3))
            for image in (1, 2):
                noisy = np.clip(base + rng.normal(size=base.shape) * 90 * (image == 2), 0, 255).astype(np.uint8)
                name = f"P{person}/P{person}_{image:04d}.jpg"
                images[name] = cv2.imencode(".png", noisy)[1].tobytes()
                path = folder / "images" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".png").write_bytes(images[name])
                writer.add(images[name], person)
                names.append(name)
    (folder / "faces.lst").write_text(
        "".join(f"{key}\t{(key - 1) // 2}\t{name}\n" for key, name in enumerate(names, 1))
    )
    for person in range(PEOPLE):
        other = f"P{(person + 1) % PEOPLE}/P{(person + 1) % PEOPLE}_0002.jpg"
        lines += [names[2 * person], names[2 * person + 1], names[2 * person], other]
        flags += [True, False]
    (folder / "pair_SLLFW.txt").write_text("\n".join(lines) + "\n")
    save_bin(folder / "faces.bin", [images[name] for name in lines], flags)
    return folder


def evaluate(text, model=None, settings=None, collectives=None):
    spec = parse_target(text, KINDS)
    target = KINDS[spec.kind].open(spec)
    embedder = Embedder("m", model or PixelModel(), collectives or SingleProcess())
    return target.evaluate(embedder, settings or Settings())


def numbers(result):
    return {metric.name: (metric.value, metric.deviation, metric.is_resolved) for metric in result.metrics}


@pytest.mark.parametrize("flip", [True, False])
def test_every_form_gives_what_the_definition_gives(faces, flip):
    settings = Settings(flip=flip)
    listed = evaluate(f"sllfw={faces}/pair_SLLFW.txt,images={faces}/images", settings=settings)
    in_records = evaluate(f"sllfw={faces}/pair_SLLFW.txt,images={faces}/faces.rec", settings=settings)
    in_bin = evaluate(f"any:pairs={faces}/faces.bin", settings=settings)
    assert numbers(listed) == numbers(in_records) == numbers(in_bin)
    assert listed.counts == {"pairs": 40, "images": 40, "positives": 20, "negatives": 20, "folds": 10}
    assert (in_bin.target, in_bin.kind, listed.target) == ("any", "pairs", "sllfw")
    lines = (faces / "pair_SLLFW.txt").read_text().split()
    pixels = np.array([cv2.imread(str((faces / "images" / line).with_suffix(".png")))[:, :, ::-1] for line in lines])
    views = [PixelModel().embed(pixels), PixelModel().embed(np.ascontiguousarray(pixels[:, :, ::-1]))][: 1 + flip]
    expected = verify_pairs(np.array(views), np.arange(40) % 2 == 0)
    assert numbers(listed)["accuracy"][:2] == (expected.accuracy, expected.accuracy_std)
    assert 0.5 < expected.accuracy < 1, "a set where nothing is at stake shows nothing"
    for point in expected.tar_at_far:
        assert numbers(listed)[f"TAR@FAR={point.target_far:.0e}"][0] == point.tar
    assert numbers(listed)["XNorm"][0] == pytest.approx(expected.xnorm, rel=1e-6)
    assert numbers(listed)["AUC"][0] == pytest.approx(expected.auc)
    assert listed.pictures["worst pairs"].dtype == np.uint8


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_same_on_any_number_of_ranks(faces, ranks):
    text = f"sllfw={faces}/pair_SLLFW.txt,images={faces}/images"
    expected = numbers(evaluate(text))
    for result in run_thread_ranks(ranks, lambda collectives: evaluate(text, collectives=collectives)):
        assert numbers(result) == expected


def test_folds_are_the_lists_own_unless_told(faces, tmp_path):
    folder = tmp_path / "Protocol"
    for name, image in (("F", 1), ("P", 2)):
        path = folder / f"Pair_list_{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{p + 1} ../Data/Images/P{p}/P{p}_{image:04d}.jpg\n" for p in range(PEOPLE)))
    for fold, people in (("01", range(1, 4)), ("02", range(4, 15)), ("03", range(15, 20))):
        split = folder / "Split" / "FP" / fold
        split.mkdir(parents=True)
        (split / "same.txt").write_text("".join(f"{p},{p}\n" for p in people))
        (split / "diff.txt").write_text("".join(f"{p},{p + 1}\n" for p in people))
    text = f"cfp_fp={folder},images={faces}/images"
    own = evaluate(text)
    assert own.counts["folds"] == 3 and len(own.details["fold_accuracies"]) == 3
    assert evaluate(text, settings=Settings(folds=5, keeps_folds=False)).counts["folds"] == 5


def test_images_that_are_not_there_are_told_at_once(faces, tmp_path):
    lines = (faces / "pair_SLLFW.txt").read_text()
    (tmp_path / "list.txt").write_text(lines.replace("_0002.jpg", "_0003.jpg"))
    with pytest.raises(FileNotFoundError, match=r"set: 20 of its 40 images are not there: .*, … and 10 more$"):
        evaluate(f"set:sllfw={tmp_path}/list.txt,images={faces}/images")
    with pytest.raises(FileNotFoundError, match=r"set: 20 of its 40 images are not in .*faces.lst: .*, … and 10 more$"):
        evaluate(f"set:sllfw={tmp_path}/list.txt,images={faces}/faces.rec")
    with pytest.raises(FileNotFoundError, match="not a folder or a .rec"):
        evaluate(f"sllfw={faces}/pair_SLLFW.txt,images={tmp_path}/none")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (lambda e: e * np.nan, "40 of 40 embeddings are zero or not finite: .*P0_0001"),
        (lambda e: e * 0, "40 of 40 embeddings are zero or not finite"),
        (
            lambda e: e[:, :, None],
            r"one embedding an image, \(N, D\), but for 4 images it gave the shape \(4, 192, 1\)",
        ),
        (lambda e: e[:2], r"one embedding an image"),
    ],
)
def test_no_number_from_a_broken_model(faces, output, reason):
    def run(collectives):
        with pytest.raises(RankError, match=reason):
            evaluate(f"sllfw={faces}/pair_SLLFW.txt,images={faces}/images", OtherModel(output), None, collectives)
        return True

    assert run_thread_ranks(2, run) == [True, True]


def test_no_number_from_too_few_pairs(faces, tmp_path):
    (tmp_path / "few.txt").write_text("\n".join((faces / "pair_SLLFW.txt").read_text().splitlines()[:12]) + "\n")
    with pytest.raises(RankError, match="sllfw: there must be 2 folds or more, and a pair for each: not 10 of 6"):
        evaluate(f"sllfw={tmp_path}/few.txt,images={faces}/images")
    settings = Settings(folds=41, keeps_folds=False)
    with pytest.raises(RankError, match="sllfw: there must be 2 folds or more, and a pair for each: not 41 of 40"):
        evaluate(f"sllfw={faces}/pair_SLLFW.txt,images={faces}/images", settings=settings)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lfw", "given as KIND=PATH"),
        ("what=x.bin", "no kind of target 'what': known are agedb30, "),
        ("lfw=a.txt,colour=red", "lfw has no option 'colour': known are images, landmarks"),
        ("lfw=a.txt,images=a,images=b", "must give the option images once"),
        ("lfw={faces}/pair_SLLFW.txt", "a list of pairs needs its images: lfw=.*images=FOLDER"),
        ("lfw={faces}/faces.bin,images={faces}", "a .bin holds its images, and takes no images"),
        ("lfw={faces}/faces.rec,images={faces}", "faces.rec is (not a text file|no list of pairs)"),
        ("lfw={faces}/text.bin", "text.bin is not a pickle of plain values"),
        ("lfw={faces}/one_kind.bin", "lfw: verification needs pairs of both kinds, but all 20 are of two people"),
    ],
)
def test_what_no_target_is(faces, text, reason):
    (faces / "text.bin").write_text("text")
    save_bin(faces / "one_kind.bin", [b"image"] * 40, [False] * 20)
    with pytest.raises(ValueError, match=reason):
        evaluate(text.format(faces=faces))


def test_paths_may_hold_commas_and_names_what_they_like():
    spec = parse_target("R 100:lfw=a,b/c=d.txt,images=e,f/g", KINDS)
    assert (spec.name, spec.kind, str(spec.path), spec.options) == ("R 100", "lfw", "a,b/c=d.txt", {"images": "e,f/g"})


def test_the_worst_pairs_are_the_most_wrong():
    distance_P = np.array([0.1, 3.0, 0.2, 1.0, 2.5])
    is_same_P = np.array([True, True, False, False, False])
    assert worst_pairs(distance_P, is_same_P, 1.5).tolist() == [1, 2, 3, 4, 0]
    assert worst_pairs(distance_P, is_same_P, 1.5, 2).tolist() == [1, 2]
    asked = []

    def load(pair, half):
        asked.append((pair, half))
        return np.full((112, 112, 3), 40 * pair, np.uint8)

    picture_HWC = draw_pairs(np.array([1, 2]), distance_P, is_same_P, load)
    assert asked == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert picture_HWC.shape[2] == 3 and (picture_HWC[20, 20] == 40).all() and (picture_HWC[20, 260] == 80).all()


def test_landmarks_align_the_images(faces, tmp_path):
    names = sorted(set((faces / "pair_SLLFW.txt").read_text().split()))
    rng = np.random.default_rng(0)
    points = {name: template(SIZE) + rng.uniform(-1, 1, (5, 2)) for name in names}
    lines = [" ".join([name, *(f"{value:.4f}" for value in points[name].ravel())]) for name in names]
    (tmp_path / "landmarks.txt").write_text("\n".join(lines) + "\n")
    text = f"sllfw={faces}/pair_SLLFW.txt,images={faces}/images,landmarks={tmp_path}/landmarks.txt"
    spec = parse_target(text, KINDS)
    images = KINDS["sllfw"].open(spec).images
    for index in (0, 7):
        name = (faces / "pair_SLLFW.txt").read_text().split()[0] if index == 0 else None
        encoded = decode(images.read(index))
        expected = align(encoded, images.landmarks_N52[index], SIZE)
        np.testing.assert_array_equal(load_pixels(images, index, SIZE), expected)
        assert name is None or np.allclose(images.landmarks_N52[index], points[name], atol=1e-3)
    assert numbers(evaluate(text)) != numbers(evaluate(text.rpartition(",")[0]))
    (tmp_path / "landmarks.txt").write_text("\n".join(lines[3:]) + "\n")
    with pytest.raises(ValueError, match="lacks the landmarks of 3 of 40 images: "):
        evaluate(text)
