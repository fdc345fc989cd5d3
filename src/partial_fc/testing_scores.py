"""The metrics of evaluation the slow and obvious way, for tests to compare with: every score stored, every threshold
tried, loops over what the protocols' texts loop over.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def largest_tar(positives: Sequence[float], negatives: Sequence[float], target_far: float) -> tuple[float, float]:
    """The largest TAR whose FAR does not exceed the target, and that FAR, over every threshold that can matter."""
    best = (-1.0, 0.0)
    for threshold in [-np.inf, *sorted({*positives, *negatives})]:
        false_accepts = sum(score > threshold for score in negatives)
        if false_accepts / len(negatives) <= target_far:
            tar = sum(score > threshold for score in positives) / len(positives)
            if tar > best[0]:
                best = (tar, false_accepts / len(negatives))
    return best


def split_pairs(features_ND: np.ndarray, identity_N: Sequence[object]) -> tuple[list[float], list[float]]:
    """Scores of all pairs i < j of one identity, and of two."""
    positives, negatives = [], []
    for i in range(len(features_ND)):
        for j in range(i + 1, len(features_ND)):
            score = float(features_ND[i] @ features_ND[j])
            (positives if identity_N[i] == identity_N[j] else negatives).append(score)
    return positives, negatives


def template_feature(features: Sequence[np.ndarray], media: Sequence[int]) -> np.ndarray:
    """One template's feature: the mean over each medium's images, their sum, over its norm."""
    total = 0
    for medium in sorted(set(media)):
        total = total + np.mean([f for f, m in zip(features, media, strict=True) if m == medium], axis=0)
    return total / np.linalg.norm(total)


def rank_of_mate(scores_G: Sequence[float], mate: int) -> int:
    """1 + how many of the others score as high as the mate, or higher."""
    return 1 + sum(score >= scores_G[mate] for place, score in enumerate(scores_G) if place != mate)


def largest_tpir(
    scores_PG: np.ndarray, probe_subjects: Sequence[int], gallery_subjects: Sequence[int], target_fpir: float
) -> float:
    """One gallery's TPIR: mates' scores against the highest scores of the probes that are absent from the gallery."""
    mated, absent = [], []
    for scores_G, subject in zip(scores_PG, probe_subjects, strict=True):
        if subject in gallery_subjects:
            mated.append(scores_G[list(gallery_subjects).index(subject)])
        else:
            absent.append(max(scores_G))
    return largest_tar(mated, absent, target_fpir)[0]


def megaface_rank_1(probes: np.ndarray, identities: Sequence[object], distractors: np.ndarray) -> float:
    """The kit's loop: each other image of the probe's person is inserted among the distractors, one at a time."""
    found = []
    for p, probe in enumerate(probes):
        for m, mate in enumerate(probes):
            if m == p or identities[m] != identities[p]:
                continue
            gallery = np.concatenate([distractors, mate[None]])
            scores = gallery @ probe
            found.append(all(scores[-1] > score for score in scores[:-1]))
    return float(Fraction(sum(found), len(found)))
