"""Kills a process that trains and saves after each update, at random moments: program_kill_saves.py DIRECTORY KILLS

After each kill another process must find a complete checkpoint, never older than the newest that had its name. Each
is a fork of this one, which has imported everything and computed nothing.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path

from partial_fc.checkpoint import Checkpointer, RunMark, find_checkpoint, run_parts
from partial_fc.checkpoint.directory import find_updates
from partial_fc.collectives import SingleProcess
from partial_fc.testing_run import make_trainer, tiny_network

CLASSES = 2_000


def train(directory: Path, run: str, begun: int) -> None:
    """Goes on from the newest checkpoint, and saves after each update for ever; says when the first save begins."""
    trainer = make_trainer(SingleProcess(), classes=CLASSES)
    parts = run_parts(trainer, deployed_network=tiny_network(), num_classes=CLASSES, rank=0)
    trainer.update = max(find_updates(directory), default=0)
    checkpoints = Checkpointer(directory, parts, dict, SingleProcess(), RunMark(run), keep=3)
    os.write(begun, b"x")
    while True:
        trainer.step()
        checkpoints.begin(trainer.update)
        checkpoints.finish()


def verify(directory: Path, newest: int) -> None:
    checkpoint = find_checkpoint("auto", directory, SingleProcess())
    assert checkpoint is not None or newest == 0, "no checkpoint was found"
    assert checkpoint is None or checkpoint.manifest.update >= newest, "the newest one was not taken"


def in_a_fork(function, *arguments: object) -> int:
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
        except BaseException as error:  # whatever it is, the parent's code is not this process's
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def main(name: str, kills: str) -> int:
    directory, rng, pause = Path(name), random.Random(0), threading.Event()
    interrupted = 0
    for _ in range(int(kills)):
        ready, begun = os.pipe()
        child = in_a_fork(train, directory, "run", begun)
        os.close(begun)
        os.read(ready, 1)
        os.close(ready)
        pause.wait(rng.uniform(0.05, 0.4))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the run ended by itself"
        interrupted += any(path.name.endswith((".partial", ".replaced")) for path in directory.iterdir())
        newest = max(find_updates(directory), default=0)
        _, status = os.waitpid(in_a_fork(verify, directory, newest), 0)
        assert status == 0, "the newest checkpoint does not load"
    assert find_updates(directory), "no save was ever finished"
    print(f"{kills} kills, {interrupted} in the middle of a save; the newest update is {max(find_updates(directory))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
