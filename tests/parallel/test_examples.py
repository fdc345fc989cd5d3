"""The examples train, on one rank and on two, and learn the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "gluon_partial_fc.py"
STEPS = 21


def losses_of(output: str) -> np.ndarray:
    return np.array([float(loss) for loss in re.findall(r"step \d+: loss (\S+)", output)])


@pytest.mark.parametrize(("head", "launchers"), [("partial_fc", ("mpi", "gloo")), ("f2c", ("mpi",))])
def test_a_gluon_network_trains_alike_on_one_rank_and_on_two(
    head: str, launchers: tuple[str, ...], run_ranks: Callable[..., Any]
) -> None:
    options = ("--head", head, "--steps", str(STEPS))
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    alone = subprocess.run(
        [sys.executable, EXAMPLE, *options], env=environment, capture_output=True, text=True, timeout=120
    )
    assert alone.returncode == 0, alone.stderr
    expected = losses_of(alone.stdout)
    assert len(expected) == 3 and expected[-1] < 0.6 * expected[0], alone.stdout
    for launcher in launchers:
        run = run_ranks(2, EXAMPLE, *options, launcher=launcher)
        assert run.status == 0 and "Traceback" not in run.stderr, run
        np.testing.assert_allclose(losses_of(run.stdout), expected, rtol=1e-5)
