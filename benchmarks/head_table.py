"""The head's table of the README: ``benchmarks/head.py`` at the sizes named there, each in a run of its own.

    python benchmarks/head_table.py [--steps 11] [--only TEXT]

Writes ``benchmarks/results/head.csv`` and prints the table as Markdown. ``--only`` measures a part of it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from results import DIRECTORY, machine, versions, write_results

HEAD = Path(__file__).with_name("head.py")

# (what is measured, ranks, options)
CASES = [
    ("C form, all classes", 2, "--classes 200000"),
    ("C form, all classes, ArcFace", 2, "--classes 200000 --loss arcface --without-plain"),
    ("C form, all classes, 2 × 256", 2, "--classes 200000 --batch-size 256 --without-plain"),
    ("C form, a tenth of 1 M", 2, "--classes 1000000 --sample-ratio 0.1 --touch-all"),
    ("C form, logits in chunks", 2, "--classes 200000 --logits-chunk 2048 --without-plain"),
    ("C form, float16 rows, int8 momentum", 2, "--classes 200000 --storage float16/int8 --without-plain"),
    ("NDArray form, all classes", 1, "--classes 100000 --kernels NDArray --batch-size 128 --without-plain"),
    ("NDArray form, all classes, 512", 1, "--classes 100000 --kernels NDArray --batch-size 512 --without-plain"),
    (
        "NDArray form, a tenth of 500,000",
        1,
        "--classes 500000 --sample-ratio 0.1 --kernels NDArray --batch-size 128 --without-plain --touch-all",
    ),
    (
        "S = 20,000 a rank of 1 M",
        2,
        "--classes 1000000 --sample-ratio 0.04 --storage float16/int8 --without-plain --touch-all",
    ),
    (
        "S = 20,000 a rank of 10 M",
        2,
        "--classes 10000000 --sample-ratio 0.004 --storage float16/int8 --without-plain --touch-all",
    ),
]
COLUMNS = ("head_ms", "gemm_ms", "head_over_gemm", "head_over_blas_gemm", "plain_over_head", "extra_mb", "logits_mb")


def measure(ranks: int, options: str, steps: int) -> dict[str, object]:
    """Runs ``head.py`` and returns its JSON object."""
    command = [sys.executable, str(HEAD), *options.split(), "--steps", str(steps), "--json"]
    environment = os.environ | {"OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1"}
    if ranks > 1:
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        command = ["mpirun", *root, "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *command]
    output = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return json.loads(output.stdout.splitlines()[-1])


def measured_here() -> dict[str, dict[str, str]]:
    """The rows of the file by case, as far as they were measured on this kind of machine, with these versions."""
    path = DIRECTORY / "head.csv"
    conditions = {name: str(value) for name, value in (machine() | versions()).items()}
    with path.open(newline="", encoding="utf-8") if path.exists() else io.StringIO() as file:
        return {row["case"]: row for row in csv.DictReader(file) if conditions.items() <= row.items()}


def main() -> int:
    """Measures every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=11, help="timed steps of each kind (%(default)s)")
    parser.add_argument("--only", default="", help="the cases whose name holds this text; the file keeps the others")
    arguments = parser.parse_args()
    print("| | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS), flush=True)
    rows = {}
    for name, ranks, options in CASES:
        if arguments.only not in name:
            continue
        figures = measure(ranks, options, arguments.steps)
        rows[name] = {"case": name} | {key: value for key, value in figures.items() if key != "collectives"}
        cells = ["" if figures[column] is None else f"{figures[column]:.4g}" for column in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    rows = measured_here() | rows
    print(f"\nwrote {write_results('head', [rows[name] for name, _, _ in CASES if name in rows])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
