"""What it costs that unsampled class centers move on: lazily, and as the dense update of every row does it.

    python benchmarks/lazy_updates.py --classes 1000000 --sample-ratio 0.1

One process, one thread unless OMP_NUM_THREADS says otherwise. In one run and interleaved, step by step: the head's step
(sampling and gather included) in which unsampled rows stay, the one with lazy updates, and an update of all rows
without a gradient, which is what a dense update takes beside a sampled step. Then the gather alone, which in training
runs beside the backbone. Medians with the 10 and 90 % quantiles, of the time and of the processor's time, which other
programs on the machine lengthen less; quotients are medians of those of neighbouring steps' processor times.
Writes ``benchmarks/results/lazy_updates.csv``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "src")]

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from results import DIRECTORY, quantiles, write_results  # noqa: E402

from partial_fc.center_storage import Storage  # noqa: E402
from partial_fc.collectives import SingleProcess  # noqa: E402
from partial_fc.head.kernels import UpdateRule  # noqa: E402
from partial_fc.head.margin import Margin  # noqa: E402
from partial_fc.head.partial_fc import DEFAULT_BLOCK_ROWS, PartialFC  # noqa: E402
from partial_fc.head.row_store import check_room  # noqa: E402

LEARNING_RATE, WEIGHT_DECAY, MOMENTUM = 0.1, 5e-4, 0.9


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=1_000_000, help="identities (%(default)s)")
    parser.add_argument("--sample-ratio", type=float, default=0.1, help="in (0, 1] (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="embeddings (%(default)s)")
    parser.add_argument("--embedding-size", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--storage", default="device:float32/float32", help="[tier:]weight[/momentum] (%(default)s)")
    parser.add_argument("--kernels", default="auto", help="auto, C or NDArray (%(default)s)")
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each kind (%(default)s)")
    parser.add_argument("--results", type=Path, default=DIRECTORY, help="where the CSV goes (%(default)s)")
    return parser.parse_args()


class Steps:
    """One head and its steps, on random embeddings and labels."""

    def __init__(self, arguments: argparse.Namespace, lazy: bool) -> None:
        self._rng = np.random.default_rng(1)
        self._classes, self._batch_size = arguments.classes, arguments.batch_size
        self._embedding_BD = mx.nd.array(self._rng.standard_normal((arguments.batch_size, arguments.embedding_size)))
        self._number = 0
        self.head = PartialFC(
            arguments.classes,
            arguments.embedding_size,
            SingleProcess(),
            margin=Margin(m3=0.4),
            sample_ratio=arguments.sample_ratio,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            storage=Storage.parse(arguments.storage),
            kernels=arguments.kernels,
            lazy_updates=lazy,
        )
        self.head.centers.initialize_all()
        shape = DEFAULT_BLOCK_ROWS, arguments.embedding_size
        self._zeros = mx.nd.zeros(shape), mx.nd.zeros(shape[:1])

    def sample(self) -> object:
        """Samples and gathers; in training beside the backbone."""
        self._number += 1
        return self.head.sample(self._rng.integers(self._classes, size=self._batch_size), self._number)

    def step(self) -> None:
        """One step of the layer."""
        assert np.isfinite(self.head.forward(self._embedding_BD, self.sample()))
        self.head.backward(LEARNING_RATE)

    def decay_all(self) -> None:
        """M ← μM − ηλW, W ← W + M on all rows, by the kernel of the layer's own update."""
        centers = self.head.centers
        rule = UpdateRule(0.0, 0.0, LEARNING_RATE * WEIGHT_DECAY, MOMENTUM)
        for number, block in enumerate(centers.blocks(np.arange(centers.count))):
            gradient_BD, projection_B = self._zeros[0][: block.size], self._zeros[1][: block.size]
            centers.update(block, centers.load(block, number % 2), gradient_BD, projection_B, rule)


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of a call with all that it starts, and of the processor in it, all threads together."""
    mx.nd.waitall()
    start, start_cpu = time.perf_counter(), time.process_time()
    function()
    mx.nd.waitall()
    return 1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - start_cpu)


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """The milliseconds of each kind of work, and what each costs beside the step in which unsampled rows stay."""
    check_room(
        Storage.parse(arguments.storage),
        num_classes=2 * arguments.classes,
        embedding_size=arguments.embedding_size,
        context=mx.cpu(),
        collectives=SingleProcess(),
    )
    plain, lazy = Steps(arguments, False), Steps(arguments, True)
    kinds = {
        "step, unsampled rows stay": plain.step,
        "step, lazy updates": lazy.step,
        "update of all rows alone": plain.decay_all,
        "gather, unsampled rows stay": plain.sample,
        "gather, lazy updates": lazy.sample,
    }
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for number in range(arguments.steps + 3):
        for kind, function in kinds.items():
            both = timed(function)
            if number >= 3:
                times[kind].append(both)
    base = [cpu for _, cpu in times["step, unsampled rows stay"]]
    shared = {name: getattr(arguments, name) for name in ("classes", "sample_ratio", "batch_size", "embedding_size")}
    shared |= {"storage": arguments.storage, "kernels": plain.head.kernels_name}
    return [
        {
            **shared,
            "work": kind,
            **quantiles("ms", [wall for wall, _ in values]),
            **quantiles("cpu_ms", [cpu for _, cpu in values]),
            "over_step": statistics.median(cpu / step for (_, cpu), step in zip(values, base, strict=True)),
        }
        for kind, values in times.items()
    ]


def main() -> int:
    """Measures, prints, writes down."""
    arguments = parse()
    try:
        rows = measure(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    embeddings = f"{arguments.batch_size} embeddings of {arguments.embedding_size}"
    print(f"{arguments.classes} identities, sample ratio {arguments.sample_ratio}, {embeddings}, {arguments.storage}, "
          f"{rows[0]['kernels']} kernels; milliseconds, and those of the processor")  # fmt: skip
    for row in rows:
        parts = "".join(f"  {row[f'{name}_p50']:9.1f} ({row[f'{name}_p10']:.1f}–{row[f'{name}_p90']:.1f})"
                        for name in ("ms", "cpu_ms"))  # fmt: skip
        print(f"  {row['work']:<30}{parts}  {row['over_step']:6.3f} of the first")
    print(write_results("lazy_updates", rows, arguments.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
