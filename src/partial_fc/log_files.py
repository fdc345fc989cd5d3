"""The files of a run's log, which a full disk may stop but which never stop the run.

    log.jsonl       one JSON object a line
    tensorboard/    the numbers of it as TensorBoard's events
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mxboard.event_file_writer import EventsWriter
from mxboard.proto import event_pb2
from mxboard.summary import scalar_summary

logger = logging.getLogger("partial_fc")

Record = dict[str, Any]


class LogFiles:
    """Both files, open for more records. A write that fails is told once, and that file is left as it is.

    TensorBoard's events are written here and now, without mxboard's own thread: that one dies of a full disk, and
    whoever writes next waits for it for ever.

    Args:
        directory: is made where it is missing.
        resumed_update: the records of later updates are those of a run that was lost: they go.

    Raises:
        OSError: the files cannot be begun.
    """

    def __init__(self, directory: Path, resumed_update: int = 0) -> None:
        (directory / "tensorboard").mkdir(parents=True, exist_ok=True)
        path = directory / "log.jsonl"
        kept = path.with_name(".log.jsonl.kept")
        kept.write_text("".join(lines_until(path, resumed_update)), encoding="utf-8")
        os.replace(kept, path)  # in one move: a run that is killed here has the lines of before
        self._lines: TextIO | None = path.open("a", buffering=1, encoding="utf-8")
        self._events: EventsWriter | None = EventsWriter(str(directory / "tensorboard" / "events"), verbose=False)

    def write(self, record: Record) -> None:
        """Adds a record; ``update`` is the step that TensorBoard shows its numbers at."""
        if self._lines is not None:
            try:
                self._lines.write(json.dumps(record, allow_nan=False) + "\n")
            except OSError as error:
                self._give_up("log.jsonl", error)
                self._lines = None
        if self._events is not None:
            try:
                for tag, value in _numbers(record):
                    event = event_pb2.Event(summary=scalar_summary(tag, value), wall_time=time.time())
                    event.step = record["update"]
                    self._events.write_event(event)
                self._events.flush()
            except OSError as error:
                self._give_up("tensorboard", error)
                self._events = None

    def close(self) -> None:
        """Writes what is still in memory."""
        for name, file in (("log.jsonl", self._lines), ("tensorboard", self._events)):
            try:
                if file is not None:
                    file.close()
            except OSError as error:
                self._give_up(name, error)
        self._lines = self._events = None

    @staticmethod
    def _give_up(name: str, error: OSError) -> None:
        logger.warning("%s gets no more lines (%s): training goes on without it", name, error)


def lines_until(path: Path, update: int) -> Iterator[str]:
    """The lines of a log that tell of updates up to this one."""
    if update == 0 or not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):  # a line that was cut short
                continue
            if isinstance(record, dict) and isinstance(record.get("update"), int) and record["update"] <= update:
                yield line.rstrip("\n") + "\n"


def _numbers(record: Record, prefix: str = "") -> list[tuple[str, float]]:
    numbers = []
    for name, value in record.items():
        if isinstance(value, dict):
            numbers += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "update":
            numbers.append((prefix + name, float(value)))
    return numbers
