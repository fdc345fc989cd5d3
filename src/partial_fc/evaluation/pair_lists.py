"""The lists of pairs that verification benchmarks publish, each in its own format.

LFW         `10 300`, then for each fold `NAME n1 n2` (one person) and `NAME1 n1 NAME2 n2` (two people)
CALFW       `FILE fold` a line, two lines a pair; fold 0 for pairs of two people, whose folds are not told
CPLFW       the same with 1 and 0
SLLFW       `NAME/FILE` a line, two lines a pair, of one person where the folder is the same
CFP         Protocol/Pair_list_F.txt and Pair_list_P.txt (`number PATH`), Split/{FP,FF}/NN/{same,diff}.txt (`n1,n2`)
AgeDB       a MATLAB file with `splits`, each of image names in two rows and of labels 1 and −1
two paths   `1 PATH PATH` or `PATH PATH 1`, as the aligned copies of these sets and VGG2-FP come with
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

FOLDS = 10
_FLAGS = ("0", "1", "-1")


@dataclass(frozen=True)
class PairList:
    """P pairs of images by their paths under a folder of images, fold after fold.

    Attributes:
        paths: 2P relative paths; pair i is `paths[2i]` and `paths[2i + 1]`.
        is_same: (P,) bool.
        fold_P: (P,) int64, ascending: the fold that the list gives a pair; None where it gives none, or has fewer
            pairs of a kind than folds.

    Raises:
        ValueError: there is no pair, or none of one person, or none of two.
    """

    name: str
    paths: list[str]
    is_same: np.ndarray
    fold_P: np.ndarray | None

    def __post_init__(self) -> None:
        assert len(self.paths) == 2 * len(self.is_same)
        assert self.fold_P is None or len(self.fold_P) == len(self.is_same)
        if len(self.is_same) == 0:
            raise ValueError(f"{self.name} holds no pairs")
        if self.is_same.all() or not self.is_same.any():
            kind = "one person" if self.is_same.all() else "two people"
            raise ValueError(f"{self.name} needs pairs of both kinds, but all {len(self.is_same)} are of {kind}")

    def __len__(self) -> int:
        return len(self.is_same)


def read_lfw(path: Path) -> PairList:
    """`pairs.txt` of LFW, and lists in its form. A header `K n` gives K folds of n + n pairs; `n` alone, one fold.

    Raises:
        ValueError: a line is of another form, or the pairs are not as many as the header says.
    """
    lines = _lines(path)
    header = lines[0][1].split() if lines else []
    if not 1 <= len(header) <= 2 or not all(map(str.isdecimal, header)):
        raise ValueError(f"{path}: the first line must be the number of folds and of pairs, such as `10 300`")
    folds, per_kind = (1, int(header[0])) if len(header) == 1 else map(int, header)
    if len(lines) - 1 != 2 * folds * per_kind:
        raise ValueError(
            f"{path} must hold {folds} × 2 × {per_kind} pairs as its first line says, but holds {len(lines) - 1}"
        )
    pairs = [_lfw_pair(path, number, line) for number, line in lines[1:]]
    fold_P = np.repeat(np.arange(folds), 2 * per_kind)
    return _pair_list(path, pairs, fold_P)


def read_two_lines(path: Path) -> PairList:
    """CALFW's and CPLFW's lists: two lines a pair, `FILE label` each, label 0 for two people.

    Fold k is the k-th tenth of the pairs of one person (in CALFW, whose labels are folds, those of label k) and
    the k-th tenth of the others.

    Raises:
        ValueError: a line is of another form, or the two labels of a pair differ.
    """
    first, second = _line_pairs(path)
    pairs, labels = [], []
    for (number, one), (_, two) in zip(first, second, strict=True):
        match = [re.fullmatch(r"(.*\S)\s+(\d+)", line) for line in (one, two)]
        if match[0] is None or match[1] is None:
            raise ValueError(f"{path}: lines {number} and {number + 1} must be `FILE label` both")
        if match[0][2] != match[1][2]:
            raise ValueError(f"{path}: lines {number} and {number + 1} are a pair, but their labels differ")
        labels.append(int(match[0][2]))
        pairs.append((match[0][1], match[1][1], labels[-1] > 0))
    return _in_tenths(path, pairs, np.array(labels, np.int64))


def read_sllfw(path: Path) -> PairList:
    """`pair_SLLFW.txt`: two lines a pair, `NAME/FILE` each; its folds one after another.

    Raises:
        ValueError: a line has no folder.
    """
    first, second = _line_pairs(path)
    pairs = []
    for (number, one), (_, two) in zip(first, second, strict=True):
        folders = [line.rpartition("/")[0] for line in (one, two)]
        if not all(folders):
            raise ValueError(f"{path}: lines {number} and {number + 1} must be `NAME/FILE` both")
        pairs.append((one, two, folders[0] == folders[1]))
    return _pair_list(path, pairs, None)


def read_flagged(path: Path) -> PairList:
    """`1 PATH PATH` or `PATH PATH 1` a line, apart by blanks, tabs or commas; its folds one after another.

    Raises:
        ValueError: a line is of another form, or some begin with the flag and some end with it.
    """
    lines = [(number, re.split(r"\s*[,\t]\s*|\s+", line)) for number, line in _lines(path)]
    comes_first = bool(lines) and lines[0][1][0] in _FLAGS
    pairs = []
    for number, words in lines:
        if not comes_first:
            words = [words[-1], *words[:-1]]
        flag = words[0]
        if len(words) != 3 or flag not in _FLAGS:
            raise ValueError(f"{path}: line {number} must be `1 PATH PATH` or `PATH PATH 1` (0 or −1: two people)")
        pairs.append((*words[1:], flag == "1"))
    return _pair_list(path, pairs, None)


def read_cfp(path: Path, protocol: str) -> PairList:
    """CFP's folder `Protocol` (or the one that holds it); `protocol` "FP" (frontal with profile) or "FF".

    Paths are relative to the folder that the image lists speak of: `../Data/Images/001/frontal/01.jpg` becomes
    `001/frontal/01.jpg`.

    Raises:
        ValueError: a line is of another form, or names an image that its list does not hold.
        FileNotFoundError: a list is not there.
    """
    assert protocol in ("FP", "FF"), protocol
    path = path / "Protocol" if (path / "Protocol").is_dir() else path
    frontal = _cfp_images(path / "Pair_list_F.txt")
    other = _cfp_images(path / "Pair_list_P.txt") if protocol == "FP" else frontal
    split = path / "Split" / protocol
    folders = sorted(folder for folder in split.glob("*") if folder.is_dir())
    if not folders:
        raise FileNotFoundError(f"{split} must hold a folder for each fold (01, 02, …), but holds none")
    pairs, folds = [], []
    for fold, folder in enumerate(folders):
        for name, is_same in (("same.txt", True), ("diff.txt", False)):
            for number, line in _lines(folder / name):
                words = [word.strip() for word in line.split(",")]
                if len(words) != 2 or words[0] not in frontal or words[1] not in other:
                    raise ValueError(f"{folder / name}: line {number} must be two numbers of images, not {line!r}")
                pairs.append((frontal[words[0]], other[words[1]], is_same))
                folds.append(fold)
    return _pair_list(path, pairs, np.array(folds, np.int64))


def read_agedb(path: Path) -> PairList:
    """AgeDB's protocol (`04_FINAL_protocol_30_years.mat`): `splits`, a cell a fold, of `pairs` and `labels`.

    Raises:
        ValueError: the file is not of that form.
    """
    try:
        splits = loadmat(path)["splits"]
        pairs, folds = [], []
        for fold, split in enumerate(splits.ravel()):
            images, labels = split[0, 0][0], np.ravel(split[0, 0][1])
            if images.shape != (2, len(labels)):
                raise ValueError(f"fold {fold + 1} has images {images.shape} and {len(labels)} labels")
            for one, two, label in zip(images[0], images[1], labels, strict=True):
                names = [f"{image[0, 0][0][0]}.jpg" for image in (one, two)]
                pairs.append((*names, int(label) > 0))
                folds.append(fold)
    except (MatReadError, KeyError, IndexError, TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a protocol of AgeDB (a MATLAB file with `splits`): {error}") from error
    return _pair_list(path, pairs, np.array(folds, np.int64))


def read_pair_list(path: Path) -> PairList:
    """A list in the form that it shows: MATLAB for AgeDB, LFW's with its header, two lines a pair, or two paths.

    Raises:
        ValueError: it is in none of them; OSError: it cannot be read.
    """
    if path.suffix == ".mat":
        return read_agedb(path)
    forms: list[tuple[str, Callable[[Path], PairList]]] = [
        (r"\d+(\s+\d+)?", read_lfw),
        (r"(-?1|0)[\s,]+\S+[\s,]+\S+|\S+[\s,]+\S+[\s,]+(-?1|0)", read_flagged),
        (r"\S.*\s\d+", read_two_lines),
        (r"[^/]+/[^/]+", read_sllfw),
    ]
    lines = _lines(path)
    if not lines:
        raise ValueError(f"{path} holds no pairs")
    for pattern, read in forms:
        if re.fullmatch(pattern, lines[0][1]):
            return read(path)
    raise ValueError(f"{path} is no list of pairs that is known here: its first line is {lines[0][1][:100]!r}")


def _lfw_pair(path: Path, number: int, line: str) -> tuple[str, str, bool]:
    words = line.split("\t") if "\t" in line else line.split()
    words = [word.strip() for word in words]
    if len(words) == 3:
        words.insert(2, words[0])
        is_same = True
    else:
        is_same = False
    if len(words) != 4 or not (words[1].isdecimal() and words[3].isdecimal()):
        raise ValueError(f"{path}: line {number} must be `NAME n1 n2` or `NAME1 n1 NAME2 n2`, not {line!r}")
    one, two = (f"{name}/{name}_{int(image):04d}.jpg" for name, image in (words[:2], words[2:]))
    return one, two, is_same


def _cfp_images(path: Path) -> dict[str, str]:
    images = {}
    for number, line in _lines(path):
        words = line.split(maxsplit=1)
        if len(words) != 2 or not words[0].isdecimal():
            raise ValueError(f"{path}: line {number} must be a number and the path of an image, not {line!r}")
        images[words[0]] = re.sub(r"^.*?(?:\.\./|\./)*(?:Data/Images|Images)/", "", words[1].replace("\\", "/"))
    return images


def _line_pairs(path: Path) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    lines = _lines(path)
    if len(lines) % 2:
        raise ValueError(f"{path} must hold two lines a pair, but holds {len(lines)}")
    return lines[0::2], lines[1::2]


def _lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _in_tenths(path: Path, pairs: Sequence[tuple[str, str, bool]], label_P: np.ndarray) -> PairList:
    """Folds of lists that have all pairs of one person first: a tenth of each kind."""
    fold_P = np.empty(len(pairs), np.int64)
    kinds = [np.flatnonzero(kind) for kind in (label_P > 0, label_P == 0)]
    for of_kind in kinds:
        parts = np.array_split(of_kind[np.argsort(label_P[of_kind], kind="stable")], FOLDS)
        for fold, part in enumerate(parts):
            fold_P[part] = fold
    order = np.lexsort((np.arange(len(pairs)), label_P == 0, fold_P))
    has_folds = all(len(of_kind) >= FOLDS for of_kind in kinds)
    return _pair_list(path, [pairs[i] for i in order], fold_P[order] if has_folds else None)


def _pair_list(path: Path, pairs: Sequence[tuple[str, str, bool]], fold_P: np.ndarray | None) -> PairList:
    paths = [image for one, two, _ in pairs for image in (one, two)]
    return PairList(str(path), paths, np.array([is_same for *_, is_same in pairs], bool), fold_P)
