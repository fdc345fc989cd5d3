"""The benchmark of embedding a set measures every way."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import pytest

from partial_fc.testing_models import projection, write_projection

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("embed", "results"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("embed")


def test_every_way_is_beside_the_floor(benchmark, monkeypatch, tmp_path, capsys):
    write_projection(tmp_path / "model", projection(112, 5))
    words = [tmp_path / "model", "--images", 11, "--rounds", 1, "--batch-size", 4, "--results", tmp_path]
    monkeypatch.setattr(sys, "argv", ["embed.py", *map(str, words)])
    assert benchmark.main() == 0
    ways = ["forward", "embedder", "rec", "folder"]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:4]] == ways
    with (tmp_path / "embed.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["way"] for row in rows] == ways
    assert all(float(row["processor_ms_an_image_p50"]) > 0 for row in rows)
