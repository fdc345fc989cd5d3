"""Runs of mpirun's ranks that are stopped and resumed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from partial_fc.params_file import read_params
from partial_fc.testing_run import write_tiny_faces

PROJECT = Path(__file__).resolve().parents[2]
PROGRAM = PROJECT / "tests" / "parallel" / "program_train.py"
CONFIG_SH = ("-c", "import os, sys; os.execvp('bash', ['bash', 'config.sh', *sys.argv[1:]])", "--")
PYTHON = {"PYTHON": sys.executable}
UPDATES = 6


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_faces(directory)
    return directory


def options_for(faces: Path, models: Path, *more: str) -> list[str]:
    return [
        *("--rec", str(faces / "train.rec"), "--models-root", str(models), "--network", "toy"),
        *("--image-size", "24", "--embedding-size", "16", "--batch-size", "8", "--max-update", str(UPDATES)),
        *("--lr", "0.01", "--log-every-updates", "1", "--resume", "auto", *more),
    ]


def losses_of(models: Path) -> list[tuple[int, float]]:
    (path,) = models.glob("*/log.jsonl")
    records = [json.loads(line) for line in path.open()]
    return [(record["update"], record["loss"]) for record in records if "loss" in record]


def test_two_ranks_resume_to_the_last_bit(run_ranks, faces: Path, tmp_path: Path) -> None:
    """The third of 4 updates an epoch is the last; a save lies beside training, too. All that goes on from update to
    update goes on: what unsampled centers have missed, and what the margin keeps."""
    for models, stops in (("whole", [UPDATES]), ("parts", [3, UPDATES])):
        for stop in stops:
            more = ("--sample-ratio", "0.5", "--save-every-updates", "2", "--stop-update", str(stop))
            more += ("--lazy-updates", "--loss", "adaface", "--sample-ratio-steps", "4:0.8")
            run = run_ranks(2, *CONFIG_SH, *options_for(faces, tmp_path / models, *more), environment=PYTHON)
            assert run.status == 0, run
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    found, expected = (next((tmp_path / d).glob(f"*/update-{UPDATES:08d}")) for d in ("parts", "whole"))
    names = {path.name for path in expected.glob("*.params")}
    assert {"centers-1-of-2.params", "backbone-1-of-2.params", "backbone-momentum.params"} <= names
    assert "centers-updates.params" in names
    for name in names:
        ours, theirs = read_params(found / name), read_params(expected / name)
        for array_name, array in theirs.items():
            np.testing.assert_array_equal(ours[array_name], array, err_msg=f"{name} {array_name}")


def test_three_ranks_go_on_with_what_two_have_saved(run_ranks, faces: Path, tmp_path: Path) -> None:
    """With BatchNorm in inference mode and the same global batch: 24 images on 2 ranks, and on 3."""
    losses = []
    for ranks, stop, models in ((2, 3, "a"), (3, 4, "a"), (2, 4, "b")):
        more = ("--batch-size", str(24 // ranks), "--stop-update", str(stop))
        run = run_ranks(ranks, PROGRAM, "frozen", *options_for(faces, tmp_path / models, *more))
        assert run.status == 0, run
        losses.append(losses_of(tmp_path / models))
    assert [update for update, _ in losses[1]] == [1, 2, 3, 4]
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-5)
