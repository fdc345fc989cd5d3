from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partial_fc.collectives import SingleProcess
from partial_fc.horovod_collectives import connect, launched

PROGRAM = Path(__file__).parent / "program_collectives.py"

DTYPES = ("float32", "float64", "float16", "int32", "int64")


def numbers(rank: int, step: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([rank, step]).integers(-50, 50, size=shape)


@pytest.fixture(scope="module", params=[("mpi", 3), ("gloo", 2)], ids=lambda p: f"{p[1]} ranks by {p[0]}")
def results(
    request: pytest.FixtureRequest, run_ranks: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What every rank of one launch got from its collectives, in rank order."""
    launcher, size = request.param
    directory = tmp_path_factory.mktemp(f"{launcher}-{size}")
    run = run_ranks(size, PROGRAM, "results", directory, launcher=launcher)
    assert run.status != 0, run  # each rank ends with status 2, after an error that one of them told to all
    results = [pickle.loads((directory / f"rank-{rank}.pickle").read_bytes()) for rank in range(size)]
    for result in results:
        result["launcher"] = launcher
    return results


def test_ranks_know_who_they_are(results: list[dict[str, Any]]) -> None:
    size = len(results)
    assert [result["ranks"] for result in results] == [(rank, size, rank, size) for rank in range(size)]


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors(results: list[dict[str, Any]], dtype: str, step: int) -> None:
    ranks = range(len(results))
    parts = [numbers(rank, step, 5, 2) for rank in ranks]
    scattered = sum(numbers(rank, step, 3 * len(ranks), 2) for rank in ranks)
    for rank in ranks:
        expected = {
            "all_gather": np.concatenate([numbers(other, step, 4, 3) for other in ranks]),
            "sum": sum(parts),
            "max": np.max(parts, axis=0),
            "broadcast": parts[0],
            "reduce_scatter": scattered[3 * rank : 3 * rank + 3],
        }
        actual = results[rank]["tensors"][dtype, step]
        assert actual.keys() == expected.keys()
        for kind in expected:
            assert actual[kind].dtype == np.dtype(dtype), kind
            np.testing.assert_array_equal(actual[kind], expected[kind], err_msg=kind)


def test_objects(results: list[dict[str, Any]]) -> None:
    for result in results:
        for gathered in result["objects"]:
            assert [value["rank"] for value in gathered] == list(range(len(results)))
            assert all(value["name"] == "é" and value["array"].sum() == 19_999_900_000 for value in gathered)


def test_mpi4py_carries_objects_where_mpi_started_the_ranks(results: list[dict[str, Any]]) -> None:
    assert [result["by mpi4py"] for result in results] == [results[0]["launcher"] == "mpi"] * len(results)


def test_an_error_of_one_rank_is_raised_on_all(results: list[dict[str, Any]]) -> None:
    last = len(results) - 1
    assert [result["error"] for result in results] == [f"rank {last}: there is no file faces.rec"] * len(
        results
    )


@pytest.mark.parametrize(("launcher", "size"), [("mpi", 3), ("gloo", 2)])
def test_abort_ends_the_run_while_others_wait(
    run_ranks: Callable[..., Any], tmp_path: Path, launcher: str, size: int
) -> None:
    run = run_ranks(size, PROGRAM, "abort", tmp_path, launcher=launcher)
    assert run.status != 0, run
    assert list(tmp_path.iterdir()) == [], "a rank went on"


def test_a_process_that_no_launcher_started_is_a_world_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert not launched()
    assert isinstance(connect(), SingleProcess)
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert launched()
