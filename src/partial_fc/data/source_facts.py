"""What a set of images is, told without reading its images: whether it is the same as before, or elsewhere."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from partial_fc.data.combined import CombinedSource
from partial_fc.data.image_files import ImageFiles
from partial_fc.data.lmdb_source import LmdbSource
from partial_fc.data.records import RecordSource
from partial_fc.data.source import ImageSource

_PIECE_BYTES = 1 << 22
_IMAGES_AT_ONCE = 4096


class SourceFacts(NamedTuple):
    """content: SHA-256 of what images there are in which order and of the sizes of their files, not of where these lie.
    modified_ns: when the last of the files was changed, nanoseconds."""

    content: str
    modified_ns: int


def source_facts(source: ImageSource) -> SourceFacts:
    """Of a source as `open_source` gives it. It takes a look at every file: seconds for a million images in files.

    Raises OSError for a record file or a database that has gone. An image's file that has gone counts as empty.
    """
    digest = hashlib.sha256()
    modified_ns = _add(source, digest)
    return SourceFacts(digest.hexdigest(), modified_ns)


def _add(source: ImageSource, digest: hashlib._Hash) -> int:
    if isinstance(source, CombinedSource):
        digest.update(f"combined {len(source.sources)} {source.shared_labels}\n".encode())
        return max(_add(part, digest) for part in source.sources)
    digest.update(f"{type(source).__name__} {len(source)} {source.num_identities}\n".encode())
    if isinstance(source, ImageFiles):
        return _add_images(source, digest)
    if isinstance(source, RecordSource):
        span = slice(source.image_positions.start, source.image_positions.stop)
        for numbers in (source.index.keys_N, source.index.offsets_N):
            digest.update(np.ascontiguousarray(numbers[span], "<i8"))
        return _add_file(Path(source.name), digest)
    assert isinstance(source, LmdbSource), type(source)
    with source.list_path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    database = Path(source.name)
    modified_ns = _add_file(database / "data.mdb" if database.is_dir() else database, digest)
    return max(modified_ns, source.list_path.stat().st_mtime_ns)


def _add_file(path: Path, digest: hashlib._Hash) -> int:
    status = path.stat()
    digest.update(f"{status.st_size}\n".encode())
    return status.st_mtime_ns


def _add_images(source: ImageFiles, digest: hashlib._Hash) -> int:
    modified_ns, labels_N = 0, source.labels()
    for start in range(0, len(source), _IMAGES_AT_ONCE):
        lines = []
        for index in range(start, min(start + _IMAGES_AT_ONCE, len(source))):
            size = 0
            try:
                status = os.stat(source.path(index))
                size, modified_ns = status.st_size, max(modified_ns, status.st_mtime_ns)
            except (OSError, ValueError):  # a name with a zero byte in it is a ValueError
                pass
            lines.append(b"%d %d %s\n" % (size, labels_N[index], os.fsencode(source.key(index))))
        digest.update(b"".join(lines))
    return modified_ns
