"""One run of ``claims.py``: trains with the project's own parts and measures on the way.

    python benchmarks/claims_run.py --work DIR --lfw DIR --results DIR [--quick]

is its worker: it reads names of runs from its standard input, a line each, writes ``RESULTS/NAME.json`` for each and
answers with a line, ``done NAME``. It ends with its input, so that none is left when ``claims.py`` is killed.

A run is one process of one rank. What is measured at every point:

    accuracy         on the held-out pairs, ten folds, in %, of plain embeddings (no mirrors)
    own_center       mean over a fixed subset of training images of cos(embedding, the center of its label)
    nearest_center   mean over a fixed subset of centers of the largest cosine with any other center
    split_centers    mean over split identities of the cosine between their two centers
    conflicts        share of those training images that have another center with a cosine above 0.4
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from claims_grid import FILTER_COSINE, Case, DataSet, Recipe, faces_directory, grid, quick_data_sets, shipped_data_sets
from results import machine, versions

from partial_fc.backbone import Backbone
from partial_fc.collectives import RankError, SingleProcess
from partial_fc.data.decode import decode
from partial_fc.data.loader import TrainingLoader
from partial_fc.data.open_source import open_source
from partial_fc.data.source import ImageSource
from partial_fc.evaluation.embedding import unit_rows
from partial_fc.evaluation.verification import verify_pairs
from partial_fc.evaluation.verification_set import load_bin
from partial_fc.head.margin import Margin
from partial_fc.head.partial_fc import PartialFC
from partial_fc.mixed_precision import loss_scale_for
from partial_fc.optimizer import SGD
from partial_fc.schedule import PolynomialSchedule
from partial_fc.step import StepReport
from partial_fc.trainer import Trainer
from symbol.iresnet import iresnet
from symbol.layers import Layers

_LABEL_SEED = 2010_05222  # which labels are wrong: the same in every run


class RelabelledSource:
    """A source whose labels are others.

    Args:
        source: the images.
        label_N: (N,) int64, the label of every image.
        num_identities: C.
    """

    def __init__(self, source: ImageSource, label_N: np.ndarray, num_identities: int) -> None:
        self._source = source
        self._label_N = label_N
        self.num_identities = num_identities
        self.name = source.name

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> tuple[bytes, int]:
        return self._source.read(index)[0], int(self._label_N[index])

    def where(self, index: int) -> str:
        return self._source.where(index)

    def key(self, index: int) -> str:
        return self._source.key(index)

    def labels(self) -> np.ndarray:
        return self._label_N

    def close(self) -> None:
        self._source.close()


def noisy_labels(
    label_N: np.ndarray, num_identities: int, *, wrong_labels: float, split_identities: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with two kinds of noise.

    Args:
        label_N: (N,) int64, the true labels, below ``num_identities``.
        wrong_labels: share of the images that get the label of another identity, drawn at random.
        split_identities: share of the identities of which every second image gets a label of its own, from
            ``num_identities`` on.

    Returns:
        The labels (N,) int64; which images kept a label of their own identity, (N,) bool; and the two labels of every
        split identity, (K, 2) int64.
    """
    rng = np.random.default_rng(_LABEL_SEED)
    split_K = np.sort(rng.choice(num_identities, round(split_identities * num_identities), replace=False))
    second_C = np.full(num_identities, -1)
    second_C[split_K] = num_identities + np.arange(len(split_K))
    order_N = np.argsort(label_N, kind="stable")
    start_C = np.searchsorted(label_N[order_N], np.arange(num_identities))
    place_N = np.empty(len(label_N), np.int64)
    place_N[order_N] = np.arange(len(label_N)) - start_C[label_N[order_N]]  # the number of an image of its identity
    moved_N = (second_C[label_N] >= 0) & (place_N % 2 == 1)
    noisy_N = np.where(moved_N, second_C[label_N], label_N)
    wrong_W = rng.choice(len(label_N), round(wrong_labels * len(label_N)), replace=False)
    offset_W = rng.integers(1, num_identities, len(wrong_W))
    noisy_N[wrong_W] = (label_N[wrong_W] + offset_W) % num_identities
    kept_N = np.ones(len(label_N), bool)
    kept_N[wrong_W] = False
    return noisy_N, kept_N, np.stack([split_K, second_C[split_K]], axis=1)


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
        rng = np.random.default_rng(_LABEL_SEED + 1)
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


def run(case: Case, directory: Path) -> dict[str, Any]:
    """Trains and measures.

    Args:
        case: what to train.
        directory: with ``train.rec`` and ``val.bin`` of its data set.
    """
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    recipe, arm = case.data.recipe, case.arm
    source, kept_N, split_K2 = labelled_source(case.data, directory)
    collectives = SingleProcess()
    network = iresnet(Layers(train_on="cpu"), recipe.embedding_size, recipe.units, recipe.channels, stem_stride=2)
    backbone = Backbone(
        network,
        batch_size=recipe.batch_size,
        image_size=recipe.image_size,
        collectives=collectives,
        context=mx.cpu(),
        seed=case.seed,
    )
    head = PartialFC(
        source.num_identities,
        recipe.embedding_size,
        collectives,
        margin=Margin(*getattr(recipe, arm.loss)),
        scale=recipe.scale,
        sample_ratio=arm.sample_ratio,
        sampler=arm.sampler,
        filter_cosine=arm.filter_cosine,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        seed=case.seed,
    )
    optimizer = SGD(backbone.trainable, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    loader = TrainingLoader(
        source, batch_size=recipe.batch_size, image_size=recipe.image_size, seed=case.seed, threads=1
    )
    schedule = PolynomialSchedule(recipe.learning_rate, recipe.updates, power=recipe.power)
    trainer = Trainer(backbone, head, optimizer, loader, schedule, loss_scale_for(False), collectives)
    measure = Measure(recipe, backbone, head, source, directory / "val.bin", kept_N, split_K2)
    try:
        trainer.train(recipe.updates, [measure])
    finally:
        loader.close()
        source.close()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "case": case.description(),
        "points": measure.points,
        "loss": float(np.mean(measure.losses[-max(1, recipe.updates // 20) :])),
        "identities": source.num_identities,
        "training_images": len(source),
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
    }


def labelled_source(data: DataSet, directory: Path) -> tuple[ImageSource, np.ndarray, np.ndarray]:
    """The images with the labels of the data set; which kept theirs; and the labels of split identities (K, 2)."""
    source = open_source(directory / "train.rec")
    if not data.wrong_labels and not data.split_identities:
        return source, np.ones(len(source), bool), np.empty((0, 2), np.int64)
    label_N, kept_N, split_K2 = noisy_labels(
        source.labels(),
        source.num_identities,
        wrong_labels=data.wrong_labels,
        split_identities=data.split_identities,
    )
    return RelabelledSource(source, label_N, source.num_identities + len(split_K2)), kept_N, split_K2


def save(result: dict[str, Any], path: Path) -> None:
    """Writes a result beside its place and renames it: it is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.replace(path)


def main() -> int:
    """Runs what standard input names."""
    parser = argparse.ArgumentParser(description="The worker of claims.py: runs what its standard input names.")
    for name in ("work", "lfw", "results"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    data_sets = quick_data_sets() if options.quick else shipped_data_sets()
    cases = {case.name: case for case in grid(data_sets, range(options.seeds))}
    conditions = {**machine(), **versions()}
    for line in sys.stdin:
        case = cases[line.strip()]
        directory = options.lfw if case.data.faces is None else faces_directory(options.work, case.data)
        try:
            result = run(case, directory)
        except (ValueError, OSError, RankError):  # of this run: the others may do well
            traceback.print_exc()
            print(f"failed {case.name}", flush=True)
            continue
        save(result | {"conditions": conditions}, options.results / f"{case.name}.json")
        print(f"done {case.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
