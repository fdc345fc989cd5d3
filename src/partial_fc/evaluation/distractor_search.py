"""MegaFace's protocol: probes of a few people against very many distractors.

Identification. For each ordered pair (p, m) of images of one person, m is put alone among the distractors, and p
searches them:

    Rank-1 = |{(p, m): score(p, m) > the highest of p's distractors}| / |{(p, m)}|        a tie is no success

Verification. Positive pairs are all pairs of a person's images, negative ones all of a probe and a distractor.

P probes, M distractors, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.evaluation.negative_scores import NegativeScores, negative_scores, operating_points
from partial_fc.evaluation.roc import OperatingPoint
from partial_fc.evaluation.score_blocks import TILE, own_share, score_tiles, tiles_of

Distractors = Callable[[slice], np.ndarray]
"""Gives the unit rows of some distractors, float32: out of an array, or read from files."""


@dataclass(frozen=True)
class DistractorSearch:
    """Rates of a search; `searches` the ordered pairs of one person's images, `positives_P` scores of the unordered."""

    rank_1: float
    searches: int
    points: tuple[OperatingPoint, ...]
    positives_P: np.ndarray
    negatives: NegativeScores


def search_distractors(
    probe_PD: np.ndarray,
    identity_P: np.ndarray,
    distractors: Distractors,
    count: int,
    target_fars: Sequence[float],
    collectives: Collectives,
    name: str,
    *,
    histogram: bool = False,
    tile: int = TILE,
) -> DistractorSearch:
    """Rank-1 and TAR at FAR, in one pass over the distractors (two with `histogram`), shared out over ranks.

    Three object gathers (five with `histogram`) of the highest scores.

    Args:
        probe_PD: float32 rows of unit length.
        identity_P: integers.
        distractors: asked for `count` rows, `tile` at a time.
        histogram: the form of F²C for very large sets: see `negative_scores`.

    Raises:
        ValueError: no two probes are of one person.
        RankError: on every rank, for what `distractors` raises on any.
    """
    groups = [np.flatnonzero(identity_P == one) for one in np.unique(identity_P)]
    searches = sum(len(group) * (len(group) - 1) for group in groups)
    if searches == 0:
        raise ValueError(f"{name}: no two probes are of one person, and there is nothing to find")
    highest_P = np.full(len(probe_PD), -np.inf, np.float32)
    chunks = own_share([columns for _, columns in tiles_of(1, count, size=tile)], collectives)

    def blocks() -> Iterator[np.ndarray]:
        for chunk in chunks:
            rows_BD = distractors(chunk)
            for (rows, _), scores in score_tiles(probe_PD, rows_BD, tiles_of(len(probe_PD), len(rows_BD), size=tile)):
                np.maximum(highest_P[rows], scores.max(axis=1), out=highest_P[rows])
                yield scores

    negatives = len(probe_PD) * count
    below = negative_scores(blocks, negatives, target_fars, collectives, name, histogram=histogram)
    highest_P = np.max(collectives.gather_objects(highest_P, f"{name}.rank"), axis=0)
    found, positives = 0, []
    for group in groups:
        scores = probe_PD[group] @ probe_PD[group].T
        is_found = scores > highest_P[group, None]
        found += np.count_nonzero(is_found) - np.count_nonzero(np.diagonal(is_found))
        positives.append(scores[np.triu_indices(len(group), 1)])
    positives_P = np.sort(np.concatenate(positives))
    points = tuple(operating_points(positives_P, below))
    return DistractorSearch(found / searches, searches, points, positives_P, below)
