"""Slow work on a thread of its own, and ranks that wait for one another's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import mxnet as mx

from partial_fc.collectives import Collectives, RankError

_NICENESS = 10  # Linux has it by thread: training's threads come first
_ASK_SECONDS = 5.0


class Task:
    """A function on a thread that the process does not wait for when it ends."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Returns when it is done, or after some seconds: whoever waits for others tells them that it is alive."""
        self._thread.join(_ASK_SECONDS)

    def error(self, *expected: type[Exception]) -> str | None:
        """What went wrong with the disk, or what else is expected; anything else is raised, for nobody foresaw it."""
        if self._error is None:
            return None
        if isinstance(self._error, (OSError, mx.MXNetError, *expected)):
            return str(self._error).strip().splitlines()[-1]
        raise self._error

    def _run(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
            self._function()
        except BaseException as error:  # it is raised again, in the thread that asks
            self._error = error


def slowly_together(function: Callable[[], None], collectives: Collectives, what: str) -> None:
    """Like :func:`partial_fc.collectives.together`, for what may take long: no rank seems to be gone meanwhile.

    Raises:
        RankError: on every rank, where it fails on one.
    """
    task = Task(function)
    while True:
        task.wait()
        answer = (task.done, task.error(ValueError) if task.done else None)
        answers = collectives.gather_objects(answer, what)
        errors = {rank: error for rank, (_, error) in enumerate(answers) if error is not None}
        if all(done for done, _ in answers):
            break
    if errors:
        rank, error = next(iter(errors.items()))
        of_all = len(errors) == len(answers) and len(set(errors.values())) == 1
        raise RankError(error if of_all else f"rank {rank}: {error}")
