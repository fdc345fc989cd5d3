"""Text files that name identities: lists of them, and maps from one to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

LEFT_OUT = -1


def read_identities(path: Path, num_identities: int, names: Sequence[bytes] | None) -> np.ndarray:
    """The identities that the lines of a file name, by name or by label: int64, ascending.

    Blank lines and Windows line ends are passed over; what follows a tab is a remark. Raises ValueError,
    naming the line, for one that the set does not have.
    """
    find = _Finder(path, num_identities, names)
    found = {find(line.split(b"\t")[0], number) for number, line in _lines(path)}
    if not found:
        raise ValueError(f"{path} names no identity: it needs one a line")
    return np.array(sorted(found), np.int64)


def read_map(path: Path, num_identities: int, names: Sequence[bytes] | None) -> np.ndarray:
    """The new label of each identity (C,), int64, from lines of `identity new`: others keep theirs.

    A tab parts the two, or the last blank of a line without one. `-` for the new label leaves the identity
    out: −1. Raises ValueError, naming the line, for one of another form or an identity that is there twice.
    """
    find = _Finder(path, num_identities, names)
    labels_C = np.arange(num_identities)
    seen = set()
    for number, line in _lines(path):
        words = line.split(b"\t")[:2] if b"\t" in line else line.rsplit(None, 1)
        if len(words) != 2 or not (words[1] == b"-" or (words[1].isdigit() and len(words[1]) < 10)):
            raise ValueError(f"{path}: line {number} is not an identity and its new label, or - to leave it out")
        identity = find(words[0], number)
        if identity in seen:
            raise ValueError(f"{path}: line {number} gives {words[0].decode(errors='replace')} another label again")
        seen.add(identity)
        labels_C[identity] = LEFT_OUT if words[1] == b"-" else int(words[1])
    return labels_C


class _Finder:
    """Identities by name or, in a set without names, by label."""

    def __init__(self, path: Path, num_identities: int, names: Sequence[bytes] | None):
        self._path, self._num_identities = path, num_identities
        self._label_of = None if names is None else {name: label for label, name in enumerate(names)}

    def __call__(self, text: bytes, number: int) -> int:
        text = text.strip()
        if self._label_of is not None and text in self._label_of:
            return self._label_of[text]
        if self._label_of is None and text.isdigit() and len(text) < 16 and int(text) < self._num_identities:
            return int(text)
        what = "the names of its folders" if self._label_of is not None else f"labels in [0, {self._num_identities})"
        shown = text.decode(errors="backslashreplace")
        raise ValueError(f"{self._path}: line {number} names {shown!r}, and the set has {what}")


def _lines(path: Path) -> list[tuple[int, bytes]]:
    lines = [line.strip(b"\r\n") for line in path.read_bytes().split(b"\n")]
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
