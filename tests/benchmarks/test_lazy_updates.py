"""The benchmark of lazy updates: that it runs, and what it writes down."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_"))}
    command = [sys.executable, str(ROOT / "benchmarks" / "lazy_updates.py"), *arguments]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=120)


def test_it_measures_each_kind_of_work_and_writes_it_down(tmp_path):
    done = run("--classes", "3000", "--embedding-size", "16", "--steps", "2", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "lazy_updates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and rows[0]["work"] == "step, unsampled rows stay" and rows[0]["over_step"] == "1"
    for row in rows:
        assert 0 < float(row["cpu_ms_p10"]) <= float(row["cpu_ms_p50"]) <= float(row["cpu_ms_p90"])
        assert row["work"] in done.stdout


def test_centers_that_do_not_fit_are_refused(tmp_path):
    done = run("--classes", "1000000000000", "--results", str(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith("error: 2000000000000 class centers")
    assert len(done.stderr.splitlines()) == 1 and not any(tmp_path.iterdir())
