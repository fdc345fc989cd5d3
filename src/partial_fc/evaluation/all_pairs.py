"""TAR at FAR over all pairs of N images: N·(N − 1)/2 scores, none of them stored but the positive ones.

A pair is positive where both images are of one identity. Images of an identity stand together, so that the positive
pairs of a tile lie at the start of its rows' part above the diagonal, and no N × N comparison of labels is needed.

N images, D embedding size, P positive pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.evaluation.negative_scores import NegativeScores, negative_scores, operating_points
from partial_fc.evaluation.roc import OperatingPoint
from partial_fc.evaluation.score_blocks import TILE, own_share, score_tiles, upper_tiles


@dataclass(frozen=True)
class AllPairs:
    """Rates over all pairs; `positives_P` are the scores of the positive pairs, ascending."""

    points: tuple[OperatingPoint, ...]
    positives_P: np.ndarray
    negatives: NegativeScores


def all_pairs(
    unit_ND: np.ndarray,
    identity_N: np.ndarray,
    target_fars: Sequence[float],
    collectives: Collectives,
    name: str,
    *,
    histogram: bool = False,
    tile: int = TILE,
) -> AllPairs:
    """TAR at each FAR over all pairs, exact and the same on any number of ranks, which share out the tiles.

    Two object gathers (three with `histogram`), of the positive scores and of the highest negative ones.

    Args:
        unit_ND: float32 rows of unit length, the same on every rank. Sorted by identity they are not copied.
        identity_N: integers.
        histogram: the form of F²C: see `negative_scores`.

    Raises:
        ValueError: no positive pair or no negative one, or a FAR outside (0, 1).
    """
    end_N = identity_ends(identity_N)
    if end_N is None:
        order = np.argsort(identity_N, kind="stable")
        unit_ND = unit_ND[order]
        end_N = identity_ends(identity_N[order])
    total = len(unit_ND)
    positives = int((end_N - np.arange(total) - 1).sum())
    negatives = total * (total - 1) // 2 - positives
    if positives == 0 or negatives == 0:
        raise ValueError(
            f"{name}: rates need pairs of both kinds, but of {total} images {positives} pairs are of one person and "
            f"{negatives} of two"
        )
    tiles = own_share(upper_tiles(total, size=tile), collectives)
    found: list[np.ndarray] = []
    first_pass = True

    def blocks() -> Iterator[np.ndarray]:
        nonlocal first_pass
        keep, first_pass = first_pass, False
        for (rows, columns), scores in score_tiles(unit_ND, unit_ND, tiles):
            part = take_positives(scores, rows, columns, end_N)
            if keep:
                found.append(part)
            yield scores

    below = negative_scores(blocks, negatives, target_fars, collectives, name, histogram=histogram)
    own = np.concatenate(found) if found else np.empty(0, np.float32)
    positives_P = np.sort(np.concatenate(collectives.gather_objects(own, f"{name}.positives")))
    assert len(positives_P) == positives, (len(positives_P), positives)
    return AllPairs(tuple(operating_points(positives_P, below)), positives_P, below)


def identity_ends(identity_N: np.ndarray) -> np.ndarray | None:
    """For each image the place after the last one of its identity; None where an identity's images stand apart."""
    starts = np.flatnonzero(np.r_[True, identity_N[1:] != identity_N[:-1]])
    if len(np.unique(identity_N[starts])) < len(starts):
        return None
    ends = np.r_[starts[1:], len(identity_N)]
    return np.repeat(ends, ends - starts)


def take_positives(scores_ab: np.ndarray, rows: slice, columns: slice, end_N: np.ndarray) -> np.ndarray:
    """The scores of a tile's positive pairs i < j; −inf is written in their place, and where j ≤ i."""
    parts = [np.empty(0, np.float32)]
    for row in rows.start + np.flatnonzero(end_N[rows] > columns.start):
        line = scores_ab[row - rows.start]
        end = end_N[row] - columns.start
        parts.append(line[max(row + 1 - columns.start, 0) : end].copy())
        line[:end] = -np.inf
    return np.concatenate(parts)
