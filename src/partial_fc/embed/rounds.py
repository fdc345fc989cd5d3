"""The work: batches that no part holds yet, shared out over ranks anew in every round, until there are none.

A round lasts some seconds on every rank, however quick it is: what was embedded is then kept, and a slow rank is given
less in the next. The images are cut into batches first, so that one is computed at the same place of the same batch by
any rank of any number of ranks: the result is the same to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from partial_fc.collectives import Collectives, together
from partial_fc.data.copy_images import left_out
from partial_fc.data.decode import decode
from partial_fc.data.plain_folder import NO_IDENTITY
from partial_fc.data.source import ImageSource
from partial_fc.embed.job import Job
from partial_fc.embed.parts import Part
from partial_fc.evaluation.embedding import contiguous_share
from partial_fc.face_embedder import FaceEmbedder

ROUND_SECONDS = 20.0
ROUND_BYTES = 64 << 20
"""Of the embeddings that all ranks together hold and exchange in a round."""

_LONGEST_REASON = 300
_BROKEN = "its embedding is zero or not finite"


def embed_rounds(
    embedder: FaceEmbedder,
    source: ImageSource,
    job: Job,
    is_done: np.ndarray,
    collectives: Collectives,
    keep: Callable[[Part], None],
    progress: Callable[[int], None],
) -> None:
    """Embeds the batches of `job` of which `is_done` is False; every rank calls it, with the same.

    Three object gathers a round, one of which carries the round's embeddings.

    Args:
        keep: takes a part, on rank 0 alone.
        progress: is told, on rank 0 alone, how many more images are done.

    Raises:
        RankError: on every rank, when on any a file cannot be read, the model does not give (B, D), or `keep` fails.
    """
    is_done = is_done.copy()
    row_bytes = 4 * job.embedding_size * job.batch_size * collectives.size
    batches_at_most = max(1, ROUND_BYTES // row_bytes)
    while not is_done.all():
        missing = np.flatnonzero(~is_done)
        own = missing[contiguous_share(len(missing), collectives.rank, collectives.size)][:batches_at_most]
        part: Part | None = None
        with together(collectives, "embed.round"):
            part = _embed_part(embedder, source, job, own, progress if collectives.rank == 0 else lambda images: None)
        gathered = [part for part in collectives.gather_objects(part, "embed.parts") if part is not None]
        with together(collectives, "embed.keep"):
            if collectives.rank == 0:
                for part in gathered:
                    keep(part)
        for part in gathered:
            is_done[part.first // job.batch_size : -(-part.stop // job.batch_size)] = True
        if collectives.rank == 0:
            progress(sum(len(part) for part in gathered[1:]))


def _embed_part(
    embedder: FaceEmbedder, source: ImageSource, job: Job, own: np.ndarray, progress: Callable[[int], None]
) -> Part | None:
    """The first of this rank's batches, as many as follow one another and are begun in time."""
    if len(own) == 0:
        return None
    end = time.perf_counter() + ROUND_SECONDS

    def batches() -> Iterator[range]:
        for place, number in enumerate(own.tolist()):
            if place and (number != own[place - 1] + 1 or time.perf_counter() > end):
                return
            yield job.batch(number)

    reader = _Reader(source, embedder.image_size)
    first = next = own.item(0) * job.batch_size
    rows = []
    for embeddings_bD, is_broken_b in embedder.embed_batches(batches(), reader.pixels):
        for place in np.flatnonzero(is_broken_b):
            reader.reasons.setdefault(next + int(place), _BROKEN)
        rows.append(embeddings_bD)
        next += len(embeddings_bD)
        progress(len(embeddings_bD))
    return reader.part(first, np.concatenate(rows))


class _Reader:
    """Images of a source as pixels, with labels and what is wrong with those that cannot be had."""

    def __init__(self, source: ImageSource, image_size: int) -> None:
        self.reasons: dict[int, str] = {}
        self._source, self._side = source, (image_size, image_size)
        self._labels: dict[int, int] = {}

    def pixels(self, index: int) -> np.ndarray:
        """uint8 RGB (S, S, 3); black where there is no image. Called from many threads."""
        try:
            encoded, self._labels[index] = self._source.read(index)
            return decode(encoded, self._side)
        except ValueError as error:
            self.reasons[index] = left_out(self._source, index, error).why[:_LONGEST_REASON]
            return np.zeros((*self._side, 3), np.uint8)

    def part(self, first: int, embeddings_nD: np.ndarray) -> Part:
        images = range(first, first + len(embeddings_nD))
        failed = sorted(self.reasons)
        embeddings_nD[np.array(failed, np.int64) - first] = 0
        return Part(
            first,
            embeddings_nD,
            np.array([self._labels.get(index, NO_IDENTITY) for index in images], np.int64),
            np.array([self._source.key(index) for index in images]),
            np.array(failed, np.int64),
            np.array([self.reasons[index] for index in failed], None if failed else "U1"),
        )
