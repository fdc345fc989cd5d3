"""Parts of a result, kept beside it until it is whole: OUT.npz.parts/.

    job.json                          what they are parts of
    images-000000000000-000000004096.npz   embeddings, labels, keys, and which images failed and why, of these images
    out.npz                           the result, while its last bytes are on their way to the disk

n images of a part, f of them failed, D embedding size.
"""

from __future__ import annotations

import io
import logging
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partial_fc.data.whole_file import write_whole
from partial_fc.embed.job import Job

log = logging.getLogger("partial_fc")

JOB_FILE = "job.json"

_NAME = re.compile(r"images-(\d{12})-(\d{12})\.npz")
_LARGEST_JOB = 1 << 16
_LARGEST_HEADER = 1 << 10
_LARGEST_KEY = 1 << 12
UNREADABLE = (
    *(OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, TypeError, AttributeError),
    *(zipfile.BadZipFile, zlib.error),
)  # fmt: skip
"""What reading an `.npz` raises where it is none, or no longer what was written."""


@dataclass(frozen=True)
class Part:
    """Images from number `first` on.

    Attributes:
        embeddings_nD: float32; rows of images that failed are zero.
        labels_n: int64; −1 where the label is unknown.
        keys_n: text, what each is called within its set.
        failed_f: int64, the numbers of the images that have no embedding, ascending.
        reasons_f: text, why.
    """

    first: int
    embeddings_nD: np.ndarray
    labels_n: np.ndarray
    keys_n: np.ndarray
    failed_f: np.ndarray
    reasons_f: np.ndarray

    def __len__(self) -> int:
        return len(self.labels_n)

    @property
    def stop(self) -> int:
        return self.first + len(self)


class KeptPart:
    """A part on the disk; what is asked of it is read from there.

    Attributes:
        images: the numbers of its images.
        widths: of its texts, by name, in characters.
        failed: how many failed.
    """

    def __init__(self, path: Path, part: Part) -> None:
        self._path = path
        self.images = range(part.first, part.stop)
        self.widths = {name: getattr(part, name).dtype.itemsize // 4 for name in ("keys_n", "reasons_f")}
        self.failed = len(part.failed_f)

    def read(self, name: str) -> np.ndarray:
        """One array of :class:`Part`. Raises ValueError when the file has been damaged since it was written."""
        try:
            with np.load(self._path) as file:
                return file[name]
        except UNREADABLE as error:
            raise ValueError(f"{self._path} has been damaged ({error}): start again, which mends it") from None


class Parts:
    """The parts of a job in a directory.

    Args:
        directory: it is made if it is not there.
        overwrite: whether parts of another job are removed.

    Attributes:
        kept: all of them, by their first image.

    Raises:
        ValueError: it holds parts of another job and `overwrite` is False.
        OSError: it cannot be read or written.
    """

    def __init__(self, directory: Path, job: Job, *, overwrite: bool = False) -> None:
        self.directory, self._job = directory, job
        self.kept: dict[int, KeptPart] = {}
        if directory.exists():
            differences = self._differences()
            if differences and not overwrite:
                raise ValueError(
                    f"{directory} holds parts of another result, which differs in {', '.join(differences)}: give the "
                    "command that they are of, or --overwrite to begin anew"
                )
            if differences:
                self.remove()
        directory.mkdir(exist_ok=True)
        write_whole(directory / JOB_FILE, job.to_json())
        self._find()

    def done(self) -> np.ndarray:
        """Bool, of every batch: whether there is a part with it."""
        is_done = np.zeros(self._job.batches, bool)
        for part in self.kept.values():
            is_done[part.images.start // self._job.batch_size : -(-part.images.stop // self._job.batch_size)] = True
        return is_done

    def add(self, part: Part) -> None:
        """Keeps a part. Raises OSError when it cannot be written."""
        file = io.BytesIO()
        np.savez(file, **{name: value for name, value in vars(part).items() if name != "first"})
        path = self.directory / f"images-{part.first:012d}-{part.stop:012d}.npz"
        try:
            write_whole(path, file.getbuffer())
        except OSError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
        self.kept[part.first] = KeptPart(path, part)

    def __iter__(self) -> Iterator[KeptPart]:
        """In the order of their images."""
        return iter([self.kept[first] for first in sorted(self.kept)])

    @property
    def failed(self) -> int:
        """How many images have no embedding."""
        return sum(part.failed for part in self.kept.values())

    def name_failed(self, at_most: int) -> list[tuple[str, str]]:
        """Key and reason of the first of them."""
        named: list[tuple[str, str]] = []
        for part in self:
            if part.failed and len(named) < at_most:
                places_f = part.read("failed_f") - part.images.start
                named += zip(part.read("keys_n")[places_f].tolist(), part.read("reasons_f").tolist(), strict=True)
        return named[:at_most]

    def remove(self) -> None:
        """All of it, when the result is whole or another is begun; last what tells of what the parts are."""
        for path in self.directory.iterdir():
            if path.name != JOB_FILE:
                path.unlink(missing_ok=True)
        shutil.rmtree(self.directory)

    def _differences(self) -> list[str]:
        path = self.directory / JOB_FILE
        if not self.directory.is_dir() or (not path.is_file() and any(self.directory.iterdir())):
            raise ValueError(f"{self.directory} is in the way, for parts of the result get that name: move it")
        if not path.is_file():
            return []  # it was made, and nothing written into it
        with path.open("rb") as file:
            return self._job.differences(file.read(_LARGEST_JOB).decode(errors="replace"))

    def _find(self) -> None:
        """Takes what is whole; what is not, or overlaps another, goes."""
        next_free = 0
        for path in sorted(self.directory.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match is None:
                if path.name != JOB_FILE:
                    path.unlink()  # what a killed run was writing
                continue
            first, stop = int(match[1]), int(match[2])
            try:
                if first < next_free or first % self._job.batch_size or not self._ends_a_batch(first, stop):
                    raise ValueError("it is not of whole batches, or of those of another part")
                self.kept[first] = KeptPart(path, self._load(path, first, stop))
                next_free = stop
            except UNREADABLE as error:
                log.warning("%s is damaged, and its images are embedded again: %s", path, error)
                path.unlink()

    def _ends_a_batch(self, first: int, stop: int) -> bool:
        return first < stop <= self._job.images and (stop % self._job.batch_size == 0 or stop == self._job.images)

    def _load(self, path: Path, first: int, stop: int) -> Part:
        """The part, read through, so that its checksums are looked at."""
        count = stop - first
        with np.load(path) as file:
            largest = count * 4 * max(self._job.embedding_size, _LARGEST_KEY) + _LARGEST_HEADER
            if any(member.file_size > largest for member in file.zip.infolist()):
                raise ValueError("it is larger than a part can be")
            names = [name for name in Part.__dataclass_fields__ if name != "first"]
            part = Part(first, **{name: file[name] for name in names})
        kinds = {"embeddings_nD": np.float32, "labels_n": np.int64, "failed_f": np.int64}
        if any(getattr(part, name).dtype != kind for name, kind in kinds.items()):
            raise ValueError("its arrays have other types")
        if any(getattr(part, name).dtype.kind != "U" for name in ("keys_n", "reasons_f")):
            raise ValueError("its keys are no text")
        shapes = {
            "embeddings_nD": (count, self._job.embedding_size), "labels_n": (count,), "keys_n": (count,),
            "reasons_f": part.failed_f.shape,
        }  # fmt: skip
        if part.failed_f.ndim != 1 or any(getattr(part, name).shape != shape for name, shape in shapes.items()):
            raise ValueError("its arrays have other shapes")
        if np.setdiff1d(part.failed_f, np.arange(first, stop)).size:
            raise ValueError("images of another part failed in it")
        return part
