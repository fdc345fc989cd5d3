"""The paper's two tables, measured: full softmax against Partial FC, memory and images per second.

    mpirun -np 2 python benchmarks/throughput.py
    mpirun -np 8 python benchmarks/throughput.py --paper        the paper's own configuration, on its 8 or 64 GPUs

Whole training steps on random images: backbone, classification layer, both optimizers, all collectives. On CPUs the
methods take turns, step by step, so that what drifts with the machine meets all alike; on GPUs, whose memory holds
one, each runs alone. Prints the tables in the form of arXiv 2010.05222 with the paper's rows beside them, and writes
``benchmarks/results/throughput.csv``.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ("", "src", "benchmarks")]

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from results import DIRECTORY, quantiles, write_results  # noqa: E402

import default  # noqa: E402
import symbol  # noqa: E402
from partial_fc import paper  # noqa: E402
from partial_fc.backbone import Backbone  # noqa: E402
from partial_fc.center_storage import Storage  # noqa: E402
from partial_fc.collectives import Collectives, RankError, raise_together, together  # noqa: E402
from partial_fc.data.random_images import RandomLoader  # noqa: E402
from partial_fc.device import compute_context  # noqa: E402
from partial_fc.head.margin import Margin  # noqa: E402
from partial_fc.head.partial_fc import DEFAULT_BLOCK_ROWS, PartialFC  # noqa: E402
from partial_fc.head.row_store import check_room  # noqa: E402
from partial_fc.horovod_collectives import connect  # noqa: E402
from partial_fc.mixed_precision import loss_scale_for  # noqa: E402
from partial_fc.optimizer import SGD  # noqa: E402
from partial_fc.trainer import Trainer  # noqa: E402

MIB = 2**20
_LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Method:
    """One row of a table: how the classification layer is trained.

    Attributes:
        name: what the table calls it.
        identities: C.
        sample_ratio: r.
        batch_size: B, images a rank.
        logits_chunk: None keeps all logits.
    """

    name: str
    identities: int
    sample_ratio: float
    batch_size: int
    logits_chunk: int | None = None


@dataclass
class Measured:
    """What a method took.

    Attributes:
        method: which.
        memory_mb: MiB of the rank that took most: of its GPU, or resident, the process included.
        seconds: of each step, of the slowest rank.
    """

    method: Method
    memory_mb: float
    seconds: list[float]

    def images_per_second(self, ranks: int) -> float:
        """Images of all ranks over the median step."""
        return ranks * self.method.batch_size / float(np.median(self.seconds))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        ValueError: a value out of its range.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--identities", type=int, nargs="+", default=[100_000, 400_000], help="a table each (%(default)s)")
    add("--batch-size", type=int, default=32, help="images a rank (%(default)s)")
    add("--embedding-size", type=int, default=512, help="(%(default)s)")
    add("--network", default="toy", help="(%(default)s)")
    add("--sample-ratio", type=float, default=0.1, help="of Partial FC (%(default)s)")
    add("--storage", default="device:float32/float32", help="[tier:]weight[/momentum] (%(default)s)")
    add("--storage-directory", type=Path, help="of the tier file")
    add("--fp16", action=argparse.BooleanOptionalAction, default=mx.context.num_gpus() > 0, help="(%(default)s)")
    add("--steps", type=int, default=11, help="timed steps of each method (%(default)s)")
    add("--paper", action="store_true", help="the paper's configuration instead, on as many GPUs as the paper has")
    add("--results", type=Path, default=DIRECTORY, help="folder of throughput.csv (%(default)s)")
    given = parser.parse_args(arguments)
    for name in ("batch_size", "embedding_size", "steps"):
        if vars(given)[name] < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, but is {vars(given)[name]}")
    if not 0.0 < given.sample_ratio <= 1.0:
        raise ValueError(f"--sample-ratio must lie in (0, 1], but is {given.sample_ratio}")
    if given.network not in symbol.backbone_names():
        raise ValueError(f"unknown network {given.network!r}: choose one of {', '.join(symbol.backbone_names())}")
    if given.paper:
        given.network, given.embedding_size, given.fp16 = paper.NETWORK, paper.EMBEDDING_SIZE, True
    return given


def chosen_tables(given: argparse.Namespace, ranks: int, gpus: int) -> list[list[Method]]:
    """The methods of each table.

    Raises:
        ValueError: the paper's configuration was asked for, and this run is not on as many GPUs.
    """
    if not given.paper:
        batch = given.batch_size
        return [_table(identities, batch, batch, given.sample_ratio) for identities in given.identities]
    if gpus == 0:
        raise ValueError("--paper measures ResNet50 on GPUs, but this machine has none: leave it out")
    found = [rows for rows in paper.tables() if rows[0].gpus == ranks]
    if not found:
        known = " and ".join(str(full.gpus) for full, _ in paper.tables())
        raise ValueError(f"the paper's tables are of {known} GPUs, but this run has {ranks} ranks")
    return [
        _table(full.identities, full.images_per_gpu, sampled.images_per_gpu, sampled.sample_ratio)
        for full, sampled in found
    ]


def _table(identities: int, full_batch: int, sampled_batch: int, sample_ratio: float) -> list[Method]:
    return [
        Method(paper.MODEL_PARALLEL, identities, 1.0, full_batch),
        Method(paper.PARTIAL_FC, identities, sample_ratio, sampled_batch),
        Method(f"{paper.MODEL_PARALLEL}, in chunks", identities, 1.0, full_batch, DEFAULT_BLOCK_ROWS),
    ]


def make_trainer(
    method: Method, given: argparse.Namespace, collectives: Collectives, context: mx.Context, storage: Storage
) -> Trainer:
    """A training run of the method on random images, as ``python -m partial_fc.train`` makes it."""
    recipe = default.LOSSES["cosface"]
    reduced = "float16" if context.device_type == "gpu" else "float16-emulated"
    size = symbol.default_image_size(given.network)
    with together(collectives, "room for the class centers"):
        check_room(
            storage,
            num_classes=method.identities,
            embedding_size=given.embedding_size,
            context=context,
            collectives=collectives,
        )
    with together(collectives, "layer"):
        head = PartialFC(
            method.identities,
            given.embedding_size,
            collectives,
            margin=Margin(recipe["loss_m1"], recipe["loss_m2"], recipe["loss_m3"]),
            sample_ratio=method.sample_ratio,
            context=context,
            storage=storage,
            logits_chunk=method.logits_chunk,
        )
        loader = RandomLoader(
            method.identities,
            batch_size=method.batch_size,
            image_size=size,
            rank=collectives.rank,
            ranks=collectives.size,
        )
    network = symbol.build_backbone(
        given.network,
        given.embedding_size,
        precision=reduced if given.fp16 else "float32",
        train_on=context.device_type,
    )
    backbone = Backbone(
        network, batch_size=method.batch_size, image_size=size, collectives=collectives, context=context
    )
    optimizer = SGD(backbone.parameters, momentum=0.9, weight_decay=5e-4)
    return Trainer(
        backbone, head, optimizer, loader, lambda update: _LEARNING_RATE, loss_scale_for(given.fp16), collectives
    )


def measure(
    methods: Sequence[Method], make: Callable[[Method], Trainer], steps: int, context: mx.Context, ranks: Collectives
) -> list[Measured]:
    """Makes the methods' trainers and times their steps: in turns on a CPU, one method after the other on a GPU."""
    together_or_alone = [methods] if context.device_type == "cpu" else [[method] for method in methods]
    measured = []
    for group in together_or_alone:
        trainers, taken = [], []
        for method in group:
            trainer, memory_mb = _start(method, make, context, ranks)
            trainers.append(trainer)
            taken.append(Measured(method, memory_mb, []))
        for _ in range(steps):
            for trainer, one in zip(trainers, taken, strict=True):
                one.seconds.append(_timed(trainer.step, ranks))
        measured += taken
        trainer = None
        trainers.clear()
        gc.collect()
        if context.device_type == "gpu":
            context.empty_cache()
    return measured


def _start(
    method: Method, make: Callable[[Method], Trainer], context: mx.Context, ranks: Collectives
) -> tuple[Trainer, float]:
    """A trainer after its first two steps, and the MiB of the rank that it took most of.

    On a CPU that is what it added to the process, and what the process had before there was any trainer.
    """
    gc.collect()
    mx.nd.waitall()
    on_cpu = context.device_type == "cpu"
    if on_cpu:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident_mib("VmRSS")
    trainer = make(method)
    for _ in range(2):
        trainer.step()
    mx.nd.waitall()
    if on_cpu:
        taken = _resident_mib("VmHWM") - before + _PROCESS_MIB
    else:
        free, everything = mx.context.gpu_memory_info(context.device_id)
        taken = (everything - free) / MIB
    return trainer, max(ranks.gather_objects(taken, "memory"))


def _timed(step: Callable[[], object], ranks: Collectives) -> float:
    """Seconds of a step, from when all ranks are ready to when the slowest is done."""
    mx.nd.waitall()
    ranks.gather_objects(None, "ready")
    start = time.perf_counter()
    step()
    mx.nd.waitall()
    return max(ranks.gather_objects(time.perf_counter() - start, "done"))


def _resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


# A process with its libraries and nothing made yet.
_PROCESS_MIB = _resident_mib("VmRSS")


def show(measured: Sequence[Measured], ranks: int, tier: str, kind: str) -> str:
    """A table in the paper's form, and its ratios beside the paper's."""
    full, sampled = measured[0], measured[1]
    lines = [
        f"{full.method.identities:,} identities",
        f"  {'Method':<26}{kind:>6}{'BatchSize':>11}{'Memory/M':>10}{'Throughput img/sec':>20}  W",
    ]
    for one in measured:
        lines.append(
            f"  {one.method.name:<26}{ranks:>6}{ranks * one.method.batch_size:>11}{one.memory_mb:>10.0f}"
            f"{one.images_per_second(ranks):>20.1f}  {tier}"
        )
    speed = sampled.images_per_second(ranks) / full.images_per_second(ranks)
    chunked = measured[2].images_per_second(ranks) / full.images_per_second(ranks)
    lines.append(
        f"  Partial FC over Model Parallel: throughput × {speed:.2f}, memory × {sampled.memory_mb / full.memory_mb:.2f}"
        f"; in chunks: throughput × {chunked:.2f}, memory × {measured[2].memory_mb / full.memory_mb:.2f}"
    )
    return "\n".join(lines)


def show_paper() -> str:
    """The paper's tables, for comparison."""
    lines = [f"the paper: {paper.CONDITIONS}"]
    for full, sampled in paper.tables():
        lines.append(f"{full.identities:,} identities")
        for row in (full, sampled):
            lines.append(
                f"  {row.method:<26}{row.gpus:>6}{row.batch_size:>11}{row.memory_mb:>10}"
                f"{row.images_per_second:>20}  GPU"
            )
        lines.append(
            f"  Partial FC over Model Parallel: throughput × {sampled.images_per_second / full.images_per_second:.2f}, "
            f"memory × {sampled.memory_mb / full.memory_mb:.2f}"
        )
    _, (full, sampled) = paper.tables()
    lines.append(f"  (their batches differ at {full.identities:,}: {full.batch_size} and {sampled.batch_size}, so that "
                 "neither ratio is of like and like)")  # fmt: skip
    return "\n".join(lines)


def row_of(one: Measured, given: argparse.Namespace, ranks: int, device: str) -> dict[str, object]:
    """A row of the CSV file."""
    return {
        "method": one.method.name,
        "identities": one.method.identities,
        "sample_ratio": one.method.sample_ratio,
        "logits_chunk": one.method.logits_chunk or "all",
        "device": device,
        "ranks": ranks,
        "global_batch": ranks * one.method.batch_size,
        "network": given.network,
        "fp16": given.fp16,
        "embedding_size": given.embedding_size,
        "storage": given.storage,
        "steps": len(one.seconds),
        "memory_mb": one.memory_mb,
        "images_per_second": one.images_per_second(ranks),
        **quantiles("step_ms", [1e3 * seconds for seconds in one.seconds]),
    }


def run(given: argparse.Namespace, collectives: Collectives) -> None:
    """Measures all tables, prints them on rank 0, and writes the file."""
    with together(collectives, "tables"):
        context = compute_context(collectives.local_rank)
        tables = chosen_tables(given, collectives.size, mx.context.num_gpus())
        storage = Storage.parse(given.storage, given.storage_directory)
    kind = "GPUs" if context.device_type == "gpu" else "Ranks"
    tier = {"device": context.device_type.upper(), "host": "host", "file": "file"}[storage.tier]
    rows = []
    for methods in tables:
        measured = measure(
            methods,
            lambda method: make_trainer(method, given, collectives, context, storage),
            given.steps,
            context,
            collectives,
        )
        rows += [row_of(one, given, collectives.size, context.device_type) for one in measured]
        if collectives.rank == 0:
            print(show(measured, collectives.size, tier, kind), end="\n\n", flush=True)
    with together(collectives, "results"):
        if collectives.rank == 0:
            print(show_paper())
            print(f"\nwritten to {write_results('throughput', rows, given.results)}", flush=True)


def main() -> int:
    """Measures; returns the exit status: 0, or 2 for what the user can mend."""
    given, mistake = None, None
    try:
        given = parse(sys.argv[1:])
    except ValueError as error:
        mistake = str(error)
    collectives = connect()
    try:
        raise_together(collectives, mistake, "arguments")
        run(given, collectives)
    except RankError as error:  # all ranks have it
        if collectives.rank == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        collectives.close()
        return 2
    collectives.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
