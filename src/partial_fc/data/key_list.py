"""A text list of `key label` lines, as training sets in LMDB have them: which images there are, and whose.

A key is all that precedes the last blank or tab of its line, so that it may hold blanks itself. Blank lines
and Windows line ends are passed over, and keys need not be UTF-8.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from partial_fc.data.text_lines import Chunk, chunks_of_lines, count_lines

_MAX_KEY_BYTES = 511  # of LMDB
_MAX_DIGITS = 9  # what always fits in int32
_NEWLINE, _RETURN, _TAB, _BLANK, _ZERO, _NINE = b"\n\r\t 09"


class KeyList:
    """Keys and labels of a list at `path`, in the order of its lines.

    The keys stay in the file and are read from it one by one. Memory: 14 bytes a line.
    labels_N: int32. Raises ValueError, naming the line, for one that is not a key and a label in [0, 10⁹).
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no list of keys {self.path}: give the path of a text file")
        capacity = count_lines(self.path)
        starts_N, lengths_N = np.empty(capacity, np.int64), np.empty(capacity, np.uint16)
        labels_N = np.empty(capacity, np.int32)
        count = 0
        for chunk in chunks_of_lines(self.path):
            parsed = _parse_in_bulk(chunk)
            starts, lengths, labels = _parse_line_by_line(chunk, self.path) if parsed is None else parsed
            part = slice(count, count + len(starts))
            starts_N[part], lengths_N[part], labels_N[part] = starts, lengths, labels
            count += len(starts)
        if count == 0:
            raise ValueError(f"{self.path} names no image: it needs lines of a key and a label")
        self._starts_N, self._lengths_N, self.labels_N = starts_N[:count], lengths_N[:count], labels_N[:count]
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def __len__(self) -> int:
        return len(self.labels_N)

    def key(self, index: int) -> bytes:
        """The key in line `index`, blank ones not counted. Safe from many threads."""
        return os.pread(self._descriptor, self._lengths_N.item(index), self._starts_N.item(index))

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


def _parse_in_bulk(chunk: Chunk) -> _Columns | None:
    """(starts of keys in the file, lengths, labels), if each line has a key, one blank and a label."""
    if not chunk.text.endswith(b"\n"):
        return None
    characters = np.frombuffer(chunk.text, np.uint8)
    ends_L = np.flatnonzero(characters == _NEWLINE)
    starts_L = np.concatenate([[0], ends_L[:-1] + 1])
    ends_L = ends_L - (characters[ends_L - 1] == _RETURN)
    labels_L, digits_L = _numbers_before(characters, ends_L)
    blanks_L = ends_L - digits_L - 1  # where the one between key and label is
    lengths_L = blanks_L - starts_L
    if not ((digits_L > 0) & (lengths_L > 0) & (lengths_L <= _MAX_KEY_BYTES)).all():
        return None
    around = np.stack([characters[starts_L], characters[blanks_L - 1], characters[blanks_L]])
    is_blank = (around == _BLANK) | (around == _TAB)
    if is_blank[:2].any() or not is_blank[2].all():
        return None
    return chunk.offset + starts_L, lengths_L, labels_L


def _numbers_before(characters: np.ndarray, ends_L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the number whose digits stand before each end, how many these are), both 0 where there is none."""
    numbers_L, digits_L = np.zeros(len(ends_L), np.int64), np.zeros(len(ends_L), np.int64)
    for place in range(_MAX_DIGITS):
        character_L = characters[ends_L - 1 - place]
        is_next_L = (character_L >= _ZERO) & (character_L <= _NINE) & (digits_L == place)
        if not is_next_L.any():
            break
        numbers_L += is_next_L * 10**place * (character_L.astype(np.int64) - _ZERO)
        digits_L += is_next_L
    return numbers_L, digits_L


def _parse_line_by_line(chunk: Chunk, path: Path) -> _Columns:
    starts, lengths, labels = [], [], []
    start = chunk.offset
    for number, line in enumerate(chunk.text.split(b"\n"), chunk.first_line):
        words = line.rsplit(None, 1)
        if words:
            key = words[0].lstrip() if len(words) == 2 else b""
            label = words[-1]
            if not (0 < len(key) <= _MAX_KEY_BYTES and label.isdigit() and len(label) <= _MAX_DIGITS):
                raise ValueError(
                    f"{path}: line {number} is not a key of 1 to {_MAX_KEY_BYTES} bytes, a blank or tab, and "
                    "a label in [0, 10^9)"
                )
            starts.append(start + line.index(key))
            lengths.append(len(key))
            labels.append(int(label))
        start += len(line) + 1
    return np.array(starts, np.int64), np.array(lengths, np.uint16), np.array(labels, np.int32)
