"""Measurements as CSV files in ``benchmarks/results/``, each row with the machine and the versions it was made on."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import mxnet as mx
import numpy as np

DIRECTORY = Path(__file__).resolve().parent / "results"


def quantiles(name: str, values: Sequence[float]) -> dict[str, float]:
    """The 10, 50 and 90 % quantiles of measured values, as columns ``<name>_p10`` and so on."""
    return {f"{name}_p{percent}": float(np.percentile(values, percent)) for percent in (10, 50, 90)}


def write_results(name: str, rows: Sequence[Mapping[str, object]], directory: Path = DIRECTORY) -> Path:
    """Writes ``<directory>/<name>.csv``, in place of what was there; the machine and the versions go to every row.

    Args:
        name: of the benchmark.
        rows: measurements; a column that a row does not have stays empty there.
    """
    conditions = {**machine(), **versions()}
    columns = list(dict.fromkeys(column for row in rows for column in row)) + list(conditions)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.csv"
    unfinished = path.with_suffix(".csv.unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({column: _as_text(value) for column, value in {**row, **conditions}.items()})
    unfinished.replace(path)
    return path


def machine() -> dict[str, object]:
    """This machine: its processor, cores, memory and GPUs, and the threads that a rank gets."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": mx.context.num_gpus(),
        "threads_a_rank": os.environ.get("OMP_NUM_THREADS", ""),
    }


def versions() -> dict[str, str]:
    """The versions that a measurement depends on; empty for what is not installed."""
    return {"python": platform.python_version()} | {
        package: _version(package) for package in ("mxnet", "horovod", "numpy")
    }


def _version(package: str) -> str:
    if package == "mxnet":  # its distribution has another name on every kind of machine
        return mx.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    """What ``/proc/cpuinfo`` calls the processor; its family and model too, for virtual machines hide its name."""
    fields = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    numbers = " ".join(f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields)
    return f"{fields.get('model name', platform.machine())} ({numbers})" if numbers else platform.machine()


def _as_text(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
