"""1:N identification: a probe against galleries of enrolled people.

    rank(p)  = 1 + |{enrolled, not p's mate: score ≥ that of p's mate}|       a tie is no success
    FPIR(t)  = |{probes without a mate: highest score > t}| / |probes without a mate|
    TPIR(t)  = |{probes with a mate: the mate's score > t}| / |probes with a mate|

TPIR at a target FPIR is the largest TPIR(t) whose FPIR(t) does not exceed the target.

P probes, G enrolled templates, D embedding size, S galleries, contiguous parts of the G.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.evaluation.negative_scores import HighestScores
from partial_fc.evaluation.roc import OperatingPoint, tar_at_far
from partial_fc.evaluation.score_blocks import TILE, own_share, score_tiles


@dataclass(frozen=True)
class SearchResult:
    """What a search of all galleries gives for each probe.

    Attributes:
        mate_P: the place of its mate among the G, or −1.
        mate_score_P: the mate's score; −inf without a mate.
        rank_P: the mate's rank among all G, from 1; 0 without a mate.
        highest_SP: the highest score in each gallery.
        highest_others: the highest scores of all that are no mates, descending, as many as were asked for.
    """

    mate_P: np.ndarray
    mate_score_P: np.ndarray
    rank_P: np.ndarray
    highest_SP: np.ndarray
    highest_others: np.ndarray


def find_mates(probe_subject_P: np.ndarray, gallery_subject_G: np.ndarray) -> np.ndarray:
    """The place of each probe's subject in the gallery, or −1.

    Raises:
        ValueError: a subject is enrolled more than once, and has no single mate.
    """
    order = np.argsort(gallery_subject_G, kind="stable")
    ascending = gallery_subject_G[order]
    repeated = np.unique(ascending[1:][ascending[1:] == ascending[:-1]])
    if len(repeated):
        shown = ", ".join(map(str, repeated[:10]))
        raise ValueError(f"a subject may be enrolled once, but {len(repeated)} are more often (subjects {shown})")
    place = np.minimum(np.searchsorted(ascending, probe_subject_P), len(ascending) - 1)
    return np.where(ascending[place] == probe_subject_P, order[place], -1)


def search(
    probe_PD: np.ndarray,
    gallery_GD: np.ndarray,
    mate_P: np.ndarray,
    galleries: Sequence[slice],
    collectives: Collectives,
    name: str,
    *,
    others: int = 0,
) -> SearchResult:
    """Searches all galleries in one product, some probes at a time; ranks share out the probes; one object gather.

    Args:
        probe_PD, gallery_GD: float32 rows of unit length.
        mate_P: see :func:`find_mates`.
        galleries: S contiguous parts of the G.
        others: how many of the highest scores of pairs that are no mates to keep.
    """
    probes, enrolled = len(probe_PD), len(gallery_GD)
    at_once = max(1, TILE * TILE // enrolled)
    parts = [slice(i, min(i + at_once, probes)) for i in range(0, probes, at_once)]
    own = own_share(parts, collectives)
    highest = HighestScores(others) if others else None
    found = []
    for (rows, _), scores in score_tiles(probe_PD, gallery_GD, [(part, slice(0, enrolled)) for part in own]):
        found.append((rows.start, *_search_block(scores, mate_P[rows], galleries)))
        if highest is not None:
            has_mate = np.flatnonzero(mate_P[rows] >= 0)
            scores[has_mate, mate_P[rows][has_mate]] = -np.inf
            highest.add(scores)
    kept = np.empty(0, np.float32) if highest is None else highest.descending()
    gathered = collectives.gather_objects((found, kept), f"{name}.search")
    blocks = sorted((block for blocks, _ in gathered for block in blocks), key=lambda block: block[0])
    mate_score_P, rank_P = (np.concatenate([block[i] for block in blocks]) for i in (1, 2))
    merged = np.sort(np.concatenate([scores for _, scores in gathered]))[::-1][:others]
    return SearchResult(mate_P, mate_score_P, rank_P, np.concatenate([b[3] for b in blocks], axis=1), merged)


def _search_block(
    scores_bG: np.ndarray, mate_b: np.ndarray, galleries: Sequence[slice]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`mate_score_b`, `rank_b` and `highest_Sb` of some probes."""
    has_mate = mate_b >= 0
    mate_score_b = scores_bG[np.arange(len(mate_b)), np.maximum(mate_b, 0)]
    mate_score_b = np.where(has_mate, mate_score_b, np.float32(-np.inf))
    is_as_high = scores_bG >= mate_score_b[:, None]
    # Row by row: counting along an axis makes an int64 of every comparison.
    rank_b = np.array([np.count_nonzero(row) for row in is_as_high])  # the mate itself is one of them
    highest_Sb = np.stack([scores_bG[:, part].max(axis=1) for part in galleries])
    return mate_score_b, np.where(has_mate, rank_b, 0), highest_Sb


def check_mates(mate_P: np.ndarray, galleries: Sequence[slice], *, for_union: bool = False) -> None:
    """Whether there will be ranks and TPIRs, which is known before a search.

    Args:
        for_union: InsightFace's form is wanted, too.

    Raises:
        ValueError: a gallery has no probe with a mate in it, or none without; with `for_union`, a probe has no mate.
    """
    for part in galleries:
        is_mated_P = _is_mated(mate_P, part)
        if is_mated_P.all() or not is_mated_P.any():
            raise ValueError(
                f"TPIR at an FPIR needs probes with a mate in a gallery and probes without, but "
                f"{np.count_nonzero(is_mated_P)} of {len(is_mated_P)} have one"
            )
    if for_union and (mate_P < 0).any():
        raise ValueError(
            f"InsightFace's form needs a mate for every probe, but {np.count_nonzero(mate_P < 0)} have none"
        )


def _is_mated(mate_P: np.ndarray, part: slice) -> np.ndarray:
    return (mate_P >= part.start) & (mate_P < part.stop)


def rank_rates(result: SearchResult, ranks: Sequence[int]) -> list[float]:
    """The part of the probes with a mate whose mate has that rank or a better one.

    Raises:
        ValueError: no probe has a mate.
    """
    rank_M = result.rank_P[result.mate_P >= 0]
    if len(rank_M) == 0:
        raise ValueError("no probe has a mate in any gallery: there is no rank")
    return [float(np.mean(rank_M <= rank)) for rank in ranks]


def tpir_at_fpir(
    result: SearchResult, galleries: Sequence[slice], target_fpirs: Sequence[float]
) -> list[list[OperatingPoint]]:
    """For each gallery a point a target: `tar` is its TPIR, `far` its FPIR. Non-mates are the probes absent from it.

    Raises:
        ValueError: a gallery has no probe with a mate in it, or none without.
    """
    check_mates(result.mate_P, galleries)
    points = []
    for part, highest_P in zip(galleries, result.highest_SP, strict=True):
        is_mated_P = _is_mated(result.mate_P, part)
        scores_P = np.where(is_mated_P, result.mate_score_P, highest_P)
        points.append(tar_at_far(scores_P, is_mated_P, target_fpirs))
    return points


def insightface_tpir(result: SearchResult, target: float) -> float:
    """InsightFace's form: all galleries as one, and the ⌈target·P⌉-th highest score that is no mate's as threshold.

    Its false positives are counted over pairs and divided by probes, so that it is an FPIR only where no probe has two.

    Raises:
        ValueError: a probe has no mate, or the search kept too few scores.
    """
    check_mates(result.mate_P, (), for_union=True)
    place = math.ceil(len(result.mate_P) * target) - 1
    if not 0 <= place < len(result.highest_others):
        raise ValueError(f"{place + 1} scores are needed, but {len(result.highest_others)} were kept")
    return float(np.mean(result.mate_score_P > result.highest_others[place]))
