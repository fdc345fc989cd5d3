"""MegaFace's files: feature files, lists of probes and distractors, lists of noises.

A feature file is an OpenCV matrix as the development kit writes it: four little-endian int32 (rows, columns, bytes from
a row to the next, type 5 = CV_32F) and rows × columns float32. A probe's or distractor's file is its image's path with
a suffix, as `facescrub/Adam_Brody/Adam_Brody_1.png_r100.bin`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CV_32F = 5
HEADER = np.dtype("<i4")
_HEADER_BYTES = 4 * HEADER.itemsize


@dataclass(frozen=True)
class FaceList:
    """N faces: paths below a folder, and of probes their identities (for distractors: empty)."""

    paths: list[str]
    identities: list[str]


def read_feature(path: Path) -> np.ndarray:
    """The (D,) float32 of a feature file.

    Raises:
        ValueError: it is no such file.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    if len(data) < _HEADER_BYTES:
        raise ValueError(f"{path} is no feature file: it has {len(data)} bytes, and the header alone has 16")
    rows, columns, stride, kind = np.frombuffer(data, HEADER, 4).tolist()
    if kind != CV_32F or min(rows, columns) != 1 or stride != 4 * columns:
        raise ValueError(
            f"{path} is no feature file: its header must be of one row or column of float32 "
            f"(rows, columns, 4·columns, 5), but is {rows}, {columns}, {stride}, {kind}"
        )
    if len(data) != _HEADER_BYTES + 4 * rows * columns:
        raise ValueError(f"{path}: {rows * columns} numbers need {16 + 4 * rows * columns} bytes, not {len(data)}")
    return np.frombuffer(data, "<f4", rows * columns, _HEADER_BYTES)


def write_feature(path: Path, feature_D: np.ndarray) -> None:
    """Writes a feature file, as one column."""
    header = np.array([len(feature_D), 1, 4, CV_32F], HEADER)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.tobytes() + feature_D.astype("<f4").tobytes())


def read_features(paths: Sequence[Path], dimension: int | None = None) -> np.ndarray:
    """`features_ND` float32 of feature files of one size.

    Raises:
        ValueError: a file is none, or has not D numbers.
    """
    features = [read_feature(path) for path in paths]
    size = len(features[0]) if dimension is None else dimension
    for path, feature in zip(paths, features, strict=True):
        if len(feature) != size:
            raise ValueError(f"{path} has {len(feature)} numbers, but the features before it have {size}")
    return np.stack(features).astype(np.float32, copy=False)


def read_face_list(path: Path, *, with_identities: bool) -> FaceList:
    """A list of the kit (JSON: `path`, of probes `id` too), or InsightFace's: a path a line.

    InsightFace's paths hold a folder of its own; the last two parts of a probe's and the last three of a distractor's
    are what the kit's paths have. A probe's identity is its folder where no `id` tells it.

    Raises:
        ValueError: it is neither, names no face, or names one twice.
    """
    text = path.read_text(encoding="utf-8")
    identities: list[str] = []
    if text.lstrip().startswith("{"):
        paths, identities = _kit_list(path, text, with_identities)
    else:
        parts = 2 if with_identities else 3
        paths = ["/".join(line.strip().split("/")[-parts:]) for line in text.splitlines() if line.strip()]
    if not paths:
        raise ValueError(f"{path} names no face")
    if len(set(paths)) < len(paths):
        twice = next(one for place, one in enumerate(sorted(paths)[1:]) if one == sorted(paths)[place])
        raise ValueError(f"{path} names {len(paths) - len(set(paths))} faces twice (one is {twice})")
    if with_identities and not identities:
        identities = [one.split("/")[-2] if "/" in one else "" for one in paths]
        if "" in identities:
            raise ValueError(f"{path}: a probe's path must hold its identity's folder, as A/A_1.png, not {paths[0]}")
    return FaceList(paths, identities)


def read_noises(path: Path) -> set[str]:
    """The names on a list of noises: `#` begins a comment; of `NUMBER<tab>NAME` the name counts."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {line.split("\t")[-1] for line in lines if line and not line.startswith("#")}


def noisy_probes(faces: FaceList, noises: set[str]) -> np.ndarray:
    """Which probes a list of noises names, by their file's name: (N,) bool."""
    return np.array([one.rsplit("/", 1)[-1] in noises for one in faces.paths], bool)


def noisy_distractors(faces: FaceList, noises: set[str]) -> np.ndarray:
    """Which distractors a list of noises names, by the last three parts of their path: (N,) bool."""
    return np.array(["/".join(one.split("/")[-3:]) in noises for one in faces.paths], bool)


def _kit_list(path: Path, text: str, with_identities: bool) -> tuple[list[str], list[str]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    paths, identities = content.get("path"), content.get("id", []) if with_identities else []
    for values in (paths, identities):
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"{path} must hold a list of strings `path`, and of probes `id`")
    if identities and len(identities) != len(paths):
        raise ValueError(f"{path} has {len(paths)} paths, but {len(identities)} identities")
    return paths, identities
