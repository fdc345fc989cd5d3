"""From records to folders of images: one folder an identity, the image files as they are in the record file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from partial_fc.data.records import RecordSource

_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}


def record_files(sets: Sequence[Path]) -> dict[str, Path]:
    """The record file of each data set by the set's name: a ``.rec``, or a directory that holds ``train.rec``.

    Raises:
        ValueError: no set, two sets of one name, or a path that is neither.
    """
    if not sets:
        raise ValueError("there is nothing to unpack: name one data set or more")
    files: dict[str, Path] = {}
    for path in sets:
        rec = path / "train.rec" if path.is_dir() else path
        if not rec.is_file():
            raise ValueError(f"{path} holds no record file: give a .rec, or a directory with train.rec in it")
        name = (path if path.is_dir() else path.parent).resolve().name
        if name in files:
            raise ValueError(f"two data sets are called {name}: their identities would fall together; rename one")
        files[name] = rec
    return files


def unpack(sets: Sequence[Path], output: Path) -> Iterator[tuple[str, int, int]]:
    """Writes ``<output>/<set>_<identity>/<image>.jpg`` for every image, and goes on where an earlier call stopped.

    The set's name is a part of the folder's, so that identities of several sets never fall together. A file appears
    complete or not at all, and one that is there is not written again.

    Args:
        sets: record files, or directories with a ``train.rec``.
        output: made when it is missing.

    Yields:
        (set, images done, images of the set), after each image.

    Raises:
        ValueError: see :func:`record_files`; a record that is broken.
        OSError: the output cannot be written.
    """
    for name, rec in record_files(sets).items():
        with closing(RecordSource(rec)) as source:
            for index in range(len(source)):
                image, label = source.read(index)
                folder = output / f"{name}_{label:08d}"
                _write(folder / f"{index:08d}{_suffix(image)}", image)
                yield name, index + 1, len(source)


def _write(path: Path, image: bytes) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_bytes(image)
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _suffix(image: bytes) -> str:
    return next((suffix for start, suffix in _SUFFIXES.items() if image.startswith(start)), ".jpg")
