"""Files and directories that appear complete or not at all, and never over another unasked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) under another name beside `path`, then renames it.

    Raises OSError when it cannot be written; nothing is left behind then.
    """
    with whole_file(path) as file:
        file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to fill, on the disk and named `path` at the end of the `with`; an exception removes it.

    Raises OSError when it cannot be written; nothing is left behind then.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A new directory to fill, which becomes `path` at the end of the `with`; an exception removes it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        exchange_directory(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def exchange_directory(temporary: Path, path: Path) -> None:
    """Renames `temporary` to `path`; what stood there goes, once the new one has its name."""
    old = temporary.with_name(f"{temporary.name}.old")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def refuse_existing(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Raises FileExistsError when one of `paths` is there and is not to be overwritten."""
    for path in paths:
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already: give another name, or --overwrite")
