"""The state of a head alone, for a training loop that is not this project's: saved by all ranks, read by any number.

A checkpoint is one of :mod:`partial_fc.checkpoint` without a network: ``DIRECTORY/update-00000120`` holds the class
centers with their momentum, or F²C's pool, and the number of updates. ``python -m partial_fc.checkpoint`` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partial_fc.checkpoint.directory import RunMark, read_mark
from partial_fc.checkpoint.find import AUTO, find_checkpoint
from partial_fc.checkpoint.manifest import MANIFEST
from partial_fc.checkpoint.run_parts import CentersPart
from partial_fc.checkpoint.saver import Checkpointer
from partial_fc.checkpoint.state import Part, PartState, SavedPart
from partial_fc.collectives import together
from partial_fc.f2c_parts import PoolPart
from partial_fc.head.f2c import F2C
from partial_fc.head.partial_fc import PartialFC

Head = PartialFC | F2C

_RUN = "head"  # the directory holds heads, and no run of this project's own training


def save_head(head: Head, directory: str | Path, *, keep: int = 0) -> Path:
    """Saves a head's state after its last step; every rank calls it.

    Args:
        directory: of one head's checkpoints, each in a directory of its own in it. What was there under the same
            number of updates gives way when the new one is whole.
        keep: how many checkpoints stay, the newest; 0: all.

    Returns:
        The checkpoint's directory.

    Raises:
        RankError: on every rank, when one of them cannot write, or the directory is another run's.
        ValueError: ``keep`` is negative.
    """
    if keep < 0:
        raise ValueError(f"keep is how many checkpoints stay, 0 for all, but is {keep}")
    head.forget()
    directory = Path(directory)
    with together(head.collectives, "head.directory"):
        mark = read_mark(directory)
        if mark is not None and mark.run != _RUN:
            raise ValueError(f"{directory} belongs to a training run: save the head in a directory of its own")
    saver = Checkpointer(
        directory, _parts(head), lambda: _description(head), head.collectives, RunMark(_RUN), keep=keep
    )
    saver.begin(head.update)
    saver.finish()
    assert saver.newest is not None
    return saver.newest


def load_head(head: Head, directory: str | Path) -> Path:
    """Gives a head the state that :func:`save_head` has saved, by as many ranks or others; every rank calls it.

    Args:
        head: of the same classes or slots, embedding size and seed. Learning rate and margin are as it was made.
        directory: that of a checkpoint, or of several, of which the newest one that is whole is taken.

    Returns:
        The checkpoint's directory.

    Raises:
        RankError: on every rank, when there is none, it is damaged, or it is of another head; the head is as it was,
            but for a checkpoint that is damaged in a way that its checksums do not show.
    """
    head.forget()
    directory = Path(directory)
    request = str(directory) if (directory / MANIFEST).exists() else AUTO
    checkpoint = find_checkpoint(request, directory, head.collectives)
    with together(head.collectives, "head.restore"):
        if checkpoint is None:
            raise ValueError(f"there is no checkpoint of a head in {directory}: save_head() makes one")
        parts = [(part, checkpoint.part(name)) for name, part in _parts(head).items()]
        _check_seed(head, checkpoint.part("head"))
        for part, saved in parts:
            part.restore(saved)
    return checkpoint.directory


@dataclass
class _HeadPart:
    """The number of updates, which decides the negatives, and the seed, which decides the rows never touched."""

    head: Head

    def state(self) -> PartState:
        return PartState({"update": self.head.update, "seed": self.head.seed})

    def restore(self, saved: SavedPart) -> None:
        self.head.update = int(saved.values["update"])


def _check_seed(head: Head, saved: SavedPart) -> None:
    seed = saved.values["seed"]
    if seed != head.seed:
        raise ValueError(f"the saved head has seed = {seed} and this one {head.seed}: make it with seed={seed}")


def _parts(head: Head) -> dict[str, Part]:
    if isinstance(head, F2C):
        return {"pool": PoolPart(head.pool), "head": _HeadPart(head)}
    return {"centers": CentersPart(head.centers, head.partition.num_classes, head.margin), "head": _HeadPart(head)}


def _description(head: Head) -> dict[str, Any]:
    """What the tools of checkpoints ask for: the seed gives the rows that were never touched."""
    if isinstance(head, F2C):
        return {"embedding_size": head.pool.embedding_size, "config": {"seed": head.seed}}
    sizes = {"num_classes": head.partition.num_classes, "embedding_size": head.centers.embedding_size}
    return sizes | {"config": {"seed": head.seed}}
