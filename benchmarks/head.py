"""The time of one step of the classification layer, beside its floor and beside a plain implementation.

    python benchmarks/head.py --classes 100000
    mpirun -np 2 python benchmarks/head.py --classes 200000 --json

In one run and interleaved, step by step: this project's head step (gather, logits, softmax, gradients, update of W),
the three matrix products alone through the same library, and the layer written the obvious way. Medians over steps,
of the slowest rank. No backbone: embeddings are random.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "src")]

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402

import default  # noqa: E402
from partial_fc.center_storage import Storage  # noqa: E402
from partial_fc.collectives import Collectives, RankError, together  # noqa: E402
from partial_fc.device import compute_context  # noqa: E402
from partial_fc.head import matmul  # noqa: E402
from partial_fc.head.margin import Margin  # noqa: E402
from partial_fc.head.partial_fc import DEFAULT_BLOCK_ROWS, PartialFC  # noqa: E402
from partial_fc.head.partition import ClassPartition  # noqa: E402
from partial_fc.head.row_store import check_room  # noqa: E402
from partial_fc.horovod_collectives import connect  # noqa: E402
from partial_fc.testing import PlainPartialFC  # noqa: E402

MIB = 2**20


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=200_000, help="identities over all ranks (%(default)s)")
    parser.add_argument("--sample-ratio", type=float, default=1.0, help="in (0, 1] (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="embeddings a rank (%(default)s)")
    parser.add_argument("--embedding-size", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--loss", choices=("arcface", "combined", "cosface"), default="cosface", help="(%(default)s)")
    parser.add_argument("--storage", default="device:float32/float32", help="[tier:]weight[/momentum] (%(default)s)")
    parser.add_argument("--storage-directory", type=Path, help="of the tier file")
    parser.add_argument("--kernels", default="auto", help="auto, C or NDArray (%(default)s)")
    parser.add_argument("--logits-chunk", type=int, help="classes whose logits are kept at once (all)")
    parser.add_argument("--steps", type=int, default=11, help="timed steps of each kind (%(default)s)")
    parser.add_argument("--touch-all", action="store_true", help="give all rows their initial value before timing")
    parser.add_argument("--without-plain", action="store_true", help="leave the plain implementation out")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser.parse_args()


class Problem:
    """Random embeddings and labels, the same for all that is measured."""

    def __init__(self, arguments: argparse.Namespace, collectives: Collectives, context: mx.Context) -> None:
        rng = np.random.default_rng(collectives.rank)
        shape = (arguments.batch_size, arguments.embedding_size)
        self.embedding_BD = mx.nd.array(rng.standard_normal(shape), ctx=context, dtype="float32")
        self._label_rng = np.random.default_rng(1)
        self._labels = arguments.batch_size * collectives.size
        self._classes = arguments.classes

    def labels(self) -> np.ndarray:
        """(N,) labels of the next step, the same on every rank."""
        return self._label_rng.integers(self._classes, size=self._labels)


def timed(function: Callable[[], object], collectives: Collectives) -> float:
    """Milliseconds of a call, from when all ranks are ready to when the slowest is done."""
    mx.nd.waitall()
    collectives.gather_objects(None, "ready")
    start = time.perf_counter()
    function()
    mx.nd.waitall()
    return max(collectives.gather_objects(1e3 * (time.perf_counter() - start), "done"))


def peak_memory(function: Callable[[], object]) -> tuple[float, float]:
    """Resident MiB before a call and at its peak."""
    gc.collect()
    mx.nd.waitall()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    function()
    mx.nd.waitall()
    return before, resident("VmHWM")


def resident(field: str) -> float:
    """MiB of a field of this process's memory status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


class Products:
    """The three matrix products of a step alone, in blocks as the head has them or through ``nd.dot``."""

    def __init__(self, samples: int, classes: int, embedding_size: int, context: mx.Context) -> None:
        self._x_ND = mx.nd.random.normal(shape=(samples, embedding_size), ctx=context)
        self._weight_SD = mx.nd.random.normal(shape=(classes, embedding_size), ctx=context)
        self._part_ND = mx.nd.empty((samples, embedding_size), ctx=context)
        self._starts = range(0, classes, DEFAULT_BLOCK_ROWS)
        self._blocks = [
            mx.nd.empty((samples, min(DEFAULT_BLOCK_ROWS, classes - start)), ctx=context) for start in self._starts
        ]
        self._gradients = [mx.nd.empty((block.shape[1], embedding_size), ctx=context) for block in self._blocks[-2:]]

    def run(self) -> None:
        """FullyConnected and its backward, as the head calls them."""
        weights = [self._weight_SD[start : start + DEFAULT_BLOCK_ROWS] for start in self._starts]
        for block, weight in zip(self._blocks, weights, strict=True):
            matmul.logits(self._x_ND, weight, block)
        for block, weight in zip(self._blocks, weights, strict=True):
            gradient = self._gradients[0 if block.shape == self._blocks[0].shape else -1]
            matmul.gradients(block, self._x_ND, weight, self._part_ND, gradient)

    def run_blas(self) -> None:
        """The same products through ``nd.dot``: OpenBLAS on a CPU."""
        weights = [self._weight_SD[start : start + DEFAULT_BLOCK_ROWS] for start in self._starts]
        for block, weight in zip(self._blocks, weights, strict=True):
            mx.nd.dot(self._x_ND, weight, transpose_b=True, out=block)
        for block, weight in zip(self._blocks, weights, strict=True):
            gradient = self._gradients[0 if block.shape == self._blocks[0].shape else -1]
            mx.nd.dot(block, weight, out=self._part_ND)
            mx.nd.dot(block, self._x_ND, transpose_a=True, out=gradient)


def warm_up(arguments: argparse.Namespace, collectives: Collectives, context: mx.Context) -> None:
    """One step over a few classes: the libraries load what they need, which is not the layer's memory."""
    small = PartialFC(
        4 * collectives.size, arguments.embedding_size, collectives, margin=Margin(), context=context,
        kernels=arguments.kernels,
    )  # fmt: skip
    problem = Problem(argparse.Namespace(**{**vars(arguments), "classes": 4}), collectives, context)
    small.forward(problem.embedding_BD, small.sample(problem.labels(), 0))
    small.backward(0.1)


def measure(arguments: argparse.Namespace, collectives: Collectives) -> dict[str, object]:
    """Runs everything and returns the figures, the same on every rank."""
    with together(collectives, "room"):
        context = compute_context(collectives.local_rank)
        storage = Storage.parse(arguments.storage, arguments.storage_directory)
        ClassPartition(arguments.classes, collectives.size)
        check_room(
            storage,
            num_classes=arguments.classes,
            embedding_size=arguments.embedding_size,
            context=context,
            collectives=collectives,
        )
    warm_up(arguments, collectives, context)
    recipe = default.LOSSES[arguments.loss]
    margin = Margin(recipe["loss_m1"], recipe["loss_m2"], recipe["loss_m3"])
    problem = Problem(arguments, collectives, context)
    shared = {"margin": margin, "sample_ratio": arguments.sample_ratio}
    head: PartialFC | None = None
    steps = 0

    def head_step() -> None:
        nonlocal head, steps
        if head is None:
            head = PartialFC(
                arguments.classes,
                arguments.embedding_size,
                collectives,
                context=context,
                storage=storage,
                kernels=arguments.kernels,
                logits_chunk=arguments.logits_chunk,
                **shared,
            )
        sample = head.sample(problem.labels(), steps)
        loss = head.forward(problem.embedding_BD, sample)
        assert np.isfinite(loss)
        head.backward(0.1)
        steps += 1

    def several_steps() -> None:
        for _ in range(3):
            head_step()

    before, peak = peak_memory(several_steps)
    rows = head.centers.count
    stored = rows * storage.bytes_per_row(arguments.embedding_size) / MIB
    sampled = len(head.sample(problem.labels(), steps).row_S)
    samples = arguments.batch_size * collectives.size

    plain: PlainPartialFC | None = None
    plain_peak = None
    if not arguments.without_plain:

        def plain_step() -> None:
            nonlocal plain
            if plain is None:
                plain = PlainPartialFC(arguments.classes, arguments.embedding_size, collectives, **shared)
            plain.step(problem.embedding_BD, problem.labels(), 0.1)

        plain_before, plain_peak = peak_memory(plain_step)
        plain_peak -= plain_before

    if arguments.touch_all:
        head.centers.initialize_all()
    products = Products(samples, sampled, arguments.embedding_size, context)
    collectives.reset_traffic()
    head_step()
    traffic = {name: [entry.kind, entry.calls, entry.bytes] for name, entry in collectives.traffic.items()}
    times: dict[str, list[float]] = {"head": [], "gemm": [], "blas": [], "plain": [], "sample": []}
    for _ in range(arguments.steps):
        times["head"].append(timed(head_step, collectives))
        times["gemm"].append(timed(products.run, collectives))
        if plain is not None:
            times["plain"].append(timed(plain_step, collectives))
    for _ in range(3):
        times["blas"].append(timed(products.run_blas, collectives))
        labels = problem.labels()
        times["sample"].append(timed(lambda labels=labels: head.sample(labels, steps), collectives))

    def median(kind: str) -> float | None:
        return statistics.median(times[kind]) if times[kind] else None

    def over(kind: str, floor: str) -> float | None:
        """The median of the step-by-step quotients: what drifts with the machine drops out."""
        if not times[kind] or not times[floor]:
            return None
        if len(times[kind]) != len(times[floor]):
            return median(kind) / median(floor)
        return statistics.median(a / b for a, b in zip(times[kind], times[floor], strict=True))

    peaks = collectives.gather_objects((peak - before, peak - before - stored), "memory")
    return {
        "classes": arguments.classes,
        "sample_ratio": arguments.sample_ratio,
        "ranks": collectives.size,
        "batch_size": arguments.batch_size,
        "embedding_size": arguments.embedding_size,
        "loss": arguments.loss,
        "storage": str(storage),
        "kernels": head.kernels_name,
        "logits_chunk": arguments.logits_chunk,
        "sampled": sampled,
        "head_ms": median("head"),
        "gemm_ms": median("gemm"),
        "blas_gemm_ms": median("blas"),
        "plain_ms": median("plain"),
        "head_over_gemm": over("head", "gemm"),
        "head_over_blas_gemm": over("head", "blas"),
        "plain_over_head": over("plain", "head"),
        "sample_ms": median("sample"),
        "peak_rss_mb": max(peak for peak, _ in peaks),
        "plain_peak_rss_mb": plain_peak,
        "extra_mb": max(extra for _, extra in peaks),
        "centers_mb": stored,
        "logits_mb": 4 * samples * sampled / MIB,
        "collectives": traffic,
        "bytes_per_step": sum(entry[2] for entry in traffic.values()),
    }


def show(figures: dict[str, object]) -> None:
    """Prints the figures for people."""
    for name, value in figures.items():
        if name == "collectives":
            for collective, (kind, calls, size) in value.items():
                print(f"  {collective:<26} {kind}, {calls} a step, {size} bytes sent by a rank")
        elif value is not None:
            print(f"{name:<20} {value:.3f}" if isinstance(value, float) else f"{name:<20} {value}")


def main() -> int:
    """Measures and prints on rank 0."""
    arguments = parse()
    collectives = connect()
    try:
        figures = measure(arguments, collectives)
    except RankError as error:  # all ranks have it
        if collectives.rank == 0:
            print(f"error: {error}", file=sys.stderr)
        collectives.close()
        return 2
    except BaseException:
        traceback.print_exc()
        collectives.abort(1)  # the others wait for this rank
    if collectives.rank == 0:
        show(figures)
        if arguments.json:
            print(json.dumps(figures), flush=True)
    collectives.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
