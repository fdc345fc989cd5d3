"""The throughput benchmark: its rows, its tables, and that it runs."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import throughput  # noqa: E402

from partial_fc import paper  # noqa: E402


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_"))}
    command = [sys.executable, str(ROOT / "benchmarks" / "throughput.py"), *arguments]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=120)


def test_it_measures_all_three_methods_and_writes_them_down(tmp_path):
    small = ["--batch-size", "4", "--embedding-size", "64", "--steps", "2"]
    done = run("--identities", "3000", "5000", *small, "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "throughput.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["identities"]) for row in rows] == [
        (method, identities)
        for identities in ("3000", "5000")
        for method in ("Model Parallel", "Partial FC", "Model Parallel, in chunks")
    ]
    for row in rows:
        assert 0 < float(row["step_ms_p10"]) <= float(row["step_ms_p50"]) <= float(row["step_ms_p90"])
        assert float(row["images_per_second"]) == pytest.approx(4000 / float(row["step_ms_p50"]), rel=1e-3)
        assert float(row["memory_mb"]) > 50
    for row in paper.ROWS:
        line = next(line for line in done.stdout.splitlines() if str(row.images_per_second) in line.split())
        assert str(row.memory_mb) in line.split() and str(row.batch_size) in line.split()
    assert "3,000 identities" in done.stdout and "batches differ" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1, but is 0"),
        (["--sample-ratio", "2"], "--sample-ratio must lie in (0, 1], but is 2.0"),
        (["--network", "r51"], "unknown network 'r51'"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:
        throughput.parse(arguments)
    assert message in str(error.value)


def test_an_impossible_problem_is_one_sentence():
    done = run("--identities", "0")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: a classification layer needs at least 1 identity, but got 0"


def test_the_papers_tables_are_chosen_by_the_number_of_gpus():
    given = throughput.parse(["--paper"])
    assert (given.network, given.fp16) == ("r50", True)
    (table,) = throughput.chosen_tables(given, ranks=64, gpus=8)
    assert [(one.identities, one.sample_ratio, one.batch_size) for one in table] == [
        (10_000_000, 1.0, 32),
        (10_000_000, 0.1, 64),
        (10_000_000, 1.0, 32),
    ]
    with pytest.raises(ValueError, match="tables are of 8 and 64 GPUs, but this run has 4 ranks"):
        throughput.chosen_tables(given, ranks=4, gpus=4)
    with pytest.raises(ValueError, match="this machine has none"):
        throughput.chosen_tables(given, ranks=8, gpus=0)
