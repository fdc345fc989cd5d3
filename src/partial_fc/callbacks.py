"""What happens beside training: the log, TensorBoard, saving, verification."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from partial_fc.backbone import Backbone
from partial_fc.checkpoint import Checkpointer, PartState, SavedPart
from partial_fc.collectives import Collectives
from partial_fc.evaluation.verification import VerificationResult, verify_set
from partial_fc.evaluation.verification_set import VerificationSet
from partial_fc.log_files import LogFiles
from partial_fc.trainer import StepReport

logger = logging.getLogger("partial_fc")


@dataclass
class Interval:
    """Sums over the updates since the last line of the log; of the losses, over the finite ones."""

    updates: int = 0
    losses: float = 0.0
    finite_losses: int = 0
    images: int = 0
    seconds: float = 0.0
    milliseconds: dict[str, float] = field(default_factory=dict)
    skipped: int = 0

    def add(self, report: StepReport) -> None:
        """Adds one step."""
        self.updates += 1
        if math.isfinite(report.loss):
            self.losses += report.loss
            self.finite_losses += 1
        self.images += report.images
        self.seconds += report.seconds
        self.skipped += bool(report.skipped)
        for part, milliseconds in report.milliseconds.items():
            self.milliseconds[part] = self.milliseconds.get(part, 0.0) + milliseconds

    def record(self, last: StepReport) -> dict[str, Any]:
        """The interval as one line of the log: means over its updates, rates per second.

        ``loss`` is None where none was finite: JSON has no number for that.
        """
        return {
            "update": last.update,
            "epoch": last.epoch,
            "loss": self.losses / self.finite_losses if self.finite_losses else None,
            "learning_rate": last.learning_rate,
            "loss_scale": last.loss_scale,
            "images_per_second": self.images / self.seconds,
            "milliseconds": {part: total / self.updates for part, total in self.milliseconds.items()},
            "skipped": self.skipped,
        }


class Log:
    """Where a run's numbers go on rank 0: the console, ``log.jsonl`` and TensorBoard. Silent on other ranks.

    Args:
        directory: gets ``log.jsonl`` and ``tensorboard/``.
        max_update: the length of the progress bar.
        collectives: tells the rank.
        resumed_update: the update that the run goes on from; lines of later ones are those of a run that was lost.

    Attributes:
        speaks: whether this is the rank that writes.
    """

    def __init__(self, directory: Path, max_update: int, collectives: Collectives, resumed_update: int = 0) -> None:
        self.speaks = collectives.rank == 0
        self._files: LogFiles | None = None
        self._bar: tqdm | None = None
        if not self.speaks:
            return
        self._files = LogFiles(directory, resumed_update)
        # mpirun gives rank 0 a terminal whatever its own output goes to: run.sh looks there, and tells.
        wanted = os.environ.get("PARTIAL_FC_PROGRESS", "bar" if sys.stderr.isatty() else "lines")
        if wanted == "bar":
            self._bar = tqdm(total=max_update, initial=resumed_update, unit="update", dynamic_ncols=True)

    def advance(self) -> None:
        """Moves the progress bar by one update."""
        if self._bar is not None:
            self._bar.update()

    def write(self, line: str, record: dict[str, Any]) -> None:
        """Writes a line for people, the record for programs, and its numbers for TensorBoard.

        Args:
            record: JSON values by name; ``update`` is the step that TensorBoard shows its numbers at.
        """
        if not self.speaks:
            return
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)
        self._files.write(record)

    def close(self) -> None:
        """Ends the bar and writes what is still in memory."""
        if self._bar is not None:
            self._bar.close()
        if self._files is not None:
            self._files.close()


class LogProgress:
    """Loss, speed and where the time went, every so many updates.

    A part of the run with state: the sums since the last line, so that a line means the same in a resumed run.
    """

    def __init__(self, every_updates: int, max_update: int, log: Log | None = None) -> None:
        self.log = log  # opened when it is known which of its lines a resumed run keeps
        self._every = every_updates
        self._max_update = max_update
        self._interval = Interval()

    def after_update(self, report: StepReport) -> bool:
        self.log.advance()
        self._interval.add(report)
        if report.skipped and self.log.speaks:
            logger.warning("update %d was skipped: %s", report.update, report.skipped)
        if report.update % self._every == 0:
            self._write(report)
        return True

    def at_end(self, report: StepReport) -> None:
        if self._interval.updates > 0:
            self._write(report)

    def state(self) -> PartState:
        return PartState(asdict(self._interval))

    def restore(self, saved: SavedPart) -> None:
        self._interval = Interval(**saved.values)

    def _write(self, report: StepReport) -> None:
        record = self._interval.record(report)
        self.log.write(self._line(record), record)
        self._interval = Interval()

    def _line(self, record: dict[str, Any]) -> str:
        loss = "not finite" if record["loss"] is None else f"{record['loss']:.4f}"
        parts = "  ".join(f"{part} {value:.1f}" for part, value in record["milliseconds"].items())
        width = len(str(self._max_update))
        return (
            f"update {record['update']:{width}d}/{self._max_update}  epoch {record['epoch']}"
            f"  loss {loss}  lr {record['learning_rate']:g}"
            f"  {record['images_per_second']:.0f} images/s  ms a step: {parts}"
        )


class SaveModel:
    """Saves every so many updates beside training, and waits for the last save before a last verification.

    Args:
        checkpoints: writes them; every rank has one.
        every_updates: 0 saves at the end alone.
        last_update: the update that ends training, unless something ends it before.
    """

    def __init__(self, checkpoints: Checkpointer, every_updates: int = 0, last_update: int | None = None) -> None:
        self._checkpoints = checkpoints
        self._every = every_updates
        self._last_update = last_update
        self._newest_begun: int | None = None

    def after_update(self, report: StepReport) -> bool:
        self._checkpoints.poll()
        if report.update == self._last_update:
            self._save_now(report.update)
        elif self._every and report.update % self._every == 0:
            self._begin(report.update)
        return True

    def at_end(self, report: StepReport) -> None:
        self._save_now(report.update)

    def _begin(self, update: int) -> None:
        self._checkpoints.begin(update)
        self._newest_begun = update

    def _save_now(self, update: int) -> None:
        """Raises RankError when it cannot be written."""
        if self._newest_begun != update:
            self._begin(update)
        self._checkpoints.finish()


class Verify:
    """Accuracy on verification sets, by all ranks together, every so many updates and at the end.

    Args:
        sets: the pairs.
        every_updates: 0 verifies at the end alone.

    Attributes:
        results: the last result by set name.
    """

    def __init__(
        self,
        sets: Sequence[VerificationSet],
        every_updates: int,
        backbone: Backbone,
        collectives: Collectives,
        log: Log,
    ) -> None:
        self._sets = sets
        self._every = every_updates
        self._backbone = backbone
        self._collectives = collectives
        self._log = log
        self._last_update = 0
        self.results: dict[str, VerificationResult] = {}

    def after_update(self, report: StepReport) -> bool:
        if self._every and report.update % self._every == 0:
            self._verify(report.update)
        return True

    def at_end(self, report: StepReport) -> None:
        if self._last_update != report.update:
            self._verify(report.update)

    def _verify(self, update: int) -> None:
        self._last_update = update
        with self._backbone.averaged_statistics():
            self._verify_all(update)

    def _verify_all(self, update: int) -> None:
        for verification_set in self._sets:
            result = verify_set(
                verification_set,
                self._backbone.embed,
                image_size=self._backbone.image_size,
                batch_size=self._backbone.batch_size,
                collectives=self._collectives,
            )
            self.results[verification_set.name] = result
            self._write(update, verification_set.name, result)

    def _write(self, update: int, name: str, result: VerificationResult) -> None:
        accuracy, deviation = 100 * result.accuracy, 100 * result.accuracy_std
        line = (
            f"update {update}  {name}: accuracy {accuracy:.2f} % ± {deviation:.2f}"
            f"  threshold {result.best_threshold:.2f}  XNorm {result.xnorm:.2f}  ({result.pairs} pairs)"
        )
        numbers = {
            "accuracy": result.accuracy,
            "accuracy_std": result.accuracy_std,
            "threshold": result.best_threshold,
            "xnorm": result.xnorm,
        }
        self._log.write(line, {"update": update, "verification": {name: numbers}})
