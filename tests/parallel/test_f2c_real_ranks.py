"""F²C by the training command, as ranks of mpirun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from partial_fc.collectives import run_thread_ranks
from partial_fc.config import parse_arguments
from partial_fc.params_file import read_params
from partial_fc.testing_run import write_tiny_faces
from partial_fc.train import train

CONFIG_SH = ("-c", "import os, sys; os.execvp('bash', ['bash', 'config.sh', *sys.argv[1:]])", "--")


def losses_of(models: Path) -> list[float]:
    (path,) = models.glob("*/log.jsonl")
    return [record["loss"] for record in map(json.loads, path.open()) if "loss" in record]


@pytest.mark.real_ranks
def test_config_sh_trains_with_f2c_as_two_threads_do(run_ranks, tmp_path: Path) -> None:
    write_tiny_faces(tmp_path, identities=31, images_per_identity=2)
    options = [
        *("--rec", str(tmp_path / "train.rec"), "--network", "toy", "--head", "f2c", "--queue-size", "14"),
        *("--image-size", "24", "--embedding-size", "16", "--batch-size", "4", "--max-update", "4", "--lr", "0.001"),
        *("--loss", "sv", "--log-every-updates", "1"),
    ]
    config = parse_arguments([*options, "--models-root", str(tmp_path / "threads")], "toy")
    run_thread_ranks(2, lambda collectives: train(config, collectives))
    run = run_ranks(
        2, *CONFIG_SH, *options, "--models-root", tmp_path / "ranks", environment={"PYTHON": sys.executable}
    )
    assert run.status == 0, run
    assert "31, in a pool of 14 slots" in run.stdout
    np.testing.assert_allclose(losses_of(tmp_path / "ranks"), losses_of(tmp_path / "threads"), rtol=1e-5)
    ours, theirs = (
        read_params(next((tmp_path / name).glob("*/update-*")) / "pool-lru.params") for name in ("ranks", "threads")
    )
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
