"""Image files named by a `.lst`, in either layout that goes by that name; tabs part the fields.

    im2rec         index<tab>label[<tab>further labels …]<tab>path
    InsightFace    aligned<tab>path<tab>label[<tab>box and landmarks …]

The second field tells them apart: a number in the first, a path in the other. Labels may be written as whole
floats, as `im2rec` does. Blank lines and Windows line ends are passed over; paths may hold blanks and need not
be UTF-8.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from partial_fc.data.image_files import ImageFiles
from partial_fc.data.text_lines import MAX_LINE_BYTES, chunks_of_lines

_LABEL_LIMIT = 1 << 48


class ListLine(NamedTuple):
    """One line: its number in the file, the index of its image (None in InsightFace's layout), label, path."""

    number: int
    index: int | None
    label: int
    path: bytes


def read_list(path: str | os.PathLike[str]) -> Iterator[ListLine]:
    """The lines of a `.lst`. Raises ValueError, naming the line, for one of neither layout."""
    path = Path(path)
    for chunk in chunks_of_lines(path):
        for number, line in enumerate(chunk.text.split(b"\n"), chunk.first_line):
            if line.strip():
                yield _parse(line.rstrip(b"\r"), number, path)


class ListSource(ImageFiles):
    """The images of a `.lst`, in the order of its lines: an `ImageSource`.

    list_path: the list. root: what its paths are relative to, the directory of the list unless given. C is
    one more than the largest label. Memory: an image's path and 16 bytes.

    Raises FileNotFoundError when there is no list, ValueError for a line that is none or when there is none.
    """

    def __init__(self, list_path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None):
        path = Path(list_path)
        self.name = str(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no list {path}: give the path of a .lst")
        self._root = os.fsencode(path.parent if root is None else root)
        self._paths = bytearray()  # of all images, one after the other
        ends, labels = array("q", [0]), array("q")
        for line in read_list(path):
            self._paths += line.path
            ends.append(len(self._paths))
            labels.append(line.label)
        if not labels:
            raise ValueError(f"{path} names no image: it needs lines of an index, a label and a path, parted by tabs")
        self._ends, self._labels = np.array(ends), np.array(labels, np.int64)
        self.num_identities = int(self._labels.max()) + 1

    def path(self, index: int) -> bytes:
        """The path of image `index`, as the file system has it."""
        return os.path.join(self._root, self._path(index))

    def key(self, index: int) -> str:
        return os.fsdecode(self._path(index))

    def _path(self, index: int) -> bytes:
        return bytes(self._paths[self._ends.item(index) : self._ends.item(index + 1)])


def _parse(line: bytes, number: int, path: Path) -> ListLine:
    fields = line.split(b"\t")
    if len(line) <= MAX_LINE_BYTES and len(fields) >= 3:
        label = _whole_number(fields[1])
        if label is not None and fields[0].isdigit() and fields[-1]:
            return ListLine(number, int(fields[0]), label, fields[-1])
        label = _whole_number(fields[2])
        if label is not None and fields[0] in (b"0", b"1") and fields[1]:
            return ListLine(number, None, label, fields[1])
    raise ValueError(
        f"{path}: line {number} is neither `index<tab>label<tab>path` nor `aligned<tab>path<tab>label`, with a label "
        "that is a whole number from 0 up"
    )


def _whole_number(text: bytes) -> int | None:
    """12 of `12`, `12.0` and `1.2e1`; None of anything else."""
    try:
        number = int(text) if text.isdigit() else float(text)
    except ValueError:
        return None
    return int(number) if 0 <= number < _LABEL_LIMIT and number == int(number) else None
