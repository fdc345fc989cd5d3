"""1:1 verification of P pairs: K-fold accuracy, TAR at FAR, XNorm.

InsightFace's protocol (`verification.py`), which the LFW-style numbers of papers come from:

    e_i   = (f(x_i) + f(mirror x_i)) / |f(x_i) + f(mirror x_i)|
    d     = |e_2i − e_2i+1|²                                       in [0, 4]
    same  when d < t,  t one of 0, 0.01, …, 3.99

The pairs are cut into K = 10 contiguous folds, or into those that their list gives. Each fold is judged by the
threshold that is the most accurate on the other nine, the lowest of several; the accuracy is the folds' mean, ± their
standard deviation (divisor K).

With `thresholds=None` a fold's threshold is searched among all that part the other folds' distances, instead
of on that grid. It is the fairer judge of a model whose embeddings lie closer together than the grid can tell
apart (an untrained one); it is not what is published.

P pairs, N = 2P images, D the embedding size, V views, K folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partial_fc.collectives import Collectives, together
from partial_fc.evaluation.curves import area_under, equal_error_rate, roc_points
from partial_fc.evaluation.embedding import IMAGE, MIRROR, EmbedFunction, embed_images, flip_sum, unit_rows
from partial_fc.evaluation.images import EncodedImages
from partial_fc.evaluation.roc import OperatingPoint, tar_at_far
from partial_fc.evaluation.targets import TARGET_FARS
from partial_fc.evaluation.verification_set import VerificationSet

INSIGHTFACE_THRESHOLDS = np.arange(0, 4, 0.01)


@dataclass(frozen=True)
class VerificationResult:
    """What a verification set says of a model. Rates are in [0, 1], thresholds squared distances in [0, 4].

    `best_threshold` is the most accurate on all pairs together. `xnorm` is the mean L2 norm of the embeddings
    as the model gives them, before views are summed, over both images of every pair. The thresholds in
    `tar_at_far` are scores, −d. `auc` is the area under the ROC, `eer` the rate at which both errors are equal.
    """

    pairs: int
    accuracy: float
    accuracy_std: float
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]
    best_threshold: float
    xnorm: float
    tar_at_far: tuple[OperatingPoint, ...]
    auc: float
    eer: float


def verify_set(
    verification_set: VerificationSet,
    embed: EmbedFunction,
    *,
    image_size: int,
    batch_size: int,
    collectives: Collectives,
    flip: bool = True,
    folds: int = 10,
    thresholds: np.ndarray | None = INSIGHTFACE_THRESHOLDS,
    target_fars: Sequence[float] = TARGET_FARS,
) -> VerificationResult:
    """Embeds a set over all ranks, each distinct image once, and verifies it; every rank gets the result.

    Raises:
        RankError: on every rank, for what `embed_images` and `verify_pairs` refuse.
    """
    images, index_N = verification_set.unique_images()
    embeddings_VUD = embed_images(
        EncodedImages(verification_set.name, images),
        embed,
        image_size=image_size,
        batch_size=batch_size,
        collectives=collectives,
        views=(IMAGE, MIRROR) if flip else (IMAGE,),
    )
    with together(collectives, f"verify.{verification_set.name}"):
        try:
            result = verify_pairs(
                embeddings_VUD[:, index_N],
                verification_set.is_same,
                folds=folds,
                thresholds=thresholds,
                target_fars=target_fars,
            )
        except ValueError as error:
            raise ValueError(f"{verification_set.name}: {error}") from error
    return result


def verify_pairs(
    embeddings_VND: np.ndarray,
    is_same_P: np.ndarray,
    *,
    folds: int | np.ndarray = 10,
    thresholds: np.ndarray | None = INSIGHTFACE_THRESHOLDS,
    target_fars: Sequence[float] = TARGET_FARS,
) -> VerificationResult:
    """Verifies P pairs, pair i being embeddings 2i and 2i + 1; an image's V views are summed.

    Raises:
        ValueError: fewer pairs than folds, pairs of one kind alone, or an embedding that is zero or not
        finite.
    """
    pairs = len(is_same_P)
    if embeddings_VND.ndim != 3 or embeddings_VND.shape[1] != 2 * pairs:
        raise ValueError(f"{pairs} pairs need embeddings (V, {2 * pairs}, D), not {embeddings_VND.shape}")
    unit_ND = unit_rows(flip_sum(embeddings_VND))
    distance_P = np.square(unit_ND[0::2] - unit_ND[1::2]).sum(axis=1)
    xnorm = float(np.linalg.norm(embeddings_VND, axis=2).mean(dtype=np.float64))
    return verify_distances(
        distance_P, is_same_P, xnorm=xnorm, folds=folds, thresholds=thresholds, target_fars=target_fars
    )


def verify_distances(
    distance_P: np.ndarray,
    is_same_P: np.ndarray,
    *,
    xnorm: float,
    folds: int | np.ndarray = 10,
    thresholds: np.ndarray | None = INSIGHTFACE_THRESHOLDS,
    target_fars: Sequence[float] = TARGET_FARS,
) -> VerificationResult:
    """Verifies P pairs by their squared distances (P,) float64.

    Raises:
        ValueError: fewer pairs than folds, or pairs of one kind alone.
    """
    check_pairs(is_same_P)
    accuracy_K, threshold_K = kfold_accuracy(distance_P, is_same_P, folds=folds, thresholds=thresholds)
    roc = roc_points(-distance_P, is_same_P)
    return VerificationResult(
        pairs=len(is_same_P),
        accuracy=float(accuracy_K.mean()),
        accuracy_std=float(accuracy_K.std()),
        fold_accuracies=tuple(accuracy_K.tolist()),
        fold_thresholds=tuple(threshold_K.tolist()),
        best_threshold=most_accurate_threshold(distance_P, is_same_P, thresholds),
        xnorm=xnorm,
        tar_at_far=tuple(tar_at_far(-distance_P, is_same_P, target_fars)),
        auc=area_under(*roc),
        eer=equal_error_rate(*roc),
    )


def check_pairs(is_same_P: np.ndarray) -> None:
    """Raises ValueError unless there are pairs of one person and pairs of two."""
    if is_same_P.all() or not is_same_P.any():
        kind = "one person" if is_same_P.all() else "two people"
        raise ValueError(f"verification needs pairs of both kinds, but all {len(is_same_P)} are of {kind}")


def kfold_accuracy(
    distance_P: np.ndarray,
    is_same_P: np.ndarray,
    *,
    folds: int | np.ndarray = 10,
    thresholds: np.ndarray | None = INSIGHTFACE_THRESHOLDS,
) -> tuple[np.ndarray, np.ndarray]:
    """Each fold's accuracy and the threshold it was judged by, (K,) float64 both.

    Args:
        folds: K contiguous folds, of which the first P mod K hold one pair more; or the fold of each pair,
            (P,) integers.

    Raises:
        ValueError: unless 2 ≤ K ≤ P.
    """
    accuracies, chosen = [], []
    for fold in _folds(folds, len(is_same_P)):
        others = np.ones(len(is_same_P), bool)
        others[fold] = False
        threshold = most_accurate_threshold(distance_P[others], is_same_P[others], thresholds)
        chosen.append(threshold)
        accuracies.append(np.mean((distance_P[fold] < threshold) == is_same_P[fold]))
    return np.array(accuracies), np.array(chosen)


def _folds(folds: int | np.ndarray, pairs: int) -> list[np.ndarray]:
    """The pairs of each fold."""
    if isinstance(folds, np.ndarray):
        assert len(folds) == pairs
        parts = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
        if len(parts) < 2:
            raise ValueError(f"there must be 2 folds or more, but the list gives its {pairs} pairs to one: set --folds")
        return parts
    if not 2 <= folds <= pairs:
        raise ValueError(f"there must be 2 folds or more, and a pair for each: not {folds} of {pairs} pairs")
    return np.array_split(np.arange(pairs), folds)


def most_accurate_threshold(
    distance_P: np.ndarray, is_same_P: np.ndarray, thresholds: np.ndarray | None = INSIGHTFACE_THRESHOLDS
) -> float:
    """The lowest of `thresholds` (None: of all that part the distances) that tells the most pairs right.

    Pairs are counted in integers, so equally good thresholds are equal.
    """
    candidates = _parting_thresholds(distance_P) if thresholds is None else thresholds
    same, different = np.sort(distance_P[is_same_P]), np.sort(distance_P[~is_same_P])
    right = np.searchsorted(same, candidates) + len(different) - np.searchsorted(different, candidates)
    return float(candidates[np.argmax(right)])


def _parting_thresholds(distance_P: np.ndarray) -> np.ndarray:
    """A threshold for each way that `d < t` can part the pairs: below all, between neighbours, above all."""
    distinct = np.unique(distance_P)
    midway = distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2
    midway = np.where(midway > distinct[:-1], midway, distinct[1:])  # neighbouring floats have no middle
    return np.concatenate([distinct[:1], midway, [np.nextafter(distinct[-1], np.inf)]])
