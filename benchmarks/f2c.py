"""F²C beside Partial FC: the same backbone, the same number of images seen, on synthetic faces and on LFW.

    python benchmarks/f2c.py [--faces DIR] [--lfw DIR] [--state DIR] [--only TEXT] [--part accuracy|speed|memory]

Each case is a run of ``python -m partial_fc.train`` of one rank and one thread, whose outcome goes to the state
directory: what is there already is not run again. *accuracy* trains to the end, *speed* takes some steps on a machine
that should have nothing else to do, *memory* starts two ranks on random images of ever more identities. Then
``benchmarks/results/f2c.csv``, ``f2c_memory.csv`` and ``docs/f2c.png`` are written from all that is there, and the
tables are printed as Markdown.

A step of F²C takes 3B images (B pairs and B instances), one of Partial FC as many from one loader: both take as many
updates.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from results import write_results

ROOT = Path(__file__).resolve().parents[1]
SPEED_UPDATES = 12
IDENTITIES = {"100w": 1_000_000, "1000w": 10_000_000, "10000w": 100_000_000}


@dataclass(frozen=True)
class DataSet:
    """Images to train on. ``batch`` is B of F²C."""

    name: str
    identities: int
    batch: int
    updates: int


DATA_SETS = [DataSet("synthetic", 10_000, 32, 400), DataSet("lfw", 4_038, 24, 300)]
HEADS = {
    "F²C, Q = 10 %": ["--head", "f2c", "--queue-size", "10%"],
    "F²C, Q = 1 %": ["--head", "f2c", "--queue-size", "1%"],
    "Partial FC, r = 1": ["--head", "partial_fc", "--sample-ratio", "1"],
    "Partial FC, r = 0.1": ["--head", "partial_fc", "--sample-ratio", "0.1"],
}


def arguments_of(data: DataSet, head: str, directory: Path, models: Path) -> list[str]:
    """The command line of a case, without its length."""
    is_f2c = head.startswith("F²C")
    steps = ",".join(str(round(share * data.updates)) for share in (0.67, 0.9))
    return [
        *("--rec", str(directory / "train.rec"), "--network", "toy", "--embedding-size", "128"),
        *("--batch-size", str(data.batch if is_f2c else 3 * data.batch), *HEADS[head], "--lr-steps", steps),
        *("--save-every-updates", "0", "--workers", "1", "--models-root", str(models)),
    ]


def train(arguments: list[str], ranks: int = 1) -> tuple[str, float, float]:
    """Runs a training; its output, and its seconds by the clock and of processors."""
    command = [sys.executable, "-m", "partial_fc.train", *arguments]
    if ranks > 1:
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        command = ["mpirun", *root, "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *command]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1", "PYTHONPATH": path}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    outcome = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if outcome.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {outcome.returncode}:\n{outcome.stderr[-2000:]}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return outcome.stdout, seconds, processor


def peak_memory(output: str) -> list[int]:
    """MiB of each rank, as the run itself says."""
    return [int(part) for part in re.search(r"peak memory of the ranks in MiB: ([\d, ]+)", output)[1].split(",")]


def accuracy_case(data: DataSet, head: str, directory: Path, state: Path) -> dict[str, object]:
    """Trains to the end and verifies."""
    arguments = arguments_of(data, head, directory, state / "models")
    arguments += ["--max-update", str(data.updates), "--val", str(directory / "val.bin"), "--verify-every-updates", "0"]
    output, seconds, processor = train(arguments)
    found = re.search(r"accuracy ([\d.]+) % ± ([\d.]+)", output)
    slots = re.search(r"in a pool of (\d+) slots", output)
    losses = re.findall(r"loss ([\d.]+)", output)
    return {
        "accuracy": float(found[1]),
        "accuracy_std": float(found[2]),
        "slots": int(slots[1]) if slots else None,
        "last_loss": float(losses[-1]),
        "updates": data.updates,
        "images_seen": 3 * data.batch * data.updates,
        "seconds_with_verification": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "peak_mib": peak_memory(output)[0],
    }


def speed_case(data: DataSet, head: str, directory: Path, state: Path) -> dict[str, object]:
    """Medians over steps, the first two left out: images/s of all 3B of a step, and with F²C of the B instances."""
    arguments = arguments_of(data, head, directory, state / "speed-models")
    output, _, _ = train(arguments + ["--max-update", str(SPEED_UPDATES), "--val", "--log-every-updates", "1"])
    rates = [float(rate) for rate in re.findall(r"([\d.]+) images/s", output)][2:]
    rate = float(np.median(rates))
    seconds = 3 * data.batch / rate
    return {
        "images_per_second_3b": rate,
        "images_per_second_b": rate / 3 if head.startswith("F²C") else None,
        "step_ms": 1e3 * seconds,
        "seconds_of_all_updates": round(seconds * data.updates, 1),
    }


def memory_case(dataset: str, slots: int, state: Path) -> dict[str, object]:
    """Two ranks on random images, a few steps: peak memory."""
    arguments = ["--dataset", dataset, "--head", "f2c", "--queue-size", str(slots), "--network", "toy"]
    arguments += ["--batch-size", "32", "--max-update", "10", "--save-every-updates", "0"]
    output, _, _ = train([*arguments, "--models-root", str(state / "memory-models")], ranks=2)
    return {
        "identities": IDENTITIES[dataset],
        "slots": slots,
        "ranks": 2,
        "embedding_size": 512,
        "pool_mib_a_rank": 2 * slots * 512 * 4 / 2 / 2**20,
        "peak_mib_rank0": peak_memory(output)[0],
        "peak_mib_rank1": peak_memory(output)[1],
    }


def once(state: Path, name: str, make: object) -> dict[str, object]:
    """The outcome of a case: from the state directory, or made now."""
    path = state / f"{name}.json"
    if not path.exists():
        print(f"{name} …", file=sys.stderr, flush=True)
        values = make()
        path.with_suffix(".part").write_text(json.dumps(values))
        path.with_suffix(".part").replace(path)
    return json.loads(path.read_text())


def write_plot(rows: list[dict[str, object]], path: Path) -> None:
    """Accuracy over images/s, a panel a data set."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    names = list(dict.fromkeys(row["data"] for row in rows))
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        for row in (row for row in rows if row["data"] == name):
            x, y, spread = row["images_per_second_3b"], row["accuracy"], row["accuracy_std"]
            shape = "o" if row["head"].startswith("F²C") else "s"
            axes.errorbar(x, y, yerr=spread, fmt=shape, capsize=3, alpha=0.8, label=row["head"])
        axes.set(title=f"{name}: {row['images_seen']} images seen", xlabel="images/s", ylabel="accuracy, %")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left", fontsize=8)
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> int:
    """Runs what is missing and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=Path, default=ROOT / "datasets" / "synthetic-10000", help="(%(default)s)")
    parser.add_argument("--lfw", type=Path, default=ROOT.parent / "shared" / "data" / "lfw", help="(%(default)s)")
    parser.add_argument("--state", type=Path, default=ROOT / "datasets" / "f2c-runs", help="outcomes (%(default)s)")
    parser.add_argument("--only", default="", help="the cases whose name holds this text")
    parser.add_argument("--part", choices=["accuracy", "speed", "memory"], help="this part alone")
    arguments = parser.parse_args()
    state = arguments.state
    state.mkdir(parents=True, exist_ok=True)
    if not (arguments.faces / "train.rec").exists():
        command = [sys.executable, "-m", "partial_fc.data.synthetic_faces", str(arguments.faces)]
        subprocess.run([*command, "--identities", "10000", "--images-per-identity", "8"], check=True)
    directories = {"synthetic": arguments.faces, "lfw": arguments.lfw}
    parts = [arguments.part] if arguments.part else ["accuracy", "speed", "memory"]
    for part in parts:
        for data in DATA_SETS if part != "memory" else []:
            for head in HEADS:
                name = f"{part} {data.name} {head}"
                if arguments.only in name:
                    make = accuracy_case if part == "accuracy" else speed_case
                    directory = directories[data.name]
                    once(state, name, lambda m=make, d=data, h=head, p=directory: m(d, h, p, state))
        for dataset in IDENTITIES if part == "memory" else []:
            if arguments.only in f"memory {dataset}":
                once(state, f"memory {dataset}", lambda d=dataset: memory_case(d, 100_000, state))
    report(state)
    return 0


def report(state: Path) -> None:
    """Writes the results that are complete."""
    rows = []
    for data in DATA_SETS:
        for head in HEADS:
            files = [state / f"{part} {data.name} {head}.json" for part in ("accuracy", "speed")]
            if all(file.exists() for file in files):
                values = [json.loads(file.read_text()) for file in files]
                rows.append({"data": data.name, "identities": data.identities, "head": head} | values[0] | values[1])
    memory = [json.loads((state / f"memory {dataset}.json").read_text())
              for dataset in IDENTITIES if (state / f"memory {dataset}.json").exists()]  # fmt: skip
    if len(rows) == len(DATA_SETS) * len(HEADS):
        print(f"wrote {write_results('f2c', rows)}")
        write_plot(rows, ROOT / "docs" / "f2c.png")
    if len(memory) == len(IDENTITIES):
        print(f"wrote {write_results('f2c_memory', memory)}")
    columns = ["data", "head", "slots", "accuracy", "accuracy_std", "seconds_of_all_updates", "images_per_second_3b"]
    print_table(rows, [*columns, "images_per_second_b", "peak_mib"])
    print_table(memory, ["identities", "slots", "pool_mib_a_rank", "peak_mib_rank0", "peak_mib_rank1"])


def print_table(rows: list[dict[str, object]], columns: list[str]) -> None:
    """Prints as Markdown."""
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        cells = ["" if row[column] is None else row[column] for column in columns]
        print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
