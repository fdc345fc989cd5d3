"""The benchmark of margins: that it runs, and what it writes down."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_it_measures_each_form_and_writes_it_down(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_"))}
    options = ("--classes", "500", "--embedding-size", "16", "--rounds", "2", "--results", str(tmp_path))
    command = [sys.executable, str(ROOT / "benchmarks" / "margins.py"), *options]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=280)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "margins.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["form"] for row in rows][:3] == ["CosFace", "ArcFace", "AdaFace"] and len(rows) == 7
    assert rows[0]["over_cosface"] == "1"
    for row in rows:
        assert float(row["cpu_ms"]) > 0 and f"| {row['form']} |" in done.stdout
