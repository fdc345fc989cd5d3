"""What margins that look at the batch, and the noise filter, cost: head steps side by side in one run.

    python benchmarks/margins.py
    mpirun -np 2 python benchmarks/margins.py --classes 400000

Every form of the layer takes one step a round, in turn, on the same embeddings, labels and sampled rows; printed are
medians over the rounds of the time and of the processor's time, which other programs on the machine lengthen less, and
the median of each round's quotient by CosFace's step, of processor times. A step is sampling, gather, logits, softmax,
gradients and the update of the class centers, without a backbone. Writes ``benchmarks/results/margins.csv``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from results import DIRECTORY, write_results  # noqa: E402

from partial_fc.collectives import Collectives  # noqa: E402
from partial_fc.device import compute_context  # noqa: E402
from partial_fc.head.margin import Margin  # noqa: E402
from partial_fc.head.margin_softmax import AdaFace, CurricularFace, SVSoftmax  # noqa: E402
from partial_fc.head.partial_fc import PartialFC  # noqa: E402
from partial_fc.horovod_collectives import connect  # noqa: E402

COSFACE = Margin(m3=0.4)
FORMS = {
    "CosFace": {"margin": COSFACE},
    "ArcFace": {"margin": Margin(m2=0.5)},
    "AdaFace": {"margin": AdaFace()},
    "CurricularFace": {"margin": CurricularFace()},
    "SV-softmax": {"margin": SVSoftmax()},
    "CosFace, filter 0.4": {"margin": COSFACE, "filter_cosine": 0.4},
    "CosFace, uniform sampler": {"margin": COSFACE, "sampler": "uniform"},
}


def measure(arguments: argparse.Namespace, collectives: Collectives) -> dict[str, list[tuple[float, float]]]:
    """Seconds, and seconds of the processor, of each form's steps, one a round."""
    context = compute_context(collectives.local_rank)
    layers = {
        name: PartialFC(
            arguments.classes,
            arguments.embedding_size,
            collectives,
            sample_ratio=arguments.sample_ratio,
            context=context,
            kernels=arguments.kernels,
            **form,
        )
        for name, form in FORMS.items()
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMS}
    for update in range(arguments.rounds + 1):
        rng = np.random.default_rng([update, collectives.rank])
        shape = (arguments.batch_size, arguments.embedding_size)
        x_BD = mx.nd.array(rng.normal(size=shape), ctx=context)
        label_N = np.random.default_rng(update).integers(arguments.classes, size=shape[0] * collectives.size)
        for name, layer in layers.items():
            mx.nd.waitall()
            start, processor_start = time.perf_counter(), time.process_time()
            layer.forward(x_BD, layer.sample(label_N, update))
            layer.backward(0.1)
            mx.nd.waitall()
            if update:  # in the first, memory is taken
                seconds[name].append((time.perf_counter() - start, time.process_time() - processor_start))
    return seconds


def main() -> int:
    """Measures, and prints a table on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=100_000, help="identities over all ranks (%(default)s)")
    parser.add_argument("--sample-ratio", type=float, default=1.0, help="in (0, 1] (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="embeddings a rank (%(default)s)")
    parser.add_argument("--embedding-size", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--kernels", default="auto", help="auto, C or NDArray (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each form (%(default)s)")
    parser.add_argument("--results", type=Path, default=DIRECTORY, help="where the CSV goes (%(default)s)")
    arguments = parser.parse_args()
    collectives = connect()
    seconds = measure(arguments, collectives)
    if collectives.rank == 0:
        names = ("classes", "sample_ratio", "batch_size", "embedding_size", "kernels", "rounds")
        setting = {name: getattr(arguments, name) for name in names} | {"ranks": collectives.size}
        print("| | step, ms | of the processor | over CosFace's |\n|---|---|---|---|")
        rows = []
        for name, own in seconds.items():
            wall, processor = (1e3 * statistics.median(part) for part in zip(*own, strict=True))
            quotient = statistics.median(a[1] / b[1] for a, b in zip(own, seconds["CosFace"], strict=True))
            print(f"| {name} | {wall:.0f} | {processor:.0f} | {quotient:.2f} |")
            rows.append({"form": name, "ms": wall, "cpu_ms": processor, "over_cosface": quotient} | setting)
        print(f"\nwrote {write_results('margins', rows, arguments.results)}")
    collectives.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
