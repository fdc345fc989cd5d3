"""Opens whatever images a user names: one of the formats, or several sets together.

    faces/train.rec                 a record file, with its .idx beside it if there is one
    faces                           a directory with train.rec in it, or with a single other .rec
    faces.lst                       a list of image files, as `im2rec` and InsightFace write it
    faces.lmdb                      an LMDB directory with its key list keys.txt in it
    faces.lmdb a.txt b.txt          an LMDB directory, or a .mdb file, and its key lists: each of these is a set
    faces                           any other directory: a folder of images for each identity

Where images need no identity, a directory whose images do not all lie in folders of it is all images below it.

Training, evaluation and `python -m partial_fc.data` take the same names, by this one function.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from partial_fc.data.combined import CombinedSource
from partial_fc.data.folder import FolderSource, identity_folders
from partial_fc.data.list_source import ListSource
from partial_fc.data.lmdb_source import KEY_LIST_NAME, LmdbSource
from partial_fc.data.plain_folder import PlainFolderSource
from partial_fc.data.records import RecordSource
from partial_fc.data.source import ImageSource

log = logging.getLogger("partial_fc")

PATHS_HELP = (
    "a .rec, a directory with train.rec, a .lst, an LMDB directory (its key lists behind it, or keys.txt in it), or a "
    "folder with a folder for each identity; several follow one another in one set"
)
"""What ``--help`` says of such names."""

Name = tuple[Path, Path | None]  # what to open, and the key list of a database


def open_source(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    shared_labels: bool = False,
    needs_identities: bool = True,
) -> ImageSource:
    """The images that `paths` name, one set after the other.

    shared_labels = False: the identities of different sets are different people, and the labels of each set
    follow on those of the one before it. True: all sets number one list of identities; folders share it by
    the names of their identities, all of which are listed in the order of their bytes.

    needs_identities = False: a folder whose images do not all lie in folders of it is opened as a `PlainFolderSource`.

    Memory and time are those of the sources. Raises FileNotFoundError for what is not there, ValueError for
    what is no set of images, and for folders that are to share their labels with sets of numbers.
    """
    names = name_sets([paths] if isinstance(paths, str | os.PathLike) else paths)
    classes = _shared_classes([path for path, _ in names]) if shared_labels and len(names) > 1 else None
    with ExitStack() as opened:
        sources: list[ImageSource] = []
        for path, key_list in names:
            sources.append(_open(path, key_list, classes, needs_identities))
            opened.callback(sources[-1].close)
        source = sources[0] if len(sources) == 1 else CombinedSource(sources, shared_labels=shared_labels)
        opened.pop_all()
    return source


def name_sets(paths: Sequence[str | os.PathLike[str]]) -> list[Name]:
    """What each of `paths` is: (the set, the key list of a database or None). Opens nothing.

    Raises as `open_source`.
    """
    names: list[Name] = []
    rest = [Path(path) for path in paths]
    if not rest:
        raise ValueError("there are no images to open: name a set or more")
    while rest:
        path = rest.pop(0)
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}: give {PATHS_HELP}")
        if _is_database(path):
            lists = []
            while rest and _is_key_list(rest[0]):
                lists.append(rest.pop(0))
            names += [(path, key_list) for key_list in lists or [_own_list(path)]]
        elif path.is_dir():
            names.append((_record_file(path) or path, None))
        elif path.suffix in (".rec", ".lst"):
            names.append((path, None))
        else:
            raise ValueError(f"{path} is no set of images: give {PATHS_HELP}")
    return names


def identity_names(source: ImageSource) -> list[bytes] | None:
    """The name of every identity by its label, where the source has names: a folder, or several of them."""
    if isinstance(source, FolderSource):
        return source.identity_names
    if isinstance(source, CombinedSource):
        parts = [identity_names(part) for part in source.sources]
        if source.shared_labels:
            return parts[0]
        if all(part is not None for part in parts):
            return [name for part in parts for name in part or []]
    return None


def _open(path: Path, key_list: Path | None, classes: list[bytes] | None, needs_identities: bool) -> ImageSource:
    if key_list is not None:
        return LmdbSource(path, key_list)
    if path.is_dir():
        if not needs_identities:
            plain = PlainFolderSource(path)
            if not plain.is_by_identity:
                log.info("%s: its images do not all lie in a folder for each identity, and have no label", path)
                return plain
        return FolderSource(path, classes)
    return ListSource(path) if path.suffix == ".lst" else RecordSource(path)


def _is_database(path: Path) -> bool:
    return (path / "data.mdb").is_file() if path.is_dir() else path.suffix == ".mdb"


def _is_key_list(path: Path) -> bool:
    return path.is_file() and path.suffix not in (".rec", ".lst", ".mdb")


def _own_list(database: Path) -> Path:
    path = (database if database.is_dir() else database.parent) / KEY_LIST_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{database} is a database without {path.name}, its list of keys and labels: name the list behind it"
        )
    return path


def _record_file(directory: Path) -> Path | None:
    """The record file of a directory; None where it has none. Raises ValueError when there is a choice."""
    if (directory / "train.rec").is_file():
        return directory / "train.rec"
    files = sorted(directory.glob("*.rec"))
    if len(files) > 1:
        raise ValueError(f"{directory} holds {len(files)} record files and no train.rec: name one of them")
    return files[0] if files else None


def _shared_classes(paths: Sequence[Path]) -> list[bytes] | None:
    """The names of all identities of the sets, if these are folders; None for sets of numbered labels."""
    folders = [path for path in paths if path.is_dir() and not _is_database(path)]
    if folders and len(folders) < len(paths):
        raise ValueError(
            f"{folders[0]} names its identities and the other sets number theirs, so that they have no list in "
            "common: pack the folders by themselves first, or let the labels follow on one another"
        )
    if not folders:
        return None
    return sorted({name for folder in folders for name in identity_folders(folder)})
