"""The benchmark of the training images measures what it says; how fast that is no test asks."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("data", "data_open", "results"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("data")


def test_every_way_is_measured_in_one_run(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["data.py", "--json", "--rounds", "1", "--images", "128", "--batch-size", "32"]
    )
    faces = {"identities": 8, "images_per_identity": 16, "held_out_identities": 20, "pairs": 20}
    monkeypatch.setattr(benchmark, "FACES", faces)
    assert benchmark.main() == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"decode_only", "rec_1", "rec_2", "lmdb_2", "folder_2", "plain"} <= set(found)
    assert all(found[way] > 0 for way in benchmark.WAYS)
    assert found["images"] == 128
    assert found["two_workers_over_one"] == pytest.approx(found["rec_2"] / found["rec_1"])


def test_opening_takes_little_memory_a_record(benchmark, tmp_path):
    """What 17 million may take, in proportion, on top of the interpreter, its libraries and a piece of the index."""
    small = benchmark.measure_opening(700_000, tmp_path / "small")
    large = benchmark.measure_opening(1_500_000, tmp_path / "large")
    for name in ("rec", "lmdb"):
        bytes_a_record = (large[f"{name}_mebibytes"] - small[f"{name}_mebibytes"]) * 2**20 / 800_000
        assert bytes_a_record < (600 - small[f"{name}_mebibytes"]) * 2**20 / 17e6
        assert large[f"{name}_open_processor_seconds"] < 10 * 1.5e6 / 17e6
