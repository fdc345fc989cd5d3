"""Each published list of pairs, as a hand-made miniature: what is read, how much of it, in which folds."""

import numpy as np
import pytest
from scipy.io import savemat

from partial_fc.evaluation.pair_lists import read_agedb, read_cfp, read_lfw, read_pair_list, read_sllfw, read_two_lines


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def pairs_of(pairs):
    """(first, second, same, fold) of each."""
    folds = [None] * len(pairs) if pairs.fold_P is None else pairs.fold_P.tolist()
    return list(zip(pairs.paths[0::2], pairs.paths[1::2], pairs.is_same.tolist(), folds, strict=True))


def test_lfw(tmp_path):
    path = write(
        tmp_path / "pairs.txt",
        "2\t1",
        "Ann_Lee\t1\t12",
        "Ann_Lee\t3\tBo\t1",
        "Cy\t2\t7",
        "Bo\t1\tCy\t1234",
    )
    assert pairs_of(read_pair_list(path)) == [
        ("Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0012.jpg", True, 0),
        ("Ann_Lee/Ann_Lee_0003.jpg", "Bo/Bo_0001.jpg", False, 0),
        ("Cy/Cy_0002.jpg", "Cy/Cy_0007.jpg", True, 1),
        ("Bo/Bo_0001.jpg", "Cy/Cy_1234.jpg", False, 1),
    ]
    one_fold = write(tmp_path / "pairsDevTest.txt", "1", "A 1 2", "A 1 B 1")
    assert read_lfw(one_fold).fold_P.tolist() == [0, 0]


def test_the_official_lfw_list(shared_data):
    pairs = read_pair_list(shared_data / "lfw" / "view2_pairs.txt")
    assert len(pairs) == 6000 and len(set(pairs.paths)) == 7701
    for fold in range(10):
        in_fold = pairs.fold_P == fold
        assert (in_fold.sum(), pairs.is_same[in_fold].sum()) == (600, 300)


def test_calfw_has_folds_in_its_labels(tmp_path):
    """Positive pairs by fold, then all negatives with 0."""
    lines = []
    for fold in range(1, 11):
        for pair in range(2):
            lines += [f"P{fold}_{pair}_0001.jpg  {fold}", f"P{fold}_{pair}_0002.jpg  {fold}"]
    for pair in range(20):
        lines += [f"N{pair}_0001.jpg 0", f"M{pair}_0001.jpg 0"]
    pairs = read_pair_list(write(tmp_path / "pairs_CALFW.txt", *lines))
    assert len(pairs) == 40
    assert np.bincount(pairs.fold_P).tolist() == [4] * 10
    assert pairs_of(pairs)[4:8] == [
        ("P2_0_0001.jpg", "P2_0_0002.jpg", True, 1),
        ("P2_1_0001.jpg", "P2_1_0002.jpg", True, 1),
        ("N2_0001.jpg", "M2_0001.jpg", False, 1),
        ("N3_0001.jpg", "M3_0001.jpg", False, 1),
    ]


def test_cplfw_has_ones_and_zeros(tmp_path):
    lines = [f"A{i}_{j}.jpg 1" for i in range(10) for j in (1, 2)] + [
        f"B{i}_{j}.jpg 0" for i in range(10) for j in (1, 2)
    ]
    pairs = read_pair_list(write(tmp_path / "pairs_CPLFW.txt", *lines))
    assert pairs.is_same.tolist() == [True, False] * 10
    assert pairs.fold_P.tolist() == np.repeat(np.arange(10), 2).tolist()
    assert pairs.paths[4:8] == ["A1_1.jpg", "A1_2.jpg", "B1_1.jpg", "B1_2.jpg"]
    few = read_pair_list(write(tmp_path / "few.txt", *lines[:18], *lines[20:]))
    assert few.fold_P is None and len(few) == 19, "nine pairs of one person make no ten folds"


def test_sllfw(tmp_path):
    lines = []
    for fold in range(10):
        lines += [
            f"A{fold}/A{fold}_0001.jpg",
            f"A{fold}/A{fold}_0002.jpg",
            f"A{fold}/A{fold}_0001.jpg",
            f"B{fold}/B_0001.jpg",
        ]
    pairs = read_pair_list(write(tmp_path / "pair_SLLFW.txt", *lines))
    assert pairs_of(pairs)[:2] == [
        ("A0/A0_0001.jpg", "A0/A0_0002.jpg", True, None),
        ("A0/A0_0001.jpg", "B0/B_0001.jpg", False, None),
    ]
    assert (len(pairs), pairs.is_same.sum()) == (20, 10)


@pytest.fixture
def cfp(tmp_path):
    folder = tmp_path / "cfp" / "Protocol"
    frontal = [f"{i} ../Data/Images/{i:03d}/frontal/01.jpg" for i in range(1, 4)]
    profile = [f"{i} ../Data/Images/{i:03d}/profile/01.jpg" for i in range(1, 4)]
    write(folder / "Pair_list_F.txt", *frontal)
    write(folder / "Pair_list_P.txt", *profile)
    for protocol in ("FF", "FP"):
        for fold in ("01", "02"):
            write(folder / "Split" / protocol / fold / "same.txt", "1,1", "2,2")
            write(folder / "Split" / protocol / fold / "diff.txt", "1,2", "3,1")
    return folder


def test_cfp(cfp):
    frontal_profile = read_cfp(cfp, "FP")
    assert pairs_of(frontal_profile)[:4] == [
        ("001/frontal/01.jpg", "001/profile/01.jpg", True, 0),
        ("002/frontal/01.jpg", "002/profile/01.jpg", True, 0),
        ("001/frontal/01.jpg", "002/profile/01.jpg", False, 0),
        ("003/frontal/01.jpg", "001/profile/01.jpg", False, 0),
    ]
    assert frontal_profile.fold_P.tolist() == [0] * 4 + [1] * 4
    frontal = read_cfp(cfp.parent, "FF")
    assert pairs_of(frontal)[3] == ("003/frontal/01.jpg", "001/frontal/01.jpg", False, 0)
    write(cfp / "Split" / "FP" / "02" / "diff.txt", "1,4")
    with pytest.raises(ValueError, match=r"02/diff.txt: line 1 must be two numbers of images, not '1,4'"):
        read_cfp(cfp, "FP")
    with pytest.raises(FileNotFoundError, match="must hold a folder for each fold"):
        (cfp.parent / "empty").mkdir()
        write(cfp.parent / "empty" / "Pair_list_F.txt", "1 a.jpg")
        read_cfp(cfp.parent / "empty", "FF")


def test_agedb(tmp_path):
    """`splits` is a cell a fold, of a struct with a 2 × P cell of (name, age) and a row of labels 1 and −1."""
    image = np.dtype([("name", object), ("age", object)])
    split = np.dtype([("pairs", object), ("labels", object)])
    splits = np.empty((3, 1), object)
    for fold in range(3):
        cells = np.empty((2, 2), object)
        for place in np.ndindex(2, 2):
            cells[place] = np.array([[(f"{fold}_Name{place[0]}{place[1]}_30_m", 30.0)]], image)
        labels = np.array([[1, -1]])
        splits[fold, 0] = np.array([[(cells, labels)]], split)
    path = tmp_path / "04_FINAL_protocol_30_years.mat"
    savemat(path, {"splits": splits})
    pairs = read_pair_list(path)
    assert pairs_of(pairs)[:3] == [
        ("0_Name00_30_m.jpg", "0_Name10_30_m.jpg", True, 0),
        ("0_Name01_30_m.jpg", "0_Name11_30_m.jpg", False, 0),
        ("1_Name00_30_m.jpg", "1_Name10_30_m.jpg", True, 1),
    ]
    assert len(pairs) == 6
    savemat(path, {"other": 1})
    with pytest.raises(ValueError, match="not a protocol of AgeDB"):
        read_agedb(path)
    path.write_text("text" * 100)
    with pytest.raises(ValueError, match="not a protocol of AgeDB"):
        read_agedb(path)


@pytest.mark.parametrize(
    "lines",
    [
        [f"{i % 2} a/{i}.jpg b/{i}.jpg" for i in range(20)],
        [f"a/{i}.jpg b/{i}.jpg {i % 2}" for i in range(20)],
        [f"a/{i}.jpg,b/{i}.jpg,{i % 2}" for i in range(20)],
        [f"a/{i}.jpg\tb/{i}.jpg\t{2 * (i % 2) - 1}" for i in range(20)],
    ],
)
def test_two_paths_and_a_flag(tmp_path, lines):
    pairs = read_pair_list(write(tmp_path / "list.txt", *lines))
    assert pairs_of(pairs)[:3] == [
        ("a/0.jpg", "b/0.jpg", False, None),
        ("a/1.jpg", "b/1.jpg", True, None),
        ("a/2.jpg", "b/2.jpg", False, None),
    ]
    assert len(pairs) == 20


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "holds no pairs"),
        (["2 1", "A 1 2", "A 1 B 1"], "must hold 2 × 2 × 1 pairs as its first line says, but holds 2"),
        (["1 1", "A 1 2", "A 1 B"], "line 3 must be `NAME n1 n2`"),
        (["1 1", "A 1 2", "A 1 3"], "all 2 are of one person"),
        (["a.jpg 1", "b.jpg 1", "c.jpg 0"], "two lines a pair, but holds 3"),
        (["a.jpg 1", "b.jpg 0"], "lines 1 and 2 are a pair, but their labels differ"),
        (["a.jpg 1", "b.jpg"], "lines 1 and 2 must be `FILE label`"),
        (["a.jpg 0", "b.jpg 0"], "all 1 are of two people"),
        (["A/a.jpg", "b.jpg"], "lines 1 and 2 must be `NAME/FILE`"),
        (["1 a.jpg b.jpg", "2 a.jpg c.jpg"], "line 2 must be `1 PATH PATH`"),
        (["one thing and another"], "no list of pairs that is known here"),
    ],
)
def test_broken_lists_are_refused(tmp_path, lines, reason):
    with pytest.raises(ValueError, match=reason):
        read_pair_list(write(tmp_path / "list.txt", *lines))


def test_readers_take_their_own_form_alone(tmp_path):
    lfw = write(tmp_path / "pairs.txt", "1 1", "A 1 2", "A 1 B 1")
    with pytest.raises(ValueError, match="must hold two lines a pair"):
        read_two_lines(lfw)
    with pytest.raises(ValueError, match="must hold two lines a pair"):
        read_sllfw(lfw)
    with pytest.raises(ValueError, match="first line must be the number of folds"):
        read_lfw(write(tmp_path / "other.txt", "A 1 2"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="not a text file"):
        read_pair_list(tmp_path / "bytes.txt")
