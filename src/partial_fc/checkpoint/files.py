"""Files of a checkpoint: written with their checksum, synced, and with names that mean nothing outside it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_PIECE_BYTES = 1 << 22


@dataclass(frozen=True)
class Facts:
    """What a manifest says of a file.

    Attributes:
        bytes: its size.
        sha256: of its content, in hexadecimal digits.
    """

    bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def is_plain_name(name: str) -> bool:
    """Whether a name can only mean a file of the directory itself: no separator, no leading dot."""
    return _NAME.fullmatch(name) is not None


class SummedFile:
    """A new file that counts and sums what is written to it; on the disk when it is closed.

        with SummedFile(path) as file:
            file.write(data)
        file.facts

    Raises:
        OSError: the disk is full, or the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._file = path.open("wb", buffering=0)

    def __enter__(self) -> SummedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file, self._named():
            if kind is None:
                os.fsync(self._file.fileno())

    def write(self, data: bytes | memoryview, /) -> None:
        left = memoryview(data).cast("B")
        self._digest.update(left)
        self._bytes += len(left)
        with self._named():
            while left:
                left = left[self._file.write(left) :]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """The system does not say which file it could not write."""
        try:
            yield
        except OSError as error:
            raise OSError(f"cannot write {self._path}: {error.strerror}") from error

    @property
    def facts(self) -> Facts:
        return Facts(self._bytes, self._digest.hexdigest())


def write_text(path: Path, text: str) -> Facts:
    """Writes a text file."""
    with SummedFile(path) as file:
        file.write(text.encode())
    return file.facts


def facts_of(path: Path, size: int | None = None) -> Facts:
    """Reads a file through; ``size`` is the most that is read of it.

    Raises:
        OSError: it cannot be read.
    """
    digest, count = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES if size is None else min(_PIECE_BYTES, size + 1 - count)):
            digest.update(piece)
            count += len(piece)
    return Facts(count, digest.hexdigest())


def replace_json(path: Path, value: Any) -> None:
    """Puts a JSON file in place of the one of that name, or leaves that one as it is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write_text(temporary, json.dumps(value, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)
    sync_directory(path.parent)


def copy_beside(source: Path, target: Path) -> Path:
    """A copy of a file, on the disk, under a name from which one move brings it to ``target``."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_directory(directory: Path) -> None:
    """Brings the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
