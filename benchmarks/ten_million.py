"""Trains ten million identities on this machine and prints what that takes: one rank of the run.

    bash benchmarks/ten_million.sh                       10,000,000 identities, 2 ranks, in memory
    bash benchmarks/ten_million.sh --identities 30000000 --storage file:float16/int8 --storage-directory DIR

A set of images goes through a small backbone again and again, their identities spread over all classes, so that the
loss can be seen to fall; the head samples a tenth of the centers each update. Class centers are float16 with int8
momentum. Prints the loss of each pass, seconds a step, and the memory of all ranks with what was swapped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ("", "src", "benchmarks")]

import numpy as np  # noqa: E402
from results import write_results  # noqa: E402

import symbol  # noqa: E402
from partial_fc.backbone import Backbone  # noqa: E402
from partial_fc.center_storage import Storage  # noqa: E402
from partial_fc.collectives import Collectives, RankError, together  # noqa: E402
from partial_fc.data.batch import Batch  # noqa: E402
from partial_fc.device import compute_context  # noqa: E402
from partial_fc.head.margin import Margin  # noqa: E402
from partial_fc.head.partial_fc import PartialFC  # noqa: E402
from partial_fc.head.row_store import check_room  # noqa: E402
from partial_fc.horovod_collectives import connect  # noqa: E402
from partial_fc.mixed_precision import loss_scale_for  # noqa: E402
from partial_fc.optimizer import SGD  # noqa: E402
from partial_fc.trainer import Trainer  # noqa: E402


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=10_000_000, help="(%(default)s)")
    parser.add_argument("--sample-ratio", type=float, default=0.1, help="in (0, 1] (%(default)s)")
    parser.add_argument("--images", type=int, default=2_560, help="images of the set, over all ranks (%(default)s)")
    parser.add_argument("--passes", type=int, default=3, help="passes over the set (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a rank and update (%(default)s)")
    parser.add_argument("--embedding-size", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--image-size", type=int, default=56, help="pixels (%(default)s)")
    parser.add_argument("--network", default="toy", help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=0.1, help="(%(default)s)")
    parser.add_argument("--storage", default="device:float16/int8", help="[tier:]weight[/momentum] (%(default)s)")
    parser.add_argument("--storage-directory", type=Path, help="of the tier file")
    parser.add_argument("--logits-chunk", type=int, default=2048, help="classes whose logits are kept (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser.parse_args()


class RepeatedImages:
    """A loader over a fixed set of images of noise, each of an identity of its own, in the same order each pass."""

    replaced = 0

    def __init__(self, arguments: argparse.Namespace, rank: int, ranks: int) -> None:
        self._batch_size = arguments.batch_size
        self._updates = arguments.images // (arguments.batch_size * ranks)
        if self._updates < 1:
            raise ValueError(f"--images must be at least one batch of all ranks, {arguments.batch_size * ranks}")
        rng = np.random.default_rng(rank)
        own = self._updates * self._batch_size
        size = arguments.image_size
        # Coarse noise: images that a convolution can tell apart.
        coarse = rng.integers(0, 256, (own, 8, 8, 3), dtype=np.uint8)
        repeat = -(-size // 8)
        self._images = coarse.repeat(repeat, axis=1).repeat(repeat, axis=2)[:, :size, :size]
        everyone = np.random.default_rng(1).choice(arguments.identities, own * ranks, replace=False)
        self._labels = everyone[rank * own : (rank + 1) * own].astype(np.int64)
        self._next = 0

    @property
    def updates_per_pass(self) -> int:
        """Updates that see every image once."""
        return self._updates

    def next_batch(self) -> Batch:
        """The next images of the set."""
        epoch, update = divmod(self._next, self._updates)
        self._next += 1
        part = slice(update * self._batch_size, (update + 1) * self._batch_size)
        images = np.ascontiguousarray(self._images[part])
        return Batch(images, self._labels[part], epoch, update, np.arange(part.start, part.stop))

    def state(self) -> dict[str, int]:
        """Where the series stands."""
        return {"next": self._next}

    def restore(self, state: dict[str, int]) -> None:
        """Goes on from there."""
        self._next = state["next"]

    def close(self) -> None:
        """There is nothing to end."""


def memory() -> dict[str, float]:
    """GiB of this rank: its peak, and what of it is swapped out."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(status[name].split()[0]) / 2**20 for name in ("VmHWM", "VmSwap")}


def run(arguments: argparse.Namespace, collectives: Collectives) -> dict[str, object]:
    """Trains and returns the figures."""
    context = compute_context(collectives.local_rank)
    with together(collectives, "room"):
        storage = Storage.parse(arguments.storage, arguments.storage_directory)
        check_room(
            storage,
            num_classes=arguments.identities,
            embedding_size=arguments.embedding_size,
            context=context,
            collectives=collectives,
        )
        loader = RepeatedImages(arguments, collectives.rank, collectives.size)
        head = PartialFC(
            arguments.identities,
            arguments.embedding_size,
            collectives,
            margin=Margin(m3=0.4),
            sample_ratio=arguments.sample_ratio,
            context=context,
            storage=storage,
            logits_chunk=arguments.logits_chunk,
        )
    backbone = Backbone(
        symbol.build_backbone(arguments.network, arguments.embedding_size),
        batch_size=arguments.batch_size,
        image_size=arguments.image_size,
        collectives=collectives,
        context=context,
    )
    optimizer = SGD(backbone.parameters, momentum=0.9, weight_decay=5e-4)
    trainer = Trainer(
        backbone, head, optimizer, loader, lambda update: arguments.lr, loss_scale_for(False), collectives
    )
    losses, seconds = [], []
    for number in range(1, arguments.passes + 1):
        reports = [trainer.step() for _ in range(loader.updates_per_pass)]
        losses.append(statistics.fmean(report.loss for report in reports))
        seconds += [report.seconds for report in reports]
        if collectives.rank == 0:
            parts = {
                part: statistics.median(report.milliseconds[part] for report in reports) / 1e3
                for part in reports[0].milliseconds
            }
            print(
                f"pass {number}: loss {losses[-1]:.3f}, {statistics.median(seconds):.2f} s a step "
                f"({', '.join(f'{part} {value:.2f}' for part, value in parts.items())})",
                flush=True,
            )
    memories = collectives.gather_objects(memory(), "memory")
    return {
        "identities": arguments.identities,
        "ranks": collectives.size,
        "sample_ratio": arguments.sample_ratio,
        "storage": str(storage),
        "images": loader.updates_per_pass * arguments.batch_size * collectives.size,
        "losses": losses,
        "seconds_per_step": statistics.median(seconds),
        "peak_gib": sum(part["VmHWM"] for part in memories),
        "swapped_gib": sum(part["VmSwap"] for part in memories),
    }


def main() -> int:
    """Runs one rank; rank 0 prints."""
    arguments = parse()
    collectives = connect()
    try:
        figures = run(arguments, collectives)
    except RankError as error:
        if collectives.rank == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        collectives.close()
        return 2
    except BaseException:
        traceback.print_exc()
        collectives.abort(1)  # the others wait for this rank
    if collectives.rank == 0:
        print(
            f"{figures['identities']} identities on {figures['ranks']} ranks: {figures['seconds_per_step']:.2f} s a "
            f"step, {figures['peak_gib']:.2f} GiB in all ranks together, {figures['swapped_gib']:.2f} GiB swapped"
        )
        name = "ten_million" if figures["identities"] == 10_000_000 else f"identities_{figures['identities']}"
        row = figures | {"losses": " ".join(f"{loss:.3f}" for loss in figures["losses"])}
        print(f"wrote {write_results(name, [row])}", flush=True)
        if arguments.json:
            print(json.dumps(figures), flush=True)
    collectives.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
