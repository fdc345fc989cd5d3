"""stats, bin, split, subset, relabel."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from partial_fc.data.identities import IdentityIndex
from partial_fc.data.open_source import open_source
from partial_fc.data.pairs import draw_pairs, read_pairs
from partial_fc.data.record_writer import RecordWriter
from partial_fc.data.statistics import histogram, measure
from partial_fc.evaluation.verification_set import load_bin

from .conftest import Run, contents, files_below, jpeg


def test_stats(folder: Path, tmp_path: Path, run: Run) -> None:
    (folder / "e" / "4.jpg").write_bytes(jpeg(44, (40, 24)))
    status, out, err = run("stats", folder, "--output", tmp_path / "s", "--rows", 3, "--columns", 4)
    assert (status, err) == (0, "")
    assert "15 images of 5 identities" in out and "24×24 (14), 24×40 (1)" in out
    assert "images an identity: least 1, median 3, mean 3, most 5" in out
    numbers = json.loads((tmp_path / "s" / "stats.json").read_text())
    assert [row["identities"] for row in numbers["histogram"]] == [1, 2, 2]
    sheet = cv2.imread(str(tmp_path / "s" / "contact_sheet.png"))
    assert sheet.shape == (3 * 112, 4 * 112, 3)
    assert cv2.imread(str(tmp_path / "s" / "histogram.png")).std() > 10
    status, _, err = run("stats", folder, "--output", tmp_path / "s")
    assert status == 2 and "histogram.png is there already" in err
    before = files_below(tmp_path / "s")
    status, _, err = run("stats", folder, "--output", tmp_path / "t", "--columns", 10**9)
    assert status == 2 and "--rows × --columns must be at most 10000 images, got 12 × 1000000000" in err
    assert run("stats", folder, "--output", tmp_path / "s", "--rows", 3, "--columns", 4, "--overwrite")[0] == 0
    assert files_below(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("counts", "rows"),
    [
        ([1], [(1, 1, 1)]),
        ([0, 3, 4], [(0, 0, 1), (1, 1, 0), (2, 3, 1), (4, 7, 1)]),
        ([1, 1, 7, 8], [(1, 1, 2), (2, 3, 0), (4, 7, 1), (8, 15, 1)]),
    ],
)
def test_the_histogram_counts_every_identity_once(counts: list[int], rows: list[tuple[int, int, int]]) -> None:
    assert histogram(np.array(counts)) == rows


def test_bin_from_plain_lines(folder: Path, tmp_path: Path, run: Run) -> None:
    (folder / "a b").mkdir()
    (folder / "a b" / "x y.jpg").write_bytes(jpeg(77))
    pairs = tmp_path / "pairs.txt"
    pairs.write_bytes(b"\r\na/0.jpg b/0 0\r\n  \nc/0.jpg\tc/1.jpg\t1\na b/x y.jpg\ta b/x y\t1\r\n")
    status, out, err = run("bin", pairs, folder, tmp_path / "v.bin")
    assert (status, err) == (0, "") and "3 pairs, 2 of one person, 5 images" in out
    found = load_bin(tmp_path / "v.bin")
    names = ["a/0.jpg", "b/0.png", "c/0.jpg", "c/1.jpg", "a b/x y.jpg", "a b/x y.jpg"]
    assert found.images == [(folder / name).read_bytes() for name in names]
    assert found.is_same.tolist() == [False, True, True]
    status, _, err = run("bin", pairs, folder, tmp_path / "v.bin")
    assert status == 2 and "v.bin is there already" in err


def test_bin_from_records_by_number_and_by_list(folder: Path, tmp_path: Path, run: Run) -> None:
    assert run("pack", folder, tmp_path / "x.rec")[0] == 0
    images = [image for image, _ in contents(folder)]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("1 2 0\n4 5 1\n")
    assert run("bin", pairs, tmp_path / "x.rec", tmp_path / "v.bin")[0] == 0
    assert load_bin(tmp_path / "v.bin").images == [images[0], images[1], images[3], images[4]]
    (tmp_path / "x.lst").write_text("1\t0\ta/0.jpg\n4\t2\tc/0.jpg\n")
    pairs.write_text("a/0 c/0.jpg 0\n")
    assert run("bin", pairs, tmp_path / "x.rec", tmp_path / "v.bin", "--overwrite")[0] == 0
    assert load_bin(tmp_path / "v.bin").images == [images[0], images[3]]
    pairs.write_text("a/0 z/0 0\na/0 z/1 1\n")
    status, _, err = run("bin", pairs, tmp_path / "x.rec", tmp_path / "v.bin", "--overwrite")
    assert status == 2 and "has no image z/0 and 1 others: its images are called as 1" in err


def test_bin_of_lfw_has_its_pairs(shared_data: Path, tmp_path: Path, run: Run) -> None:
    """The first 20 pairs of each kind of View 2, in InsightFace's own alignment."""
    lines = (shared_data / "lfw" / "view2_pairs.txt").read_text().splitlines()
    (tmp_path / "pairs.txt").write_text("\n".join(["1\t20", *lines[1:21], *lines[301:321]]))
    wanted = {name for pair in read_pairs(tmp_path / "pairs.txt") for name in pair[:2]}
    with tarfile.open(shared_data / "lfw" / "view2_images.tar") as tar:
        members = [member for member in tar if member.name.removeprefix("./").removesuffix(".jpg") in wanted]
        for member in members:
            path = tmp_path / "faces" / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
    status, out, err = run("bin", tmp_path / "pairs.txt", tmp_path / "faces", tmp_path / "lfw.bin")
    assert (status, err) == (0, "") and "40 pairs, 20 of one person" in out
    found = load_bin(tmp_path / "lfw.bin")
    assert found.is_same.tolist() == [True] * 20 + [False] * 20
    first = tmp_path / "faces" / "Abel_Pacheco"
    assert found.images[:2] == [(first / f"Abel_Pacheco_000{n}.jpg").read_bytes() for n in (1, 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10 300\nA 1 2\nA 1\n", "line 3 is not `name n n` or `name n name n`"),
        ("10\nA x 2\n", "line 2 is not `name n n`"),
        ("a b 2\n", "line 1 is not `path path 0/1`"),
        ("a b c d\n", "line 1 is not `path path 0/1`"),
        ("\n \r\n", "names no pair"),
        ("10 300\n", "names no pair"),
    ],
)
def test_lines_that_are_no_pair(tmp_path: Path, run: Run, folder: Path, text: str, message: str) -> None:
    (tmp_path / "p").write_text(text)
    status, _, err = run("bin", tmp_path / "p", folder, tmp_path / "v.bin")
    assert status == 2 and message in err and not (tmp_path / "v.bin").exists()


def test_bin_of_an_image_that_does_not_decode(tmp_path: Path, run: Run, folder: Path) -> None:
    (folder / "a" / "0.jpg").write_bytes(b"none")
    (tmp_path / "p").write_text("a/0 b/1 0\n")
    status, _, err = run("bin", tmp_path / "p", folder, tmp_path / "v.bin")
    assert status == 2 and "a/0.jpg is neither JPEG nor PNG" in err and not (tmp_path / "v.bin").exists()


def test_bin_names_an_image_without_landmarks(tmp_path: Path, run: Run, folder: Path) -> None:
    (tmp_path / "p").write_text("a/0 b/1 0\n")
    (tmp_path / "landmarks").write_text("a/0.jpg 8 10 15 10 12 15 9 19 15 19\n")
    status, _, err = run("bin", tmp_path / "p", folder, tmp_path / "v.bin", "--align", tmp_path / "landmarks")
    assert status == 2 and f"error: {folder}/b/1.jpg has no landmarks in" in err and not (tmp_path / "v.bin").exists()


def test_split(folder: Path, tmp_path: Path, run: Run) -> None:
    options = ["--held-out", 2, "--pairs", 4, "--folds", 2, "--seed", 4]
    status, out, err = run("split", folder, tmp_path / "s", *options)
    assert (status, err) == (0, "")
    train, held_out = contents(tmp_path / "s" / "train"), contents(tmp_path / "s" / "held_out")
    assert sorted(image for image, _ in train + held_out) == sorted(image for image, _ in contents(folder))
    assert ({label for _, label in train}, {label for _, label in held_out}) == ({0, 1, 2}, {0, 1})
    label_of = dict(held_out)
    pairs = load_bin(tmp_path / "s" / "val.bin")
    same = [label_of[pairs.images[2 * i]] == label_of[pairs.images[2 * i + 1]] for i in range(4)]
    assert same == pairs.is_same.tolist() == [True, False, True, False]
    lines = [line.split("\t") for line in (tmp_path / "s" / "identities.txt").read_text().splitlines()]
    assert sorted(name for *_, name in lines) == list("abcde")
    assert all("abcde"[int(old)] == name for _, _, old, name in lines)
    before = files_below(tmp_path / "s")
    status, _, err = run("split", folder, tmp_path / "s", *options)
    assert status == 2 and "is there already" in err
    assert run("split", folder, tmp_path / "s", *options, "--overwrite")[0] == 0
    assert files_below(tmp_path / "s") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "s"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--held-out", 2, "--pairs", 6000], "have "),
        (["--held-out", 2, "--pairs", 7], "--pairs must be a multiple of 20"),
        (["--held-out", 5, "--pairs", 20], "--held-out must be a share in (0, 1) or a whole number below the 5"),
        (["--held-out", 0.01, "--pairs", 20], "--held-out must be"),
        (["--held-out", 2.5, "--pairs", 20], "--held-out must be"),
        (["--held-out", "inf", "--pairs", 20], "--held-out must be"),
        (["--held-out", "nan", "--pairs", 20], "--held-out must be"),
        (["--folds", 0], "--folds must be at least 1, got 0"),
    ],
)
def test_splits_that_cannot_be(folder: Path, tmp_path: Path, run: Run, options: list, message: str) -> None:
    status, _, err = run("split", folder, tmp_path / "s", *options)
    assert status == 2 and message in err and not (tmp_path / "s").exists()


def test_all_pairs_of_one_person_can_be_drawn() -> None:
    labels = np.repeat(np.arange(4), [1, 2, 9, 3])
    index = IdentityIndex(labels, 4)
    drawn = list(draw_pairs(index, np.arange(4), pairs=80, folds=1, seed=1))
    assert [is_same for _, _, is_same in drawn] == [True] * 40 + [False] * 40
    assert all((labels[one] == labels[other]) == is_same for one, other, is_same in drawn)
    assert len({pair[:2] for pair in drawn}) == 80
    with pytest.raises(ValueError, match="have 40 pairs of one person and 65 of two, and --pairs 82 asks for 41"):
        list(draw_pairs(index, np.arange(4), pairs=82, folds=1, seed=1))


def test_subset_and_relabel(folder: Path, tmp_path: Path, run: Run) -> None:
    names, everything = tmp_path / "names.txt", contents(folder)
    names.write_bytes(b"\r\ne\r\nb\tremark\n\nd")
    assert run("subset", folder, tmp_path / "1.lmdb", "--identities", names, "--most-images", 3)[0] == 0
    first_of = {label: [image for image, one in everything if one == label][:3] for label in range(5)}
    expected = [(image, new) for new, old in enumerate([1, 3, 4]) for image in first_of[old]]
    assert contents(tmp_path / "1.lmdb") == expected
    assert (tmp_path / "1.lmdb.identities.txt").read_text() == "0\t1\tb\n1\t3\td\n2\t4\te\n"
    assert run("subset", folder, tmp_path / "2.lmdb", "--least-images", 3, "--exclude", names)[0] == 0
    assert contents(tmp_path / "2.lmdb") == [(image, 0) for image, label in everything if label == 2]

    assert run("pack", folder, tmp_path / "x.rec")[0] == 0
    merged = tmp_path / "map.txt"
    merged.write_text("0 -\n4\t2\n")
    status, out, _ = run("relabel", tmp_path / "x.rec", tmp_path / "3.lmdb", "--map", merged)
    assert status == 0 and "  2 identities became 1: 2 + 4 are 1 now\n" in out
    new_label = {1: 0, 2: 1, 4: 1, 3: 2}
    expected = [(image, new_label[label]) for image, label in everything if label]
    assert sorted(contents(tmp_path / "3.lmdb")) == sorted(expected)
    assert (tmp_path / "3.lmdb.identities.txt").read_text() == "0\t1\n1\t2\n1\t4\n2\t3\n"


@pytest.mark.parametrize(
    ("verb", "option", "text", "message"),
    [
        ("subset", "--identities", "a\nz\n", "line 2 names 'z', and the set has the names of its folders"),
        ("subset", "--identities", "\n", "names no identity"),
        ("relabel", "--map", "a x\n", "line 1 is not an identity and its new label"),
        ("relabel", "--map", "a 1\na 2\n", "line 2 gives a another label again"),
    ],
)
def test_lists_that_are_wrong(
    folder: Path, tmp_path: Path, run: Run, verb: str, option: str, text: str, message: str
) -> None:
    (tmp_path / "list").write_text(text)
    status, _, err = run(verb, folder, tmp_path / "x.rec", option, tmp_path / "list")
    assert status == 2 and message in err and not (tmp_path / "x.rec").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a 3\nb 3\nc 9\n", "3 identities became 1: a + b + d are 0 now"),
        ("a 0\nb 0\nc 1\nd 1\n", "4 identities became 2: a + b are 0 now, and 1 more of the kind"),
        ("a 0\nb 0\nc 0\nd 0\ne 0\n", "5 identities became 1: a + b + c + … are 0 now"),
        ("a 1\nb 0\n", None),
    ],
)
def test_relabel_says_who_became_one(folder: Path, tmp_path: Path, run: Run, text: str, said: str | None) -> None:
    (tmp_path / "map").write_text(text)
    status, out, _ = run("relabel", folder, tmp_path / "x.lmdb", "--map", tmp_path / "map")
    assert status == 0
    assert f"  {said}\n" in out if said else "identities became" not in out


def test_stats_of_a_set_with_a_broken_record(tmp_path: Path, run: Run) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        for label in range(3):
            writer.add(jpeg(label), label)
    data = bytearray((tmp_path / "x.rec").read_bytes())
    magic = data.index(jpeg(1)) - 32
    data[magic + 8 : magic + 12] = b"\xff\xff\xff\x00"  # more label fields than the record has bytes
    (tmp_path / "x.rec").write_bytes(data)
    rows = [line.split("\t") for line in (tmp_path / "x.rec").with_suffix(".idx").read_text().splitlines()]
    assert str(magic) in [offset for _, offset in rows]
    broken = open_source(tmp_path / "x.rec")
    with pytest.raises(ValueError, match="is broken"):
        broken.read(1)
    sizes = measure(broken, np.arange(3), workers=1, progress=lambda: None)
    assert (sizes.pixels, sizes.broken) == ({(24, 24): 2}, 1)


def test_the_command_itself(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert all(verb in out for verb in "pack unpack verify stats bin split merge subset relabel".split())
    assert run()[0] == 2
    status, _, err = run("pakc")
    assert status == 2 and "unknown verb pakc: the verbs are pack, unpack" in err
    for options in (["--siez", 3], ["a", "b.rec", "--seed", -1]):
        with pytest.raises(SystemExit) as ended:
            run("pack", *options)
        assert ended.value.code == 2


def test_a_verb_takes_its_options_anywhere(folder: Path, tmp_path: Path, run: Run) -> None:
    assert run("merge", folder, folder, "--workers", 1, tmp_path / "x.lmdb")[0] == 0
    assert len(contents(tmp_path / "x.lmdb")) == 30
