"""Embeddings on disk by the content of model and images, so that a second protocol costs no second pass.

A file `KEY.npz` a list and view: `embeddings` (N, D) float32 and `sha256` (32,) uint8 of KEY and the embeddings' bytes.
KEY is the SHA-256 of the model's digest, the view and each image's digest in order; an image's is that of its encoded
bytes and its landmarks. Nothing else is in it: neither paths nor dates, nor the number of ranks.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from partial_fc.collectives import Collectives, together
from partial_fc.evaluation.embedding import contiguous_share
from partial_fc.evaluation.images import Images

logger = logging.getLogger("partial_fc")

_DIGEST_BYTES = 16
_THREADS = 4
_BYTES_PER_ROUND = 64 << 20


class EmbeddingCache:
    """The files of a directory, which is made when the first one is written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, key: str) -> np.ndarray | None:
        """`embeddings_ND` of `key`; None where there is none, or where it is damaged (which is logged)."""
        path = self.directory / f"{key}.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path) as file:
                embeddings_ND, sha256 = file["embeddings"], file["sha256"].tobytes()
            if embeddings_ND.dtype != np.float32 or embeddings_ND.ndim != 2:
                raise ValueError(f"it holds {embeddings_ND.dtype} of shape {embeddings_ND.shape}")
            if sha256 != _checksum(key, embeddings_ND):
                raise ValueError("its checksum does not fit")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("%s is damaged and not used: %s", path, error)
            return None
        return embeddings_ND

    def save(self, key: str, embeddings_ND: np.ndarray) -> None:
        """Writes the file, which appears complete or not at all. A disk that does not take it is logged, no more."""
        path = self.directory / f"{key}.npz"
        sha256 = np.frombuffer(_checksum(key, embeddings_ND), np.uint8)
        temporary = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=f".{key[:16]}.", suffix=".npz")
            with os.fdopen(handle, "wb") as file:
                np.savez(file, embeddings=embeddings_ND, sha256=sha256)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            logger.warning("the embeddings are not kept, for %s cannot be written: %s", path, error)


def cache_key(model_digest: str, mirrored: bool, list_digest: str) -> str:
    """KEY of the embeddings of a list's images, or of their mirrors."""
    return hashlib.sha256(f"{model_digest} {'mirror' if mirrored else 'image'} {list_digest}".encode()).hexdigest()


def list_digest(images: Images, collectives: Collectives) -> str:
    """The digest of all images in order, the same on every rank; ranks share the reading. Two object gathers.

    Raises:
        RankError: on every rank, when on any an image cannot be read.
    """

    def digest(index: int) -> bytes:
        content = hashlib.blake2b(images.read(index), digest_size=_DIGEST_BYTES)
        if images.landmarks_N52 is not None:
            content.update(b"landmarks" + np.ascontiguousarray(images.landmarks_N52[index], "<f4").tobytes())
        return content.digest()

    own: Sequence[bytes] = ()
    with together(collectives, f"read.{images.name}"):
        indices = range(len(images))[contiguous_share(len(images), collectives.rank, collectives.size)]
        with ThreadPoolExecutor(_THREADS) as pool:
            own = list(pool.map(digest, indices))
    parts = collectives.gather_objects(b"".join(own), f"digests.{images.name}")
    return hashlib.sha256(b"".join(parts)).hexdigest()


def from_first_rank(array_ND: np.ndarray | None, name: str, collectives: Collectives) -> np.ndarray | None:
    """Rank 0's array, or its None, on every rank; some megabytes at a time."""
    if collectives.size == 1:
        return array_ND
    shape = collectives.gather_objects(None if array_ND is None else array_ND.shape, f"shape.{name}")[0]
    if shape is None:
        return None
    received_ND = array_ND if collectives.rank == 0 else np.empty(shape, np.float32)
    rows = max(1, _BYTES_PER_ROUND // (4 * shape[1]))
    for start in range(0, shape[0], rows):
        part = received_ND[start : start + rows] if collectives.rank == 0 else None
        received_ND[start : start + rows] = collectives.gather_objects(part, f"rows.{name}")[0]
    return received_ND


def default_directory() -> Path:
    """`$XDG_CACHE_HOME/partial_fc/embeddings`, or `~/.cache/…`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "partial_fc" / "embeddings"


def _checksum(key: str, embeddings_ND: np.ndarray) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(np.ascontiguousarray(embeddings_ND, "<f4"))
    return digest.digest()
