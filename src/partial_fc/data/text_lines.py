"""Text files of millions of lines, some megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHUNK_BYTES = 4 << 20
MAX_LINE_BYTES = 4096  # more is taken for several lines, none of which parses


class Chunk(NamedTuple):
    """Whole lines: the number of the first, from 1, where they start in the file, their bytes."""

    first_line: int
    offset: int
    text: bytes


def count_lines(path: Path) -> int:
    """How many lines the file has at most: one that the end of the file ends included."""
    with path.open("rb") as file:
        return 1 + sum(text.count(b"\n") for text in iter(lambda: file.read(CHUNK_BYTES), b""))


def chunks_of_lines(path: Path) -> Iterator[Chunk]:
    """The lines of the file; the last one may lack its end."""
    line, offset = 1, 0
    with path.open("rb") as file:
        while text := file.read(CHUNK_BYTES):
            text += file.readline(MAX_LINE_BYTES)
            yield Chunk(line, offset, text)
            line += text.count(b"\n")
            offset += len(text)
