"""The result: an `.npz` that plain `numpy.load` reads, written in blocks, so that it need not fit in memory.

N images, D embedding size, F images that failed:

    embeddings   (N, D) float32, of unit length unless `normalized` is False; zero where the image failed
    labels       (N,) int64, −1 where there is none
    keys         (N,) text, what each image is called within its set
    failed       (F,) int64, the rows of images that have no embedding
    reasons      (F,) text, why
    model        text, what the model was called; model_digest: SHA-256 of it
    flip, normalized   bool
    job          text, SHA-256 of all that the result depends on
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from partial_fc.data.whole_file import whole_file
from partial_fc.embed.job import Job
from partial_fc.embed.parts import UNREADABLE, KeptPart, Parts

_NO_DATE = (1980, 1, 1, 0, 0, 0)  # the same result is the same file
_LARGEST_DIGEST = 1 << 12


class NpzWriter:
    """The arrays of an `.npz`, one after the other. Use it in a `with`, at whose end the file is complete."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True)

    def __enter__(self) -> NpzWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with nullcontext() if kind is None else suppress(OSError, ValueError):
            self._zip.close()

    def add(self, name: str, array: np.ndarray) -> None:
        """A whole array."""
        self.stream(name, array.shape, array.dtype, [array])

    def stream(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterable[np.ndarray], *, deflate: bool = False
    ) -> None:
        """An array of `shape` by blocks of its rows, each of which is brought to `dtype`."""
        entry = zipfile.ZipInfo(f"{name}.npy", _NO_DATE)
        entry.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        rows = 0
        with self._zip.open(entry, "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(np.ascontiguousarray(block, dtype).tobytes())
                rows += len(block) if shape else 1
        assert rows == (shape[0] if shape else 1), (name, rows, shape)


def write_result(path: Path, parts: Parts, job: Job, model: str) -> None:
    """Joins the parts to `path`, which appears whole or not at all, and removes them.

    Raises:
        ValueError: a part is damaged.
        OSError: it cannot be written.
    """
    failed = parts.failed
    unfinished = parts.directory / "out.npz"
    try:
        with whole_file(unfinished) as file, NpzWriter(file) as writer:
            rows = _batches(job, parts, "embeddings_nD")
            writer.stream("embeddings", (job.images, job.embedding_size), np.dtype(np.float32), rows)
            writer.stream("labels", (job.images,), np.dtype(np.int64), _batches(job, parts, "labels_n"))
            # Padded to the longest: most of it is zeros, which deflate to nothing.
            writer.stream("keys", (job.images,), _width(parts, "keys_n"), _batches(job, parts, "keys_n"), deflate=True)
            writer.stream("failed", (failed,), np.dtype(np.int64), (part.read("failed_f") for part in parts))
            one_by_one = (np.array([one]) for part in parts for one in part.read("reasons_f"))
            writer.stream("reasons", (failed,), _width(parts, "reasons_f"), one_by_one, deflate=True)
            facts = {"model": model, "model_digest": job.model_digest, "job": job.digest}
            for name, value in {**facts, "flip": job.flip, "normalized": job.normalize}.items():
                writer.add(name, np.array(value))
        unfinished.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    parts.remove()


def is_result_of(path: Path, job: Job) -> bool:
    """Whether a file is the whole result of a job."""
    try:
        with np.load(path) as file:
            return file.zip.getinfo("job.npy").file_size < _LARGEST_DIGEST and str(file["job"]) == job.digest
    except UNREADABLE:
        return False


def _batches(job: Job, parts: Iterable[KeptPart], name: str) -> Iterator[np.ndarray]:
    """An array of all parts by batches: however these were cut into parts, the file is the same."""
    for part in parts:
        array = part.read(name)
        for start in range(0, len(array), job.batch_size):
            yield array[start : start + job.batch_size]


def _width(parts: Iterable[KeptPart], name: str) -> np.dtype:
    return np.dtype(f"<U{max(1, *(part.widths[name] for part in parts))}")
