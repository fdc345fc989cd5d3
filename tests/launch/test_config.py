"""`config.sh`: the environment of one rank, and the command that it becomes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def rank(tree):
    """A tree whose `python3` records what it is called with."""
    tree.add_recorder("python3")
    return tree


def test_becomes_the_training_command_with_arguments_unchanged(rank):
    arguments = ["--rec", "my faces/train.rec", "", "$HOME", "*", "it's", 'a "b"', "\\", "--", "é\n"]
    assert rank.run("config.sh", *arguments).returncode == 0
    assert rank.arguments("python3") == ["-m", "partial_fc.train", *arguments]


def test_without_arguments(rank):
    rank.run("config.sh")
    assert rank.arguments("python3") == ["-m", "partial_fc.train"]


def test_stays_in_the_directory_it_is_started_in(rank, tmp_path):
    rank.run("config.sh", directory=tmp_path)
    assert (rank.records / "python3.directory").read_text().strip() == str(tmp_path)


def test_root_comes_first_on_the_python_path(rank):
    rank.run("config.sh", PYTHONPATH="/mine")
    assert rank.variables_of("python3")["PYTHONPATH"] == f"{rank.root}:{rank.root}/src:/mine"


def test_no_empty_entry_on_the_python_path(rank):
    rank.run("config.sh")
    assert rank.variables_of("python3")["PYTHONPATH"] == f"{rank.root}:{rank.root}/src"


def test_takes_the_environment_of_the_project(rank):
    rank.add_recorder("venv").rename(rank.add_tool("python", "", rank.root / ".venv/bin"))
    rank.run("config.sh")
    assert rank.was_called("venv") and not rank.was_called("python3")


def test_python_overrides_the_environment_of_the_project(rank):
    rank.add_recorder("mine")
    rank.add_tool("python", "#!/usr/bin/env bash\nexit 1\n", rank.root / ".venv/bin")
    assert rank.run("config.sh", PYTHON="mine").returncode == 0
    assert rank.was_called("mine")


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, "12"),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "5"}, "2"),
        ({"HOROVOD_LOCAL_SIZE": "3"}, "4"),
        ({"HOROVOD_LOCAL_SIZE": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "4"),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "13"}, "1"),
    ],
)
def test_threads_are_this_ranks_share_of_the_cores(rank, variables, threads):
    rank.run("config.sh", **variables)
    made = rank.variables_of("python3")
    assert [made[f"{name}_NUM_THREADS"] for name in ("OMP", "OPENBLAS", "MKL")] == [threads] * 3


def test_what_the_user_has_set_stays(rank):
    own = {
        "OMP_NUM_THREADS": "7",
        "OPENBLAS_NUM_THREADS": "5",
        "MKL_NUM_THREADS": "3",
        "OMPI_MCA_mpi_yield_when_idle": "0",
    }
    rank.run("config.sh", OMPI_COMM_WORLD_LOCAL_SIZE="4", **own)
    made = rank.variables_of("python3")
    assert {name: made[name] for name in own} == own


def test_threads_of_blas_follow_the_users_omp_num_threads(rank):
    rank.run("config.sh", OMP_NUM_THREADS="7")
    assert rank.variables_of("python3")["OPENBLAS_NUM_THREADS"] == "7"


def test_waiting_ranks_yield_their_core(rank):
    rank.run("config.sh")
    assert rank.variables_of("python3")["OMPI_MCA_mpi_yield_when_idle"] == "1"


def test_exit_status_is_that_of_the_command(rank):
    rank.add_recorder("python3", status=9)
    assert rank.run("config.sh").returncode == 9


@pytest.mark.parametrize("backend", ["--mpi", "--gloo"])
def test_horovodrun_starts_it_on_every_rank(tree, tmp_path, backend):
    """`horovodrun -np 2 -H localhost:2 bash config.sh …`, from another directory, by either backend."""
    program = tree.add_tool(
        "rank",
        "#!/usr/bin/env bash\n"
        'rank="${HOROVOD_RANK:-$OMPI_COMM_WORLD_RANK}"\n'
        'printf "%s\\n" "$OMP_NUM_THREADS" "$@" >"$RECORDS/rank$rank"\n',
    )
    horovodrun = Path(sys.executable).parent / "horovodrun"
    variables = {"PYTHON": str(program), "RECORDS": str(tree.records)}
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | variables
    done = subprocess.run(
        [str(horovodrun), backend, "-np", "2", "-H", "localhost:2", "bash", str(tree.root / "config.sh")]
        + ["--rec", "my faces.rec"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    for rank in ("rank0", "rank1"):
        words = (tree.records / rank).read_text().splitlines()
        assert words == [threads, "-m", "partial_fc.train", "--rec", "my faces.rec"]
