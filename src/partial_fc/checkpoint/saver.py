"""Saving beside training: the state of one update is taken between two steps and written by a thread of each rank.

What the ranks must agree on is said on the thread that trains: one small object gather an update while a save is under
way, none otherwise. In each directory one rank, its publisher, writes what is the same for all, and gives the whole its
name when every rank has written its part; machines may share a disk or have one each.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from partial_fc.checkpoint.directory import (
    DEPLOYED,
    RunMark,
    partial_directory,
    publish,
    read_mark,
    remove_old,
    update_directory,
)
from partial_fc.checkpoint.files import Facts
from partial_fc.checkpoint.manifest import Manifest
from partial_fc.checkpoint.rank_files import RankFiles
from partial_fc.checkpoint.reader import SavedCheckpoint
from partial_fc.checkpoint.snapshot import CopyBudget, CopyMemory
from partial_fc.checkpoint.state import Part
from partial_fc.checkpoint.task import Task
from partial_fc.collectives import Collectives, RankError, together

logger = logging.getLogger("partial_fc")

DEFAULT_MEMORY = 1 << 30


class Checkpointer:
    """The checkpoints of a run; every rank makes the same calls in the same steps.

    Args:
        directory: the run's.
        parts: name → what has state.
        describe: what else the manifest shall say, JSON values by name.
        collectives: the ranks.
        mark: whose the directory is from now on.
        keep: how many checkpoints of the run stay, the newest; 0: all.
        memory: the most bytes for rows that are copied before they are written, on this rank.

    Attributes:
        newest: the directory of the newest checkpoint that this object has finished.
        newest_update: its update.

    Raises:
        RankError: on every rank, when the directory of one cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        parts: Mapping[str, Part],
        describe: Callable[[], dict[str, Any]],
        collectives: Collectives,
        mark: RunMark,
        *,
        keep: int = 0,
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        self._directory = directory
        self._parts = parts
        self._describe = describe
        self._collectives = collectives
        self._run = mark.run
        self._keep = keep
        self._memory = CopyMemory(memory)
        self._active: _Save | None = None
        self._prepared: Task | None = None
        self.newest: Path | None = None
        self.newest_update: int | None = None
        self._publisher = _find_publisher(directory, mark.run, collectives)
        self._publishers = collectives.gather_objects(self._publisher, "checkpoint.publishers")
        with together(collectives, "checkpoint.mark"):
            if self._publishes and _current_mark(directory) != mark:
                mark.write(directory)

    @property
    def _publishes(self) -> bool:
        return self._publisher == self._collectives.rank

    @property
    def busy(self) -> bool:
        """Whether a save is under way."""
        return self._active is not None

    def begin(self, update: int) -> None:
        """Takes the state after ``update`` updates, and starts to write it. A save under way is waited for."""
        if self._active is not None:
            if self._collectives.rank == 0:
                logger.warning(
                    "update %d is still being saved when update %d shall be: training waits; save less often, or to a "
                    "faster disk", self._active.update, update,
                )  # fmt: skip
            self._finish(required=False)
        while self._prepared is not None and not self._prepared.done:
            self._prepared.wait()
        budget = CopyBudget(self._memory)
        states = {name: part.state() for name, part in self._parts.items()}
        files = RankFiles(
            states,
            rank=self._collectives.rank,
            ranks=self._collectives.size,
            writes_shared=self._publishes,
            budget=budget,
        )
        values = {name: state.values for name, state in states.items()}
        self._active = _Save(update, files, budget, values, partial_directory(self._directory, update, self._run))

    def prepare(self) -> None:
        """Takes the memory for copies before the first save needs it; on a thread, and nobody waits for it."""
        tables = [table for part in self._parts.values() for table in part.state().rows if table.watch is not None]
        size = sum(
            array.size * np.dtype(array.dtype).itemsize for table in tables for array in table.arrays.values()
        )
        self._prepared = Task(lambda: self._memory.prepare(size))

    def poll(self) -> None:
        """Takes a save under way a step further where its ranks are ready; after each update.

        A save that failed is a warning, and training goes on: the checkpoint before it stays.
        """
        if self._active is not None:
            self._advance(required=False)

    def finish(self) -> None:
        """Waits until the save under way is on the disk.

        Raises:
            RankError: on every rank, when one of them could not write.
        """
        self._finish(required=True)

    def finish_if_possible(self) -> None:
        """Waits likewise, where a save that fails is but a warning: before a run ends by an error of its own."""
        self._finish(required=False)

    def close(self) -> None:
        """Ends the thread without ending a save: when the run ends by an error that not every rank may have."""
        if self._active is not None:
            self._active.budget.give_up()
            self._active.files.end()
            self._active = None

    def _finish(self, required: bool) -> None:
        while self._active is not None:
            self._active.task.wait()
            self._advance(required)

    def _advance(self, required: bool) -> None:
        save = self._active
        assert save is not None
        answers = self._collectives.gather_objects(save.answer(), "checkpoint.poll")
        if not all(answer.done for answer in answers):
            return
        errors = {rank: answer.error for rank, answer in enumerate(answers) if answer.error is not None}
        if errors:
            self._give_up(save, errors, required)
        elif not save.publishing:
            manifest = self._manifest(save, answers)
            save.publish(lambda: self._publish(save, manifest))
        else:
            self._active = None
            self.newest, self.newest_update = update_directory(self._directory, save.update), save.update
            if save.budget.waits and self._collectives.rank == 0:
                logger.info(
                    "saving update %d made training wait %d times for memory: a larger --save-memory-mib avoids it",
                    save.update, save.budget.waits,
                )  # fmt: skip

    def _give_up(self, save: _Save, errors: dict[int, str], required: bool) -> None:
        self._active = None
        save.files.end()
        if self._publishes:
            shutil.rmtree(save.partial, ignore_errors=True)
        rank, error = next(iter(errors.items()))
        message = f"update {save.update} is not saved: rank {rank}: {error}"
        if required:
            raise RankError(message)
        if self._collectives.rank == 0:
            newest = f"the newest checkpoint is {self.newest}" if self.newest else "there is no checkpoint yet"
            logger.warning("%s; training goes on, and %s", message, newest)

    def _manifest(self, save: _Save, answers: list[_Answer]) -> Manifest:
        files: dict[str, Facts] = {}
        elsewhere: dict[str, Facts] = {}
        for publisher, answer in zip(self._publishers, answers, strict=True):
            (files if publisher == self._publisher else elsewhere).update(answer.files)
        return Manifest(
            update=save.update,
            ranks=self._collectives.size,
            run=self._run,
            values={name: [answer.values[name] for answer in answers] for name in self._parts},
            description=self._describe(),
            files=files,
            elsewhere={name: facts for name, facts in elsewhere.items() if name not in files},
            spans={name: span for answer in answers for name, span in answer.spans.items()},
        )

    def _publish(self, save: _Save, manifest: Manifest) -> None:
        if self._publishes:
            manifest.write(save.partial)
            deployed = all(name in manifest.files for name in DEPLOYED)  # a head alone has no network
            publish(save.partial, update_directory(self._directory, save.update), deployed)
            try:
                remove_old(self._directory, self._run, self._keep)
            except OSError as error:  # the new one is there all the same
                logger.warning("an old checkpoint cannot be removed: %s", error)


class _Answer:
    """What a rank says of its part of a save."""

    def __init__(self, done: bool, error: str | None = None) -> None:
        self.done = done
        self.error = error
        self.files: dict[str, Facts] = {}
        self.values: dict[str, Any] = {}
        self.spans: dict[str, tuple[int, int]] = {}


class _Save:
    """One save on one rank: first its files are written, then the whole is published."""

    def __init__(
        self, update: int, files: RankFiles, budget: CopyBudget, values: dict[str, Any], partial: Path
    ) -> None:
        self.update = update
        self.files = files
        self.budget = budget
        self.partial = partial
        self.publishing = False
        self._values = values
        self._written: dict[str, Facts] = {}
        self.task = Task(self._write)

    def publish(self, function: Callable[[], None]) -> None:
        self.publishing = True
        self.task = Task(function)

    def answer(self) -> _Answer:
        if not self.task.done:
            return _Answer(False)
        answer = _Answer(True, self.task.error())
        if not self.publishing:
            answer.files, answer.values, answer.spans = self._written, self._values, self.files.spans()
        return answer

    def _write(self) -> None:
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._written = self.files.write(self.partial)
        finally:
            self.budget.give_up()
            self.files.end()


def new_mark(checkpoint: SavedCheckpoint | None, directory: Path, auto: bool, collectives: Collectives) -> RunMark:
    """Whose the directory is from now on: the same run's when ``auto`` found a checkpoint, else a new one's."""
    name = collectives.gather_objects(uuid.uuid4().hex, "checkpoint.run")[0]
    if checkpoint is None:
        return RunMark(name)
    if not auto:
        return RunMark(name, checkpoint.directory.resolve())
    own = _current_mark(directory)
    marks = collectives.gather_objects(own, "checkpoint.own")
    return own if own is not None and len(set(marks)) == 1 else RunMark(checkpoint.manifest.run)


def _current_mark(directory: Path) -> RunMark | None:
    try:
        return read_mark(directory)
    except ValueError:
        return None


def _find_publisher(directory: Path, token: str, collectives: Collectives) -> int:
    """The first rank that sees the same directory as this one, on this machine or another."""
    names = [directory / f".rank-{rank}-{token}" for rank in range(collectives.size)]
    try:
        with together(collectives, "checkpoint.begin"):
            directory.mkdir(parents=True, exist_ok=True)
            names[collectives.rank].touch()
        publisher = next(rank for rank, name in enumerate(names) if name.exists())
        collectives.gather_objects(None, "checkpoint.seen")
        return publisher
    finally:
        with contextlib.suppress(OSError):  # where the directory is a file
            names[collectives.rank].unlink(missing_ok=True)
