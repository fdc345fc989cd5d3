"""IFRT from a list of groups, and RFW from its folder."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from partial_fc.collectives import run_thread_ranks
from partial_fc.evaluation import ifrt, rfw
from partial_fc.evaluation.ifrt import read_groups
from partial_fc.evaluation.rfw import read_rfw_pairs
from partial_fc.evaluation.targets import Settings, parse_target
from partial_fc.testing_scores import largest_tar, split_pairs

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ijb_miniature import TinyModel, tiny_embedder, write_image  # noqa: E402

KINDS = {**ifrt.KINDS, **rfw.KINDS}
GROUPS = ("African", "Asian", "Indian")


def open_target(text: str):
    spec = parse_target(text, KINDS)
    return KINDS[spec.kind].open(spec)


@pytest.fixture(name="faces", scope="module")
def _faces(tmp_path_factory):
    """Three groups of four people with one to three images, in no order."""
    folder = tmp_path_factory.mktemp("ifrt")
    lines = []
    for place in range(30):
        group, person = place % 3, place % 12
        write_image(folder / "faces" / f"{place} a.png", person // 2, place)  # people that are hard to tell
        lines.append(f"{place} a.png p{person} {GROUPS[group]}\n")
    (folder / "list.txt").write_text("".join(lines))
    return folder


def unit_embedding(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))[None, :, :, ::-1]
    row = (TinyModel().embed(image) + TinyModel().embed(image[:, :, ::-1]))[0].astype(float)
    return row / np.linalg.norm(row)


def test_the_list(faces):
    groups = read_groups(faces / "list.txt")
    assert groups.groups == {"African": slice(0, 10), "Asian": slice(10, 20), "Indian": slice(20, 30)}
    assert len(groups.paths) == 30 and len(set(groups.identity_N.tolist())) == 12
    assert groups.paths[:3] == ["0 a.png", "12 a.png", "24 a.png"]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("histogram", ["yes", "no"])
def test_ifrt(faces, ranks, histogram, monkeypatch):
    monkeypatch.setattr(ifrt, "TARGET_FAR", 0.05)
    rows = [line.rsplit(maxsplit=2) for line in (faces / "list.txt").read_text().splitlines()]
    units = np.stack([unit_embedding(faces / "faces" / path) for path, _, _ in rows])
    expected = {}
    for group in (*GROUPS, "ALL"):
        places = [i for i, row in enumerate(rows) if group in (row[2], "ALL")]
        scores = split_pairs(units[places], [rows[i][1] for i in places])
        expected[group] = largest_tar(*scores, 0.05)[0]
    assert len(set(expected.values())) > 1
    target = open_target(f"ifrt={faces}/list.txt,images={faces}/faces,histogram={histogram}")
    for result in run_thread_ranks(ranks, lambda c: target.evaluate(tiny_embedder(c), Settings())):
        assert {metric.name: metric.value for metric in result.metrics} == expected
        assert result.counts["positives"] + result.counts["negatives"] == 30 * 29 // 2
        assert result.details["Asian"]["positives"] + result.details["Asian"]["negatives"] == 45


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no images"),
        ("a.png p1\n", "line 1: a line is PATH IDENTITY GROUP"),
        ("a p1 G\nb p1 H\n", "identity p1 is in the groups G and H"),
        ("a p1 G\na p1 G\n", "names 1 images twice"),
        ("a p1 G\nb p2 G\n", "group G has no pair of one person among its 2 images"),
        ("a p1 G\nb p1 G\n", "group G has no pair of two people"),
        ("a p1 ALL\nb p1 ALL\n", "a group must not be called ALL"),
    ],
)
def test_bad_lists(tmp_path, text, message):
    (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_groups(tmp_path / "list")


def test_missing_images_are_told_together(faces, tmp_path):
    with pytest.raises(FileNotFoundError, match="30 of its 30 images are not there: .* and 20 more"):
        open_target(f"ifrt={faces}/list.txt,images={tmp_path}")


@pytest.fixture(name="rfw_folder", scope="module")
def _rfw_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rfw")
    for number, group in enumerate(("African", "Asian")):
        pairs = []
        for fold in range(5):
            pairs += [f"m.0{fold}\t1\t2", f"m.0{fold}\t1\tm.0{(fold + 1) % 5}\t2"]
            for image in (1, 2):
                path = folder / "data" / group / f"m.0{fold}" / f"m.0{fold}_{image:04d}.jpg"
                write_image(path, 10 * number + fold, 100 * number + 10 * fold + image)
        path = folder / "txts" / group / f"{group}_pairs.txt"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(pairs) + "\n")
    return folder


@pytest.mark.parametrize("ranks", [1, 2])
def test_rfw(rfw_folder, ranks):
    paths, is_same = read_rfw_pairs(rfw_folder / "txts" / "Asian" / "Asian_pairs.txt", "Asian")
    assert paths[:4] == [f"Asian/m.0{person}/m.0{person}_{image:04d}.jpg" for person, image in
                         ((0, 1), (0, 2), (0, 1), (1, 2))]  # fmt: skip
    assert is_same.tolist() == [True, False] * 5
    target = open_target(f"rfw={rfw_folder}")
    for result in run_thread_ranks(ranks, lambda c: target.evaluate(tiny_embedder(c), Settings(folds=5))):
        found = {metric.name: metric.value for metric in result.metrics}
        assert list(found) == ["African", "Asian", "mean"]
        assert found["mean"] == (found["African"] + found["Asian"]) / 2 > 0.8
        assert result.counts == {"images": 20, "pairs": 20}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a 1 2 3 4", "line 1: a pair is"), ("a 1 2\nb 1 2\n", "2 of its 2 are of one person"), ("", "0 of its 0")],
)
def test_bad_pairs(tmp_path, text, message):
    (tmp_path / "pairs").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rfw_pairs(tmp_path / "pairs", "G")


def test_a_folder_without_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no list of pairs"):
        open_target(f"rfw={tmp_path}")
