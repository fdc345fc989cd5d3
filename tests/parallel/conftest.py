"""Starts real ranks: ``run_ranks(2, "program.py", launcher="gloo")``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent.parent

LAUNCHERS = {
    # More ranks than cores, bound to none, and in containers that keep one process from another's memory.
    "mpi": (
        "mpirun --allow-run-as-root --oversubscribe --bind-to none "
        "--mca btl_vader_single_copy_mechanism none --mca mpi_yield_when_idle 1 --tag-output -np {size}"
    ),
    "gloo": "horovodrun --gloo -np {size} -H localhost:{size}",
    "horovodrun": "horovodrun -np {size} -H localhost:{size}",
}

# Every process of a run carries the run's own value of this, its descendants too: that is how they are found.
_RUN_VARIABLE = "PARTIAL_FC_TEST_RUN"
_LEAVING_SECONDS = 10.0

# What another launcher left behind, and what would cut the ranks' lines into pieces that mix.
_NOT_HANDED_ON = ("OMPI_", "PMIX_", "HOROVOD_", "PYTHONUNBUFFERED")


@dataclass(frozen=True)
class RankRun:
    """How a run of several ranks ended.

    Attributes:
        status: the launcher's exit status; not 0 where a rank's is not.
        stdout, stderr: of all ranks together, each line behind the tag that the launcher gives it.
    """

    status: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"status {self.status}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


def run_ranks(
    size: int,
    *arguments: str | Path,
    launcher: str = "mpi",
    timeout_seconds: float = 280.0,
    environment: Mapping[str, str] | None = None,
) -> RankRun:
    """Runs ``python *arguments`` on ``size`` ranks; arguments are a file, or ``"-c"`` or ``"-m"``, and more.

    Args:
        launcher: "mpi" (mpirun), "gloo" (horovodrun) or "horovodrun" (with what it chooses itself).
        timeout_seconds: a run that takes longer is ended, and fails the test.
        environment: further variables.

    Raises:
        AssertionError: the run did not end in time, or left a process behind.
    """
    name = uuid.uuid4().hex
    variables = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_HANDED_ON)}
    variables |= {
        _RUN_VARIABLE: name,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    command = [*LAUNCHERS[launcher].format(size=size).split(), sys.executable, *map(str, arguments)]
    process = subprocess.Popen(
        command, env=variables, cwd=ROOT, start_new_session=True, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        stdout, stderr = process.communicate(timeout=timeout_seconds)
    except BaseException as error:
        _end(_processes_of(name))
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        run = RankRun(-signal.SIGKILL, *process.communicate())
        raise AssertionError(f"{' '.join(command)} took more than {timeout_seconds} s: {run}") from None
    run = RankRun(process.returncode, stdout, stderr)
    _, left_behind = psutil.wait_procs(_processes_of(name), timeout=_LEAVING_SECONDS)
    _end(left_behind)
    assert not left_behind, f"{' '.join(command)} left {left_behind} behind: {run}"
    return run


def _processes_of(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_RUN_VARIABLE) == name:
                found.append(process)
        except psutil.Error:  # it ended meanwhile, or belongs to somebody else
            continue
    return found


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=_LEAVING_SECONDS)


@pytest.fixture(scope="session", name="run_ranks")
def _run_ranks() -> Callable[..., RankRun]:
    return run_ranks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if TESTS in item.path.parents:
            item.add_marker("real_ranks")
