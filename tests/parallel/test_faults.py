"""Faults of one rank of two, made to happen: what the other says, and with which status the run ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from partial_fc import exit_status
from partial_fc.testing_run import write_tiny_faces

PROGRAM = Path(__file__).parent / "program_faults.py"


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_faces(directory)
    return directory / "train.rec"


@pytest.fixture
def run_with(run_ranks, faces: Path, tmp_path: Path):
    def run(fault: str, *options: str, launcher: str = "mpi"):
        return run_ranks(
            2, PROGRAM, fault, "--", "--rec", faces, "--models-root", tmp_path, "--network", "toy",
            *("--image-size", "24", "--embedding-size", "16", "--batch-size", "8", "--max-update", "5"),
            *("--lr", "0.0001", "--log-every-updates", "1", *options),
            launcher=launcher,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_a_rank_that_is_killed_is_named(run_with, launcher: str) -> None:
    run = run_with("kill", launcher=launcher)
    assert run.status != 0, run
    assert re.search(r"error: rank 1 \(.*, process \d+\) is gone; it was last seen at: ", run.stderr), run


def test_a_rank_that_does_not_come_is_named(run_with) -> None:
    run = run_with("hang", "--stall-timeout-seconds", "20")
    assert run.status == exit_status.STALLED, run
    (message,) = re.findall("error: (.*)", run.stderr)
    assert "rank 0 has waited for more than 20 s in 'trainer.labels' (update 3" in message
    assert "these did not come: rank 1 (" in message
    assert "last seen at: update 3, data" in message


def test_a_rank_without_memory_says_so_before_all_end(run_with) -> None:
    run = run_with("allocation")
    assert run.status == exit_status.MISTAKE, run
    assert re.search(r"error: rank 1 ends the run: out of memory \(.*\): set a smaller --batch-size", run.stderr), run


def test_sigterm_to_one_rank_saves_a_checkpoint_and_ends_all(run_with, tmp_path: Path) -> None:
    run = run_with("term")
    assert run.status == exit_status.STOPPED, run
    assert [path.name for path in tmp_path.glob("*/update-*")] == ["update-00000003"], run
    assert "update 4/5" not in run.stdout


def test_numbers_that_stay_wrong_end_all_and_name_the_last_good_checkpoint(run_with, tmp_path: Path) -> None:
    run = run_with("nans", "--max-skipped-updates", "1", "--save-every-updates", "2")
    assert run.status == exit_status.NUMBERS_WENT_WRONG, run
    (message,) = re.findall("error: (.*)", run.stderr)
    assert message.startswith("2 updates in a row were skipped"), run
    assert re.search("the last good checkpoint is .*/update-00000002;", message), run
