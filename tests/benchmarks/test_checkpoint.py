"""The benchmark of checkpoints measures what it says: run small."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from partial_fc.checkpoint import find_updates
from partial_fc.collectives import SingleProcess

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    spec = importlib.util.spec_from_file_location("benchmark_of_checkpoints", BENCHMARKS / "checkpoint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_of_numbers(benchmark: ModuleType, tmp_path: Path) -> None:
    options = argparse.Namespace(
        identities=3001, sample_ratio=0.5, embedding_size=8, batch_size=4, network="toy", image_size=24,
        storage="device:float32/float32", memory_mib=1, rounds=2, steps=2,
    )  # fmt: skip
    row = benchmark.measure(options, SingleProcess(), tmp_path)
    assert row["starting_over_normal"] == pytest.approx(row["starting_ms_p50"] / row["normal_ms_p50"], rel=1e-6)
    assert row["save_s"] > 0
    (update,) = find_updates(tmp_path).values()
    size = sum(path.stat().st_size for path in update.iterdir())
    assert row["save_mib"] == size / 2**20
