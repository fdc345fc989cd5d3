"""Images of a set by what they are called."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from partial_fc.data.combined import CombinedSource
from partial_fc.data.list_source import read_list
from partial_fc.data.records import RecordSource
from partial_fc.data.source import ImageSource

_SUFFIXES = (".jpg", ".jpeg", ".png")


def find_images(source: ImageSource, names: Iterable[str]) -> dict[str, int]:
    """The number of the image that each of `names` calls: a key, with or without the suffix .jpg, .jpeg or .png.

    The key is a path below a folder, one in a list, that of a database, or the number of a record; a record
    is also called what a `.lst` of the same name beside its file calls it.

    Raises:
        ValueError: a name that calls no image, the first one with their number.
    """
    wanted = list(dict.fromkeys(names))
    index_of: dict[str, int] = {}
    names_of: dict[str, list[str]] = {}
    for name in wanted:
        for form in (name, *(name + suffix for suffix in _SUFFIXES)):
            names_of.setdefault(form, []).append(name)
    for key, index in _keys(source):
        for name in names_of.get(key, ()):
            if name not in index_of or key == name:
                index_of[name] = index
    missing = [name for name in wanted if name not in index_of]
    if missing:
        raise ValueError(
            f"{source.name} has no image {missing[0]}{f' and {len(missing) - 1} others' if len(missing) > 1 else ''}: "
            f"its images are called as {source.key(0)}"
        )
    return index_of


def _keys(source: ImageSource) -> Iterable[tuple[str, int]]:
    for index in range(len(source)):
        yield source.key(index), index
    start = 0
    for part in source.sources if isinstance(source, CombinedSource) else [source]:
        if isinstance(part, RecordSource):
            for key, index in _listed_keys(part):
                yield key, start + index
        start += len(part)


def _listed_keys(source: RecordSource) -> Iterable[tuple[str, int]]:
    path = Path(source.name).with_suffix(".lst")
    if not path.is_file():
        return
    index_of = {source.key(index): index for index in range(len(source))}
    for line in read_list(path):
        index = index_of.get(str(line.index if line.index is not None else line.number))
        if index is not None:
            yield os.fsdecode(line.path), index
