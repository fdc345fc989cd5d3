"""What a checkpoint costs training: the step that starts a save beside a normal one, and the save itself; one rank.

    mpirun -np 2 python benchmarks/checkpoint.py                  200,000 identities, D = 512
    mpirun -np 2 python benchmarks/checkpoint.py --sample-ratio 0.1 --memory-mib 64

A round is some normal steps, the one that starts a save (taking the state included), and those until it is on the disk.
Prints the median over rounds of each, their ratio, and the seconds, bytes and copied memory of a save.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ("", "src", "benchmarks")]

from results import quantiles, write_results  # noqa: E402

import symbol  # noqa: E402
from partial_fc.backbone import Backbone  # noqa: E402
from partial_fc.center_storage import Storage  # noqa: E402
from partial_fc.checkpoint import Checkpointer, RunMark, run_parts  # noqa: E402
from partial_fc.collectives import Collectives  # noqa: E402
from partial_fc.data.random_images import RandomLoader  # noqa: E402
from partial_fc.device import compute_context  # noqa: E402
from partial_fc.head.margin import Margin  # noqa: E402
from partial_fc.head.partial_fc import PartialFC  # noqa: E402
from partial_fc.horovod_collectives import connect  # noqa: E402
from partial_fc.mixed_precision import loss_scale_for  # noqa: E402
from partial_fc.optimizer import SGD  # noqa: E402
from partial_fc.trainer import Trainer  # noqa: E402


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=200_000, help="(%(default)s)")
    parser.add_argument("--sample-ratio", type=float, default=1.0, help="in (0, 1] (%(default)s)")
    parser.add_argument("--embedding-size", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a rank and update (%(default)s)")
    parser.add_argument("--network", default="toy", help="(%(default)s)")
    parser.add_argument("--image-size", type=int, default=56, help="pixels (%(default)s)")
    parser.add_argument("--storage", default="device:float32/float32", help="[tier:]weight[/momentum] (%(default)s)")
    parser.add_argument("--memory-mib", type=int, default=1024, help="for rows that change first (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="normal steps of a round (%(default)s)")
    parser.add_argument("--directory", type=Path, help="the disk to measure (a temporary directory)")
    parser.add_argument("--csv", action="store_true", help="write benchmarks/results/checkpoint.csv")
    return parser.parse_args()


def build(options: argparse.Namespace, collectives: Collectives) -> Trainer:
    """A trainer on random images."""
    context = compute_context(collectives.local_rank)
    common = {"batch_size": options.batch_size, "image_size": options.image_size}
    network = symbol.build_backbone(options.network, options.embedding_size, train_on=context.device_type)
    backbone = Backbone(network, collectives=collectives, context=context, **common)
    head = PartialFC(
        options.identities,
        options.embedding_size,
        collectives,
        margin=Margin(1.0, 0.0, 0.4),
        sample_ratio=options.sample_ratio,
        context=context,
        storage=Storage.parse(options.storage),
    )
    optimizer = SGD(backbone.parameters, momentum=0.9, weight_decay=5e-4)
    loader = RandomLoader(options.identities, rank=collectives.rank, ranks=collectives.size, **common)
    return Trainer(backbone, head, optimizer, loader, lambda _: 0.01, loss_scale_for(False), collectives)


def timed_step(trainer: Trainer, checkpoints: Checkpointer, save: bool = False) -> float:
    """Milliseconds of a step, with what a save adds to it, on the slowest rank."""
    trainer.collectives.gather_objects(None, "benchmark.start")
    start = time.perf_counter()
    if save:
        checkpoints.begin(trainer.update)
    trainer.step()
    for store in trainer.head.centers.stores:
        store.weight_RD.wait_to_read()
    checkpoints.poll()
    return max(trainer.collectives.gather_objects(1e3 * (time.perf_counter() - start), "benchmark.end"))


def measure(options: argparse.Namespace, collectives: Collectives, directory: Path) -> dict[str, object]:
    """One row of numbers."""
    trainer = build(options, collectives)
    network = symbol.build_backbone(options.network, options.embedding_size)
    parts = run_parts(trainer, deployed_network=network, num_classes=options.identities, rank=collectives.rank)
    checkpoints = Checkpointer(
        directory, parts, dict, collectives, RunMark("benchmark"), keep=1, memory=options.memory_mib << 20
    )
    checkpoints.prepare()
    for _ in range(3):
        timed_step(trainer, checkpoints)
    normal, starting, during, seconds = [], [], [], []
    for _ in range(options.rounds):
        normal += [timed_step(trainer, checkpoints) for _ in range(options.steps)]
        begun = time.perf_counter()
        starting.append(timed_step(trainer, checkpoints, save=True))
        while checkpoints.busy:
            during.append(timed_step(trainer, checkpoints))
        seconds.append(time.perf_counter() - begun)
    assert checkpoints.newest is not None
    size = sum(path.stat().st_size for path in checkpoints.newest.iterdir())
    ratio = statistics.median(starting) / statistics.median(normal)
    return {
        "identities": options.identities,
        "sample_ratio": options.sample_ratio,
        "ranks": collectives.size,
        "storage": options.storage,
        "memory_mib": options.memory_mib,
        **quantiles("normal_ms", normal),
        **quantiles("starting_ms", starting),
        **quantiles("during_ms", during or [0.0]),
        "starting_over_normal": ratio,
        "save_s": statistics.median(seconds),
        "save_mib": size / 2**20,
    }


def main() -> int:
    """Measures on all ranks; rank 0 prints."""
    options = parse()
    collectives = connect()
    temporary = options.directory is None
    made = tempfile.mkdtemp(prefix="checkpoint-") if temporary and collectives.rank == 0 else None
    directory = Path(collectives.gather_objects(made, "benchmark.directory")[0] or options.directory)
    row = measure(options, collectives, directory)
    if collectives.rank == 0:
        print(
            f"{row['identities']:,} identities, r = {row['sample_ratio']}, {row['ranks']} ranks, {row['storage']}, "
            f"{row['memory_mib']} MiB for copies: normal step {row['normal_ms_p50']:.0f} ms, starting a save "
            f"{row['starting_ms_p50']:.0f} ms ({row['starting_over_normal']:.2f}×), while saving "
            f"{row['during_ms_p50']:.0f} ms; {row['save_mib']:.0f} MiB in {row['save_s']:.1f} s",
            flush=True,
        )
        if options.csv:
            write_results("checkpoint", [row])
        if temporary:
            shutil.rmtree(directory)
    collectives.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
