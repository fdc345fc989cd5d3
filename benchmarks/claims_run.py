"""One run of ``claims.py``: trains with the project's own parts and measures on the way.

    python benchmarks/claims_run.py --work DIR --lfw DIR --results DIR [--quick]

is its worker: it reads names of runs from its standard input, a line each, writes ``RESULTS/NAME.json`` for each and
answers with a line, ``done NAME``. It ends with its input, so that none is left when ``claims.py`` is killed.

A run is one process of one rank.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from claims_grid import Case, faces_directory, grid, quick_data_sets, shipped_data_sets
from claims_measure import Measure
from claims_noise import labelled_source
from results import machine, versions

from partial_fc.backbone import Backbone
from partial_fc.collectives import RankError, SingleProcess
from partial_fc.data.loader import TrainingLoader
from partial_fc.head.margin import Margin
from partial_fc.head.partial_fc import PartialFC
from partial_fc.mixed_precision import loss_scale_for
from partial_fc.optimizer import SGD
from partial_fc.schedule import PolynomialSchedule
from partial_fc.trainer import Trainer
from symbol.iresnet import iresnet
from symbol.layers import Layers


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
        margin=Margin(*recipe.margin(arm.loss)),
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
