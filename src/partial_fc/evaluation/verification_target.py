"""Verification sets as evaluation targets: a `.bin`, or a list of pairs with its images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from partial_fc.collectives import together
from partial_fc.evaluation.curves import roc_curve, roc_points, score_histogram
from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.embedding import flip_sum, unit_rows
from partial_fc.evaluation.images import EncodedImages, Images, load_pixels
from partial_fc.evaluation.pair_images import distinct, open_images
from partial_fc.evaluation.pair_lists import PairList, read_cfp, read_pair_list
from partial_fc.evaluation.targets import Metric, Settings, Target, TargetKind, TargetResult, TargetSpec
from partial_fc.evaluation.verification import (
    INSIGHTFACE_THRESHOLDS,
    VerificationResult,
    check_pairs,
    verify_distances,
)
from partial_fc.evaluation.verification_set import load_bin
from partial_fc.evaluation.worst_pairs import draw_pairs, worst_pairs

PICTURE_SIZE = 112


class VerificationTarget(Target):
    """P pairs of U distinct images.

    Args:
        images: the distinct images.
        index_N: (2P,) which image each half of a pair is; pair i has halves 2i and 2i + 1.
        is_same_P: (P,) bool.
        fold_P: the fold of each pair where its list says it; None for contiguous ones.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        images: Images,
        index_N: np.ndarray,
        is_same_P: np.ndarray,
        fold_P: np.ndarray | None = None,
    ) -> None:
        super().__init__(name)
        self.kind, self.images, self.index_N = kind, images, index_N
        self.is_same_P, self.fold_P = is_same_P, fold_P

    def evaluate(self, embedder: Embedder, settings: Settings) -> TargetResult:
        """See `Target`."""
        embeddings_VUD = embedder.embed(self.images, flip=settings.flip)
        with together(embedder.collectives, f"verify.{self.name}"):
            result = self._judge(embeddings_VUD, settings, with_picture=embedder.collectives.rank == 0)
        return result

    def _judge(self, embeddings_VUD: np.ndarray, settings: Settings, with_picture: bool) -> TargetResult:
        unit_ND = self._unit_rows(embeddings_VUD)[self.index_N]
        distance_P = np.square(unit_ND[0::2] - unit_ND[1::2]).sum(axis=1)
        norm_U = np.linalg.norm(embeddings_VUD, axis=2).mean(axis=0, dtype=np.float64)
        xnorm = float(norm_U[self.index_N].mean())
        verified = judge(self.name, distance_P, self.is_same_P, self.fold_P, xnorm, settings)
        pictures = {}
        if with_picture:
            pairs = worst_pairs(distance_P, self.is_same_P, verified.best_threshold)
            pictures["worst pairs"] = draw_pairs(pairs, distance_P, self.is_same_P, self._half)
        counts = {"pairs": len(distance_P), "images": len(self.images)}
        views = "images and their mirrors summed" if settings.flip else "images alone, no mirrors"
        return verification_result(
            self.name, self.kind, views, counts, distance_P, self.is_same_P, verified, settings, pictures
        )

    def _unit_rows(self, embeddings_VUD: np.ndarray) -> np.ndarray:
        try:
            return unit_rows(flip_sum(embeddings_VUD))
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def _half(self, pair: int, half: int) -> np.ndarray:
        return load_pixels(self.images, int(self.index_N[2 * pair + half]), PICTURE_SIZE)


def judge(
    name: str,
    distance_P: np.ndarray,
    is_same_P: np.ndarray,
    fold_P: np.ndarray | None,
    xnorm: float,
    settings: Settings,
) -> VerificationResult:
    """`verify_distances` under the command's settings; its errors name the target."""
    keeps_folds = fold_P is not None and settings.keeps_folds and len(np.unique(fold_P)) > 1
    try:
        return verify_distances(
            distance_P,
            is_same_P,
            xnorm=xnorm,
            folds=fold_P if keeps_folds else settings.folds,
            thresholds=None if settings.exact_thresholds else INSIGHTFACE_THRESHOLDS,
            target_fars=settings.target_fars,
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def verification_result(
    name: str,
    kind: str,
    views: str,
    counts: dict[str, int],
    distance_P: np.ndarray,
    is_same_P: np.ndarray,
    verified: VerificationResult,
    settings: Settings,
    pictures: dict[str, np.ndarray],
) -> TargetResult:
    """The numbers of a verification as a report takes them; scores are cosines, 1 − d/2."""
    score_P = 1 - distance_P / 2
    metrics = [
        Metric("accuracy", verified.accuracy, deviation=verified.accuracy_std),
        *(
            Metric(
                f"TAR@FAR={point.target_far:.0e}",
                point.tar,
                is_resolved=point.is_resolved,
                details={"far": point.far, "threshold_cosine": 1 + point.threshold / 2},
            )
            for point in verified.tar_at_far
        ),
        Metric("AUC", verified.auc),
        Metric("EER", verified.eer),
        Metric("threshold", verified.best_threshold, is_rate=False),
        Metric("XNorm", verified.xnorm, is_rate=False),
    ]
    folds = len(verified.fold_accuracies)
    search = "searched among all distances" if settings.exact_thresholds else "on the grid 0, 0.01, … 3.99"
    details = {
        "fold_accuracies": list(verified.fold_accuracies),
        "fold_thresholds": list(verified.fold_thresholds),
    }
    return TargetResult(
        target=name,
        kind=kind,
        protocol=f"{folds} folds, each judged by the best threshold of the others ({search}); {views}",
        counts={**counts, "positives": int(is_same_P.sum()), "negatives": int((~is_same_P).sum()), "folds": folds},
        metrics=tuple(metrics),
        curves=(roc_curve(*roc_points(score_P, is_same_P)),),
        histogram=score_histogram(score_P, is_same_P, -1, 1),
        pictures=pictures,
        details=details,
    )


def open_pairs(read: Callable[[Path], PairList], spec: TargetSpec) -> VerificationTarget:
    """A `.bin`, or the list that `read` reads with the images of the option `images`."""
    if spec.path.suffix == ".bin":
        if spec.options:
            raise ValueError(f"{spec.name}: a .bin holds its images, and takes no {', '.join(spec.options)}")
        return _open_bin(spec)
    images = spec.path_option("images")
    if images is None:
        raise ValueError(f"{spec.name}: a list of pairs needs its images: {spec.kind}={spec.path},images=FOLDER")
    pairs = read(spec.path)
    names, index_N = distinct(pairs.paths)
    opened = open_images(spec.name, names, images, spec.path_option("landmarks"))
    return VerificationTarget(spec.name, spec.kind, opened, index_N, pairs.is_same, pairs.fold_P)


def _open_bin(spec: TargetSpec) -> VerificationTarget:
    pairs = load_bin(spec.path)
    try:
        check_pairs(pairs.is_same)
    except ValueError as error:
        raise ValueError(f"{spec.name}: {error}") from error
    images, index_N = pairs.unique_images()
    return VerificationTarget(spec.name, spec.kind, EncodedImages(spec.name, images), index_N, pairs.is_same)


_OPTIONS = {
    "images": "the folder of the images, aligned, or a .rec with its .lst",
    "landmarks": "`PATH x1 y1 … x5 y5` a line, by which images that are not aligned are",
}


def _kind(read: Callable[[Path], PairList], what: str) -> TargetKind:
    return TargetKind(partial(open_pairs, read), f"a .bin, or {what}", _OPTIONS)


KINDS = {
    "lfw": _kind(read_pair_list, "pairs.txt"),
    "cfp_fp": _kind(partial(read_cfp, protocol="FP"), "CFP's folder Protocol (frontal with profile)"),
    "cfp_ff": _kind(partial(read_cfp, protocol="FF"), "CFP's folder Protocol (frontal with frontal)"),
    "agedb30": _kind(read_pair_list, "04_FINAL_protocol_30_years.mat, or a list of two paths a line"),
    "calfw": _kind(read_pair_list, "pairs_CALFW.txt"),
    "cplfw": _kind(read_pair_list, "pairs_CPLFW.txt"),
    "sllfw": _kind(read_pair_list, "pair_SLLFW.txt"),
    "vgg2_fp": _kind(read_pair_list, "a list of two paths a line"),
    "pairs": _kind(read_pair_list, "a list in any of these forms"),
}
