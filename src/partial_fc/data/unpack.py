"""From a set to folders of images: one folder an identity, the image files as they are in the set.

    <output>/<set>_<identity>/<image>.jpg           identity: 8 digits; image: 8 digits
    <output>/unpacked.json                          the sets, how much of each is there, what was left out
    <output>/<set>.left_out.txt                     the images that cannot be read, and why

The set's name is a part of the folder's, so that identities of several sets never fall together.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from partial_fc.data.copy_images import LeftOut, left_out
from partial_fc.data.in_order import map_in_order
from partial_fc.data.open_source import name_sets, open_source
from partial_fc.data.source import ImageSource
from partial_fc.data.whole_file import write_whole

MANIFEST = "unpacked.json"

_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}
_SAVE_EVERY_IMAGES = 5_000


class NamedSet(NamedTuple):
    """A set to unpack: what its folders are called after, and what `open_source` takes."""

    name: str
    paths: list[Path]


def name_of_each(paths: Sequence[Path]) -> list[NamedSet]:
    """The sets that `paths` name, each by its directory (``a`` of ``a``, ``a/train.rec`` and ``a/a.lst``).

    Raises:
        ValueError: no set, two sets of one name, or a path that is none.
        FileNotFoundError: there is nothing of that name.
    """
    sets: list[NamedSet] = []
    for path, key_list in name_sets(paths):
        name = (path if path.is_dir() else path.parent).resolve().name
        if name in [other.name for other in sets]:
            raise ValueError(f"two data sets are called {name}: their identities would fall together; rename one")
        sets.append(NamedSet(name, [path] if key_list is None else [path, key_list]))
    return sets


def unpack(paths: Sequence[Path], output: Path, *, workers: int = 1) -> Iterator[tuple[str, int, int]]:
    """Writes every image of the sets below `output`, and goes on where an earlier call stopped.

    A file appears complete or not at all. What is there of a set already is not written again; images that
    an earlier call finished are not even read. A record that is broken is left out and listed.

    Args:
        paths: what :func:`partial_fc.data.open_source.open_source` takes.
        output: made when it is missing.
        workers: threads that read and write.

    Yields:
        (set, images done, images of the set), after each image.

    Raises:
        ValueError: see :func:`name_of_each`; a set of which no image can be read; an output that holds another
            set of the same name.
        OSError: the output cannot be written.
    """
    sets = name_of_each(paths)
    for name, set_paths in sets:
        with closing(open_source(set_paths)) as source:
            progress = _Progress(output, name, source)
            folders = _Folders(output, name)
            yield name, progress.done, len(source)
            images = range(progress.done, len(source))
            with closing(map_in_order(lambda i: folders.copy(source, i), images, workers)) as written:  # noqa: B023
                try:
                    for missing in written:
                        progress.advance(missing)
                        yield name, progress.done, len(source)
                finally:
                    progress.save()
            if len(progress.left_out) == len(source):
                raise ValueError(f"no image of {source.name} can be read: {' '.join(progress.left_out[0])}")


def left_out_path(output: Path, name: str) -> Path:
    """Where the images of the set `name` that could not be read are listed; there is no such file without them."""
    return output / f"{name}.left_out.txt"


class _Progress:
    """How many images of a set are there, in a file that outlives the process."""

    def __init__(self, output: Path, name: str, source: ImageSource):
        self._path, self._name = output / MANIFEST, name
        image = _read(source, 0)
        first = b"" if isinstance(image, LeftOut) else image[0]
        mark = {"images": len(source), "identities": source.num_identities, "first_image_crc": zlib.crc32(first)}
        found = self._load().get(name)
        if found is not None and {key: found.get(key) for key in mark} != mark:
            raise ValueError(
                f"{output} holds another set called {name} already ({found.get('images')} images of "
                f"{found.get('identities')} identities): rename this one, or give another directory"
            )
        self._mark, self.done = mark, 0
        self.left_out: list[LeftOut] = []
        if found is not None and isinstance(found.get("done"), int) and 0 <= found["done"] <= len(source):
            self.done = found["done"]
            self.left_out = [LeftOut(str(where), str(why)) for where, why in found.get("left_out", [])]

    def advance(self, missing: LeftOut | None) -> None:
        self.done += 1
        if missing is not None:
            self.left_out.append(missing)
        if self.done % _SAVE_EVERY_IMAGES == 0:
            self.save()

    def save(self) -> None:
        progress = {"done": self.done} | ({"left_out": self.left_out} if self.left_out else {})
        manifest = self._load() | {self._name: self._mark | progress}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, json.dumps(manifest, indent=2) + "\n")
        listed = left_out_path(self._path.parent, self._name)
        if self.left_out:
            write_whole(listed, "".join(f"{where}\t{why}\n" for where, why in self.left_out))
        else:
            listed.unlink(missing_ok=True)

    def _load(self) -> dict[str, dict]:
        if not self._path.is_file():
            return {}
        try:
            manifest = json.loads(self._path.read_bytes())
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or not all(map(_is_entry, manifest.values())):
            raise ValueError(f"{self._path} is damaged: delete it, and files that are there are found anew")
        return manifest


def _is_entry(entry: object) -> bool:
    """Whether it is what the manifest says of a set, as far as its list of images goes."""
    missing = entry.get("left_out", []) if isinstance(entry, dict) else None
    return isinstance(missing, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in missing)


class _Folders:
    """The folders of one set."""

    def __init__(self, output: Path, name: str):
        self._output, self._name = output, name

    def copy(self, source: ImageSource, index: int) -> LeftOut | None:
        """Writes one image; returns why not, where it cannot be read."""
        found = _read(source, index)
        if isinstance(found, LeftOut):
            return found
        self._write(index, *found)
        return None

    def _write(self, index: int, image: bytes, label: int) -> None:
        path = self._output / f"{self._name}_{label:08d}" / f"{index:08d}{_suffix(image)}"
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


def _read(source: ImageSource, index: int) -> tuple[bytes, int] | LeftOut:
    try:
        return source.read(index)
    except ValueError as error:
        return left_out(source, index, error)


def _suffix(image: bytes) -> str:
    return next((suffix for start, suffix in _SUFFIXES.items() if image.startswith(start)), ".jpg")
