"""The evaluation benchmark runs, and its numbers belong together."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("ijbc_1_1", "ijbc_1_n", "megaface", "all_pairs")


def test_every_protocol_is_beside_its_floor(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_"))}
    command = [sys.executable, str(ROOT / "benchmarks" / "evaluation.py"), "--json", "--scale", "0.02", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], env=environment, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    for name in NAMES:
        assert numbers[f"{name}_over_gemm"] == pytest.approx(numbers[f"{name}_s"] / numbers[f"{name}_gemm_s"])
    assert numbers["megaface_scores"] == 70 * 400 and numbers["all_pairs_scores"] == 400 * 399 // 2
    assert numbers["megaface_per_million_s"] == pytest.approx(numbers["megaface_s"] * 2500)
    with (tmp_path / "evaluation.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == list(NAMES)
