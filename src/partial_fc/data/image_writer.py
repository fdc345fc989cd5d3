"""What every writer of images offers, and the one that a name asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from partial_fc.data.lmdb_writer import LmdbWriter
from partial_fc.data.record_writer import RecordWriter
from partial_fc.data.whole_file import refuse_existing


class ImageWriter(Protocol):
    """Takes images one by one; its files have their names at the end of the `with` and not before."""

    image_size: tuple[int, int]
    """(height, width), for what the format says of all images; may be set until the end of the `with`."""

    def __enter__(self) -> ImageWriter: ...

    def __exit__(self, *error: object) -> None: ...

    def add(self, image_bytes: bytes, label: int) -> None:
        """Appends an encoded image of identity `label`. Raises OSError when the disk is full."""
        ...


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Raises ValueError for a name that says no format, and FileExistsError for one that is taken.

    A `.rec` brings `.idx` and `property`, of which a directory holds one.
    """
    if path.suffix not in (".rec", ".lmdb"):
        raise ValueError(f"a set of images is written as NAME.rec or NAME.lmdb, got {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent} to write {path.name} to: make it first")
    refuse_existing([path, path.with_suffix(".idx")] if path.suffix == ".rec" else [path], overwrite=overwrite)
    if path.suffix == ".lmdb":
        if path.exists() and not (path / "data.mdb").is_file():
            raise FileExistsError(f"{path} is there and is no LMDB directory: give another name")
        return
    others = [other for other in path.parent.glob("*.rec") if other != path]
    if others and path.with_name("property").exists():
        raise FileExistsError(
            f"{path.parent} holds {others[0].name} with its `property`, and a directory has one: give another directory"
        )


def open_writer(path: Path, *, in_order: bool, num_identities: int) -> ImageWriter:
    """The writer of `path`: NAME.rec or NAME.lmdb. See `RecordWriter` for what the rest says of a `.rec`."""
    if path.suffix == ".lmdb":
        return LmdbWriter(path)
    return RecordWriter(path, in_order=in_order, num_identities=num_identities)
