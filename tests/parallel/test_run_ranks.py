"""The launcher of the tests themselves: its answers, and that nothing outlives it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import psutil
import pytest

RANK = {"mpi": "OMPI_COMM_WORLD_RANK", "gloo": "HOROVOD_RANK"}


@pytest.mark.parametrize("launcher", RANK)
def test_status_and_output_are_those_of_the_ranks(run_ranks: Callable[..., Any], launcher: str) -> None:
    program = (
        f"import os, sys; rank = os.environ['{RANK[launcher]}'];"
        "print('out', rank, os.environ['OMP_NUM_THREADS'], os.environ['EXTRA'], *sys.argv[1:]);"
        "print('err', rank, file=sys.stderr); sys.exit(int(rank) * 3)"
    )
    run = run_ranks(2, "-c", program, "argument", launcher=launcher, environment={"EXTRA": "more"})
    assert run.status != 0
    assert "out 1 1 more argument" in run.stdout
    assert "err 1" in run.stderr


def test_a_run_that_hangs_is_ended_and_leaves_nothing(run_ranks: Callable[..., Any]) -> None:
    name = uuid.uuid4().hex
    program = f"import threading; print('{name}', flush=True); threading.Event().wait()"
    with pytest.raises(AssertionError, match=f"took more than 5 s(.|\n)*{name}"):
        run_ranks(2, "-c", program, timeout_seconds=5)
    assert [
        process for process in psutil.process_iter(["cmdline"]) if name in str(process.info["cmdline"])
    ] == []


def test_a_process_left_behind_fails_the_test(
    run_ranks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run_ranks.__globals__, "_LEAVING_SECONDS", 0.2)
    program = (
        "import sys; from subprocess import DEVNULL, Popen;"
        "Popen([sys.executable, '-c', 'import threading; threading.Event().wait()'],"
        "start_new_session=True, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)"
    )
    with pytest.raises(AssertionError, match="behind"):
        run_ranks(1, "-c", program)
