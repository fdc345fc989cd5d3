"""The `.idx` beside a `.rec`: where each record starts. Text, `key<tab>offset`, one line a record."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from partial_fc.data.text_lines import Chunk, chunks_of_lines, count_lines

_MAX_DIGITS = 18  # what always fits in int64
_TAB_NEWLINE = np.frombuffer(b"\t\n", np.uint8)
_ZERO, _NINE = b"09"


class RecordIndex(NamedTuple):
    """Keys in ascending order and the offsets of their records.

    keys_N: a `range` where the keys follow one another, as they do in nearly every file, so that they take no
    memory; int64 otherwise. offsets_N: int64, bytes from the start of the `.rec`.
    """

    keys_N: range | np.ndarray
    offsets_N: np.ndarray


def read_index(path: Path) -> RecordIndex:
    """Parses the `.idx` at `path` with no Python object a line: 17 million lines in seconds.

    Peak memory is 16 bytes a line, 24 where the lines are not in the order of their keys. Blank lines and
    Windows line ends are passed over. Raises ValueError, naming the line, for a line that is not two whole
    numbers, and for a key or an offset that is there twice.
    """
    keys_N, offsets_N = _read_lines(path)
    if len(keys_N) == 0:
        raise ValueError(f"{path}: the index is empty; copy or make it again")
    return make_index(keys_N, offsets_N, path)


def make_index(keys_N: np.ndarray, offsets_N: np.ndarray, path: Path) -> RecordIndex:
    """The index of records given in any order. Raises ValueError, naming `path`, for one given twice."""
    first_key, last_key = int(keys_N.min()), int(keys_N.max())
    consecutive = last_key - first_key == len(keys_N) - 1
    if not _ascending(keys_N):
        if consecutive:  # sorted by scattering, in two arrays fewer
            sorted_offsets = np.full_like(offsets_N, -1)
            sorted_offsets[keys_N - first_key if first_key else keys_N] = offsets_N
            has_repeated, offsets_N = sorted_offsets.min() < 0, sorted_offsets
        else:
            order_N = np.argsort(keys_N)
            keys_N, offsets_N = keys_N[order_N], offsets_N[order_N]
            has_repeated = not _ascending(keys_N)
        if has_repeated:
            raise ValueError(f"{path}: the index names record {_repeated(keys_N)} twice; make it again")
    if not _ascending(offsets_N) and not _ascending(np.sort(offsets_N)):
        offset = _repeated(offsets_N)
        raise ValueError(f"{path}: the index gives offset {offset} to two records; make it again")
    return RecordIndex(range(first_key, last_key + 1) if consecutive else keys_N, offsets_N)


def _ascending(numbers: np.ndarray) -> bool:
    return bool((numbers[1:] > numbers[:-1]).all())


def _repeated(numbers: np.ndarray) -> int:
    in_order = np.sort(numbers)
    return int(in_order[1:][in_order[1:] == in_order[:-1]][0])


def _read_lines(path: Path) -> tuple[np.ndarray, np.ndarray]:
    capacity = count_lines(path)
    keys_N, offsets_N = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    count = 0
    for chunk in chunks_of_lines(path):
        numbers = _parse_in_bulk(chunk.text)
        if numbers is None:
            numbers = _parse_line_by_line(chunk, path)
        keys_N[count : count + len(numbers)] = numbers[:, 0]
        offsets_N[count : count + len(numbers)] = numbers[:, 1]
        count += len(numbers)
    return keys_N[:count], offsets_N[:count]


def _parse_in_bulk(text: bytes) -> np.ndarray | None:
    """(keys, offsets), int64 (n, 2), of lines exactly as MXNet writes them; None where one is not."""
    characters = np.frombuffer(text, np.uint8)
    separators = characters[characters < _ZERO]
    if len(separators) % 2 or characters.max() > _NINE:
        return None
    if (separators.reshape(-1, 2) != _TAB_NEWLINE).any():
        return None
    numbers = np.fromstring(text, np.int64, sep=" ")
    if len(numbers) != len(separators) or numbers.max(initial=0) >= 10**_MAX_DIGITS:
        return None
    return numbers.reshape(-1, 2)


def _parse_line_by_line(chunk: Chunk, path: Path) -> np.ndarray:
    numbers = []
    for line, words in enumerate(map(bytes.split, chunk.text.split(b"\n")), chunk.first_line):
        if not words:
            continue
        if len(words) != 2 or not all(word.isdigit() and len(word) <= _MAX_DIGITS for word in words):
            raise ValueError(f"{path}: line {line} is not `key<tab>offset`: this is not the index of a .rec")
        numbers.append([int(word) for word in words])
    return np.array(numbers, np.int64).reshape(-1, 2)
