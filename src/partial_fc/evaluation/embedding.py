"""Embeddings of a list of images, computed by all ranks together.

B images of a batch, N of the list, D the embedding size, S the model's input size, V views of an image: the
image as it is, its mirror, or both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from partial_fc.collectives import Collectives, together
from partial_fc.evaluation.images import NAMED_AT_MOST, Images, load_pixels

EmbedFunction = Callable[[np.ndarray], np.ndarray]
"""`embed(images_BHWC)`: uint8 RGB, always of the same shape, to (B, D) float32."""

DECODE_THREADS = 2
IMAGES_PER_ROUND = 8192
"""What a rank embeds between two gathers: 32 MiB of two views at D = 512, however long the list is."""

IMAGE, MIRROR = False, True
"""The views: whether an image is mirrored."""


def embed_images(
    images: Images,
    embed: EmbedFunction,
    *,
    image_size: int,
    batch_size: int,
    collectives: Collectives,
    views: Sequence[bool] = (IMAGE, MIRROR),
) -> np.ndarray:
    """`embeddings_VND` float32 of `images`, on every rank: a view of each image for each of `views`.

    The list is cut into batches first and ranks take contiguous runs of batches, so an image is computed in
    the same batch at the same place whatever the number of ranks: the result is the same to the bit. The last
    batch is filled up with its last image, so that `embed` sees one shape alone. Two object gathers for each
    `IMAGES_PER_ROUND` images of a rank, which carry V·N·D·4 bytes in all.

    Raises:
        RankError: on every rank, when on any an image cannot be read, decoded or aligned, or `embed` does not
            return (B, D).
        ValueError: there is no image, or the batch size is below 1.
    """
    name = images.name
    if len(images) == 0:
        raise ValueError(f"{name} holds no images to embed")
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, but is {batch_size}")
    batches = [range(i, min(i + batch_size, len(images))) for i in range(0, len(images), batch_size)]
    shares = [batches[contiguous_share(len(batches), k, collectives.size)] for k in range(collectives.size)]
    batches_per_round = max(1, IMAGES_PER_ROUND // batch_size)
    embeddings_VND: np.ndarray | None = None

    def load(indices: range) -> np.ndarray:
        return load_batch(lambda index: load_pixels(images, index, image_size), indices, image_size, batch_size)

    for first in range(0, len(shares[0]), batches_per_round):  # rank 0 has the longest share
        parts = [share[first : first + batches_per_round] for share in shares]
        own_VND: np.ndarray | None = None
        with together(collectives, f"embed.{name}"):
            embedded = [*embed_batches(parts[collectives.rank], load, embed, views)]
            own_VND = np.concatenate(embedded, axis=1) if embedded else None
        gathered = collectives.gather_objects(own_VND, f"embeddings.{name}")
        for part, part_VND in zip(parts, gathered, strict=True):
            if part_VND is None:
                continue
            if embeddings_VND is None:
                embeddings_VND = np.empty((len(views), len(images), part_VND.shape[2]), np.float32)
            embeddings_VND[:, part[0].start : part[-1].stop] = part_VND
    assert embeddings_VND is not None, "rank 0 has a batch in the first round"
    return embeddings_VND


def check_embeddings(images: Images, embeddings_VND: np.ndarray) -> None:
    """Raises ValueError, naming the images, where an embedding is zero or not finite: no number follows from it."""
    norms_VN = np.linalg.norm(embeddings_VND, axis=2)
    broken = np.flatnonzero((~np.isfinite(norms_VN) | (norms_VN == 0)).any(axis=0))
    if len(broken):
        shown = ", ".join(images.where(int(index)) for index in broken[:NAMED_AT_MOST])
        more = f", … and {len(broken) - NAMED_AT_MOST} more" if len(broken) > NAMED_AT_MOST else ""
        raise ValueError(
            f"{images.name}: {len(broken)} of {len(images)} embeddings are zero or not finite: {shown}{more}"
        )


def contiguous_share(total: int, rank: int, ranks: int) -> slice:
    """Rank `rank`'s part of `total` things: contiguous, the first `total mod ranks` ranks hold one more."""
    quotient, remainder = divmod(total, ranks)
    start = rank * quotient + min(rank, remainder)
    return slice(start, start + quotient + (rank < remainder))


def flip_sum(embeddings_VND: np.ndarray) -> np.ndarray:
    """The sum over views, (N, D) float64: of an image and its mirror, or the one view's own embedding."""
    return embeddings_VND.sum(axis=0, dtype=np.float64)


def unit_rows(embeddings_ND: np.ndarray) -> np.ndarray:
    """Each row over its L2 norm, in the dtype it comes in.

    Raises:
        ValueError: rows (named) are zero or not finite, and so have no direction to compare.
    """
    norms_N = np.linalg.norm(embeddings_ND, axis=1)
    broken = np.flatnonzero(~np.isfinite(norms_N) | (norms_N == 0))
    if len(broken):
        raise ValueError(
            f"{len(broken)} of {len(norms_N)} embeddings are zero or not finite "
            f"(the first: {', '.join(map(str, broken[:10]))})"
        )
    return embeddings_ND / norms_N[:, None]


def embed_batches(
    batches: Iterable[range],
    load: Callable[[range], np.ndarray],
    embed: EmbedFunction,
    views: Sequence[bool],
    threads: int = DECODE_THREADS,
) -> Iterator[np.ndarray]:
    """`embeddings_VbD` float32 of the b images of each batch, in order, while threads load the next ones.

    Args:
        batches: the numbers of the images of each.
        load: `images_BHWC` of a batch, uint8 RGB; B ≥ b, of which those past b fill it up.

    Raises:
        ValueError: `embed` does not return (B, D); and what `load` raises.
    """
    pending: deque[tuple[range, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for batch in batches:
                pending.append((batch, pool.submit(load, batch)))
                if len(pending) > threads:
                    yield _embed_next(pending, embed, views)
            while pending:
                yield _embed_next(pending, embed, views)
        finally:  # whoever takes no more batches does not wait for those that were begun
            pool.shutdown(wait=True, cancel_futures=True)


def _embed_next(
    pending: deque[tuple[range, Future[np.ndarray]]], embed: EmbedFunction, views: Sequence[bool]
) -> np.ndarray:
    batch, loading = pending.popleft()
    return _embed_views(embed, loading.result(), views)[:, : len(batch)]


def load_batch(
    pixels: Callable[[int], np.ndarray], indices: range, image_size: int, batch_size: int
) -> np.ndarray:
    """`images_BHWC` of `indices`, filled up with the last one; `pixels(index)` gives (S, S, 3)."""
    images_BHWC = np.empty((batch_size, image_size, image_size, 3), np.uint8)
    for place, index in enumerate(indices):
        images_BHWC[place] = pixels(index)
    images_BHWC[len(indices) :] = images_BHWC[len(indices) - 1]
    return images_BHWC


def _embed_views(embed: EmbedFunction, images_BHWC: np.ndarray, views: Sequence[bool]) -> np.ndarray:
    """`embeddings_VBD` of a batch."""
    inputs = [np.ascontiguousarray(images_BHWC[:, :, ::-1] if mirrored else images_BHWC) for mirrored in views]
    embeddings = [np.asarray(embed(images), np.float32) for images in inputs]
    for embeddings_BD in embeddings:
        if embeddings_BD.ndim != 2 or len(embeddings_BD) != len(images_BHWC):
            raise ValueError(
                f"a model must give one embedding an image, (N, D), but for {len(images_BHWC)} images "
                f"it gave the shape {embeddings_BD.shape}"
            )
    return np.stack(embeddings)
