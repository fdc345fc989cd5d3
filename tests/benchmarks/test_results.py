"""The CSV files of measurements."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from results import quantiles, write_results  # noqa: E402


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_row_has_its_values_the_machine_and_the_versions(tmp_path):
    path = write_results("speed", [{"method": "a, b", "ms": 1 / 3}, {"method": "c", "ranks": 2}], tmp_path / "new")
    assert path == tmp_path / "new" / "speed.csv"
    first, second = read(path)
    assert (first["method"], first["ms"], first["ranks"]) == ("a, b", "0.333333", "")
    assert (second["method"], second["ms"], second["ranks"]) == ("c", "", "2")
    for row in (first, second):
        assert row["mxnet"] == mx.__version__ and row["numpy"] == np.__version__
        assert int(row["cores"]) >= 1 and float(row["memory_gib"]) > 0 and row["cpu"]
        assert {"python", "horovod", "gpus", "threads_a_rank"} <= row.keys()


def test_a_second_run_replaces_the_first(tmp_path):
    for value in (1, 2):
        write_results("speed", [{"value": value}], tmp_path)
    assert [row["value"] for row in read(tmp_path / "speed.csv")] == ["2"]
    assert [path.name for path in tmp_path.iterdir()] == ["speed.csv"]


def test_quantiles():
    assert quantiles("ms", range(101)) == pytest.approx({"ms_p10": 10, "ms_p50": 50, "ms_p90": 90})
