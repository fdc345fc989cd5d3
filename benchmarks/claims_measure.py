"""What is measured of a run, on its way and at its end.

    accuracy         on the held-out pairs, ten folds, in %, of plain embeddings (no mirrors)
    own_center       mean over a fixed subset of training images of cos(embedding, the center of its label)
    nearest_center   mean over a fixed subset of centers of the largest cosine with any other center
    conflicts        share of those training images that have another center with a cosine above 0.4

and, where identities are split:

    split_centers    mean over split identities of the cosine between their two centers
    other_half       share, of those images whose identity is split, that have its other center above 0.4
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from claims_grid import FILTER_COSINE, Recipe

from partial_fc.backbone import Backbone
from partial_fc.data.decode import decode
from partial_fc.data.source import ImageSource
from partial_fc.evaluation.embedding import unit_rows
from partial_fc.evaluation.verification import verify_pairs
from partial_fc.evaluation.verification_set import load_bin
from partial_fc.head.partial_fc import PartialFC
from partial_fc.step import StepReport

_SEED = 2010_05223  # which images and centers are looked at: the same in every run


class Measure:
    """A callback that measures at evenly spread updates.

    Attributes:
        points: a dictionary of figures for each.
        losses: of every update.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        head: PartialFC,
        source: ImageSource,
        val: Path,
        kept_N: np.ndarray,
        split_K2: np.ndarray,
    ) -> None:
        self._recipe, self._backbone, self._head, self._split_K2 = recipe, backbone, head, split_K2
        size = recipe.image_size
        pairs = load_bin(val)
        self._pair_images = _decoded(pairs.images, size)
        self._is_same_P = pairs.is_same
        rng = np.random.default_rng(_SEED)
        index = np.sort(_some(rng, np.flatnonzero(kept_N), recipe.own_images))
        self._images = _decoded([source.read(int(i))[0] for i in index], size)
        self._label_M = source.labels()[index]
        self._some_centers = np.sort(_some(rng, np.unique(source.labels()), recipe.nearest_centers))
        self._updates = {round(recipe.updates * (k + 1) / recipe.points) for k in range(recipe.points)}
        self.points: list[dict[str, float]] = []
        self.losses: list[float] = []

    def after_update(self, report: StepReport) -> bool:
        self.losses.append(report.loss)
        if report.update in self._updates:
            self.points.append({"update": report.update, "images": report.update * report.images, **self._figures()})
        return True

    def at_end(self, report: StepReport) -> None:
        pass

    def _figures(self) -> dict[str, float]:
        pairs_ND = self._embed(self._pair_images)
        accuracy = 100.0 * verify_pairs(pairs_ND[None], self._is_same_P).accuracy
        x_MD = unit_rows(self._embed(self._images))
        w_CD = unit_centers(self._head)
        return {"accuracy": accuracy} | cosine_figures(x_MD, self._label_M, w_CD, self._some_centers, self._split_K2)

    def _embed(self, images_NHWC: np.ndarray) -> np.ndarray:
        """(N, D) float32; the last batch is filled up with zeros."""
        size, count = self._backbone.batch_size, len(images_NHWC)
        filled = np.zeros((-(-count // size) * size, *images_NHWC.shape[1:]), np.uint8)
        filled[:count] = images_NHWC
        batches = np.split(filled, len(filled) // size)
        return np.concatenate([self._backbone.embed(batch) for batch in batches])[:count]


def cosine_figures(
    x_MD: np.ndarray, label_M: np.ndarray, w_CD: np.ndarray, center_J: np.ndarray, split_K2: np.ndarray
) -> dict[str, float]:
    """What cosines say: see the module.

    Args:
        x_MD: (M, D) unit embeddings, and label_M their labels.
        w_CD: (C, D) unit centers.
        center_J: centers whose largest cosine with another is meant.
        split_K2: (K, 2) labels of the same person; K may be 0.
    """
    m, j = np.arange(len(x_MD)), np.arange(len(center_J))
    cosine_MC, cosine_JC = x_MD @ w_CD.T, w_CD[center_J] @ w_CD.T
    own_M = cosine_MC[m, label_M]  # a copy
    cosine_MC[m, label_M] = cosine_JC[j, center_J] = -np.inf
    figures = {
        "own_center": float(own_M.mean()),
        "nearest_center": float(cosine_JC.max(axis=1).mean()),
        "conflicts": float((cosine_MC > FILTER_COSINE).any(axis=1).mean()),
    }
    if len(split_K2):
        other_C = np.full(len(w_CD), -1)
        other_C[split_K2[:, 0]], other_C[split_K2[:, 1]] = split_K2[:, 1], split_K2[:, 0]
        of_split = np.flatnonzero(other_C[label_M] >= 0)
        above = cosine_MC[of_split, other_C[label_M[of_split]]] > FILTER_COSINE
        figures["other_half"] = float(above.mean()) if len(above) else 0.0
        figures["split_centers"] = float((w_CD[split_K2[:, 0]] * w_CD[split_K2[:, 1]]).sum(axis=1).mean())
    return figures


def _decoded(images: Sequence[bytes], size: int) -> np.ndarray:
    """(N, size, size, 3) uint8 RGB."""
    return np.stack([decode(image, (size, size)) for image in images])


def _some(rng: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    return rng.choice(values, min(count, len(values)), replace=False)


def unit_centers(head: PartialFC) -> np.ndarray:
    """(C, D) float32, the class centers of a head of one rank, over their lengths."""
    head.centers.initialize_all()
    return unit_rows(np.concatenate([store.weight_RD.asnumpy() for store in head.centers.stores]))
