"""What is to be embedded, by what and how: all that the result depends on, so that parts of it are known again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FORMAT_VERSION = 1

_IN_WORDS = {
    "model_digest": "the model, or what is said of its pixels and output",
    "source_content": "the images",
    "source_modified_ns": "when files of the images were changed",
    "images": "the number of images",
    "embedding_size": "the embedding size",
    "batch_size": "--batch-size",
    "flip": "--flip",
    "normalize": "--no-normalize",
}


@dataclass(frozen=True)
class Job:
    """N images, each with an embedding of D numbers.

    Attributes:
        model_digest: see :attr:`partial_fc.face_embedder.FaceEmbedder.digest`.
        source_content, source_modified_ns: see :mod:`partial_fc.data.source_facts`.
        images, embedding_size: N, D.
        batch_size: images that are computed at once, on which the last bits depend.
        flip, normalize: see :class:`partial_fc.face_embedder.FaceEmbedder`.
    """

    model_digest: str
    source_content: str
    source_modified_ns: int
    images: int
    embedding_size: int
    batch_size: int
    flip: bool
    normalize: bool

    @property
    def batches(self) -> int:
        return -(-self.images // self.batch_size)

    def batch(self, number: int) -> range:
        """The images of a batch; the last one may have fewer."""
        return range(number * self.batch_size, min((number + 1) * self.batch_size, self.images))

    def left(self, is_done: np.ndarray) -> list[range]:
        """The batches of which `is_done` is False."""
        return [self.batch(number) for number in np.flatnonzero(~is_done).tolist()]

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT_VERSION, **asdict(self)}, indent=2, sort_keys=True)

    def differences(self, text: str) -> list[str]:
        """What is not as `text`, another job's JSON, says, in words; that it is none, where it is not."""
        try:
            other: Any = json.loads(text)
        except (ValueError, RecursionError):
            other = None
        if not isinstance(other, dict) or other.get("format") != FORMAT_VERSION:
            return ["the format"]
        own = asdict(self)
        return [words for name, words in _IN_WORDS.items() if other.get(name) != own[name]]
