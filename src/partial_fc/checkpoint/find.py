"""Which checkpoint a run goes on with: the same on all ranks, verified."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from partial_fc.checkpoint.directory import clean, find_updates, read_mark
from partial_fc.checkpoint.reader import SavedCheckpoint
from partial_fc.checkpoint.task import slowly_together
from partial_fc.collectives import Collectives, RankError, together

logger = logging.getLogger("partial_fc")

AUTO = "auto"


def find_checkpoint(request: str, directory: Path, collectives: Collectives) -> SavedCheckpoint | None:
    """Finds and verifies the checkpoint to resume; every rank calls it.

    Args:
        request: ``auto``, the newest checkpoint of the run in ``directory`` whose files are whole and match their
            checksums, or else the one that this run began with; or a checkpoint's own directory.
        directory: the run's; ranks of one machine share it, those of others may have their own.

    Returns:
        The checkpoint, or None where ``auto`` finds none at all.

    Raises:
        RankError: on every rank: the checkpoint that was named is damaged, or all that ``auto`` found are.
    """
    with together(collectives, "resume.clean"):
        if collectives.local_rank == 0:
            clean(directory)
    if request != AUTO:
        return open_checkpoint(Path(request), collectives)
    candidates = _candidates(directory, collectives)
    for number, candidate in enumerate(candidates):
        try:
            return open_checkpoint(candidate, collectives)
        except RankError as error:
            if number == len(candidates) - 1:
                raise
            if collectives.rank == 0:
                logger.warning("%s: the checkpoint before it is tried", error)
    return None


def _candidates(directory: Path, collectives: Collectives) -> list[Path]:
    """Newest first; those of an update that every machine has, for a save may have ended on some of them alone."""
    own: dict[int, Path] = {}
    origin: Path | None = None
    with together(collectives, "resume.look"):
        mark = read_mark(directory)
        own = find_updates(directory, mark.run if mark else None)
        origin = mark.origin if mark else None
    of_ranks = collectives.gather_objects(set(own), "resume.updates")
    common = set.intersection(*of_ranks)
    candidates = [own[update] for update in sorted(common, reverse=True)]
    if not candidates and origin is not None:
        candidates = [origin]
    if not candidates and set.union(*of_ranks):
        raise RankError(
            f"no checkpoint in {directory} is on all machines: copy the directories of the others there, or name one"
        )
    return candidates


def open_checkpoint(directory: Path, collectives: Collectives) -> SavedCheckpoint:
    """Opens and verifies a checkpoint; every rank calls it, and reads through a share of its machine's files.

    Raises:
        RankError: on every rank, when it is damaged, or not the same on all machines.
    """
    checkpoint: SavedCheckpoint | None = None
    with together(collectives, "resume.manifest"):
        checkpoint = SavedCheckpoint(directory, collectives.rank, collectives.size)
    assert checkpoint is not None
    updates = collectives.gather_objects((checkpoint.manifest.update, checkpoint.manifest.run), "resume.same")
    if len(set(updates)) > 1:
        raise RankError(f"{directory} is not the same checkpoint on all machines")
    share = partial(checkpoint.verify, collectives.local_rank, collectives.local_size)
    slowly_together(share, collectives, "resume.verify")
    return checkpoint
