"""The official lists of IJB-B and IJB-C, as InsightFace hands them out.

    META/ijbc_face_tid_mid.txt          `1.jpg 1 69544`: image, template, medium; a line an image
    META/ijbc_name_5pts_score.txt       `1.jpg x1 y1 … x5 y5 score`: the same images, landmarks, detector score
    META/ijbc_template_pair_label.txt   `1 11065 1`: two templates, 1 where they are of one person
    META/ijbc_1N_gallery_G1.csv, …_G2   `TEMPLATE_ID,SUBJECT_ID,…` under a line of titles; ijbb: …_S1, …_S2
    META/ijbc_1N_probe_mixed.csv        the same

N images, P pairs, Q lines of a gallery or of the probes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}


@dataclass(frozen=True)
class ImageList:
    """N images: `name_N`, their template and medium numbers, five landmarks and detector scores."""

    name_N: list[str]
    template_N: np.ndarray
    media_N: np.ndarray
    landmarks_N52: np.ndarray
    detector_score_N: np.ndarray


@dataclass(frozen=True)
class PairList:
    """P pairs of templates, and whether they are of one person."""

    first_P: np.ndarray
    second_P: np.ndarray
    is_same_P: np.ndarray


@dataclass(frozen=True)
class SubjectList:
    """Templates, each once, ascending, and the subject of each."""

    template_Q: np.ndarray
    subject_Q: np.ndarray


def read_images(media_path: Path, landmarks_path: Path) -> ImageList:
    """The two lists of images, line by line the same images.

    Raises:
        ValueError: they differ in length or in an image, or a line has not the form.
        OSError: a file cannot be read.
    """
    media, landmarks = _rows(media_path, 3, "NAME TEMPLATE MEDIUM"), _rows(landmarks_path, 12, "NAME x1 … y5 SCORE")
    if len(media) != len(landmarks):
        raise ValueError(
            f"{media_path.name} has {len(media)} images and {landmarks_path.name} {len(landmarks)}: they must be of "
            "one set"
        )
    for number, (one, other) in enumerate(zip(media, landmarks, strict=True), 1):
        if one[0] != other[0]:
            raise ValueError(
                f"line {number} is of {one[0]} in {media_path.name} and of {other[0]} in {landmarks_path.name}: "
                "the lists must name the same images in the same order"
            )
    numbers_N2 = _integers([row[1:] for row in media], media_path)
    values_N11 = _numbers([row[1:] for row in landmarks], landmarks_path)
    return ImageList(
        [row[0] for row in media],
        numbers_N2[:, 0],
        numbers_N2[:, 1],
        values_N11[:, :10].reshape(-1, 5, 2).astype(np.float32),
        values_N11[:, 10].astype(np.float32),
    )


def read_pairs(path: Path) -> PairList:
    """The pairs of templates; millions of lines, read as one block of integers.

    Raises:
        ValueError: a line has not the form, a label is not 0 or 1, or there are no pairs of one of the two kinds.
    """
    numbers_P3 = _integer_table(path, 3, "TEMPLATE TEMPLATE LABEL")
    label_P = numbers_P3[:, 2]
    wrong = np.flatnonzero((label_P != 0) & (label_P != 1))
    if len(wrong):
        raise ValueError(f"{path.name}, line {wrong[0] + 1}: the label must be 0 or 1, but is {label_P[wrong[0]]}")
    positives = int(label_P.sum())
    if positives in (0, len(label_P)):
        raise ValueError(
            f"{path.name}: rates need pairs of both kinds, but {positives} of its {len(label_P)} are of one person"
        )
    return PairList(
        np.ascontiguousarray(numbers_P3[:, 0]), np.ascontiguousarray(numbers_P3[:, 1]), label_P.astype(bool)
    )


def read_subjects(path: Path) -> SubjectList:
    """The templates of a gallery or of the probes; a template may have a line for each of its images.

    Raises:
        ValueError: a line has not two leading integers, or a template has two subjects.
    """
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split(",")[:2] for line in lines if line.strip()]
    for number, row in enumerate(rows, 2):
        if len(row) != 2:
            raise ValueError(f"{path.name}, line {number}: a line is TEMPLATE_ID,SUBJECT_ID,…, not {','.join(row)!r}")
    if not rows:
        raise ValueError(f"{path.name} names no template under its line of titles")
    numbers = _integers(rows, path, first_line=2)
    template_Q, first, place = np.unique(numbers[:, 0], return_index=True, return_inverse=True)
    subject_Q = numbers[first, 1]
    differs = np.flatnonzero(subject_Q[place] != numbers[:, 1])
    if len(differs):
        template, subject = numbers[differs[0]]
        raise ValueError(
            f"{path.name}: template {template} is of subject {subject} and of {subject_Q[place[differs[0]]]}"
        )
    return SubjectList(template_Q, subject_Q)


def places_of(template_Q: np.ndarray, known_T: np.ndarray, list_name: str) -> np.ndarray:
    """The place of each template among those that have images (ascending).

    Raises:
        ValueError: templates that have none: how many, and the first ten.
    """
    place_Q = np.minimum(np.searchsorted(known_T, template_Q), len(known_T) - 1)
    is_known = known_T[place_Q] == template_Q
    if not is_known.all():
        missing = np.unique(template_Q[~is_known])
        raise ValueError(
            f"{len(missing)} templates of {list_name} have no media in the list of images "
            f"(the first: {', '.join(map(str, missing[:10]))})"
        )
    return place_Q


def _rows(path: Path, columns: int, form: str) -> list[list[str]]:
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows, 1):
        if len(row) != columns:
            raise ValueError(f"{path.name}, line {number}: a line is {form}, {columns} columns, not {' '.join(row)!r}")
    if not rows:
        raise ValueError(f"{path.name} is empty")
    return rows


def _integers(rows: list[list[str]], path: Path, first_line: int = 1) -> np.ndarray:
    try:
        return np.array(rows, dtype=object).astype(np.int64)
    except (ValueError, OverflowError):
        for number, row in enumerate(rows, first_line):
            if not all(text.strip().lstrip("-").isdecimal() for text in row):
                raise ValueError(f"{path.name}, line {number}: {' '.join(row)!r} must be integers") from None
        raise ValueError(f"{path.name} holds an integer that 64 bits do not hold") from None


def _numbers(rows: list[list[str]], path: Path) -> np.ndarray:
    try:
        values = np.array(rows, dtype=object).astype(np.float64)
    except ValueError as error:
        raise ValueError(f"{path.name}: landmarks and scores must be numbers ({error})") from None
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise ValueError(f"{path.name}, line {broken[0] + 1}: landmarks and scores must be finite numbers")
    return values


def _integer_table(path: Path, columns: int, form: str) -> np.ndarray:
    data = path.read_bytes()
    lines = data.count(b"\n") + (not data.endswith(b"\n") and len(data) > 0)
    try:
        numbers = np.loadtxt(io.BytesIO(data), dtype=np.int64, ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f"{path.name}: a line is {form}, {columns} integers ({error})") from None
    if numbers.shape != (lines, columns):
        raise ValueError(f"{path.name}: a line is {form}, {columns} integers, not a table of shape {numbers.shape}")
    return numbers
