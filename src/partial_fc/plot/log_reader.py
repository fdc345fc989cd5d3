"""A run's `log.jsonl` as series of numbers.

The file is read twice, a line at a time: once for the updates it spans and for where it goes back, once for the
numbers. It may be of any size, still be written to, and hold lines that are no entries.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from partial_fc.plot.names import clean
from partial_fc.plot.series import Series

NUMBERS = ("loss", "learning_rate", "loss_scale", "images_per_second", "skipped")
VERIFICATION_NUMBERS = ("accuracy", "accuracy_std")
MAX_NAMES = 32
"""Verification sets, or parts of a step, that are read; a log that is in order has a few."""

_MAX_LINE_BYTES = 1 << 20
_MAX_UPDATE = 1 << 53
_LARGEST_NUMBER = 1e100  # of whatever is larger, no axis can be drawn


@dataclass
class RunLog:
    """What a log says, thinned.

    Attributes:
        series: by (field, name): ("loss", ""), ("milliseconds", "head"), ("accuracy", "lfw").
        first_update, last_update: of the entries that count.
        last_epoch: of the last entry that has one.
        entries: the lines that count.
        replaced: entries of updates that a resumed run made once more; the later ones count.
        broken: lines that are no entries: cut short, or something else.
        left_out: the fields of which names past the first `MAX_NAMES` are not read.
    """

    path: Path
    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    first_update: int = 0
    last_update: int = 0
    last_epoch: int | None = None
    entries: int = 0
    replaced: int = 0
    broken: int = 0
    left_out: set[str] = field(default_factory=set)

    def names(self, kind: str) -> list[str]:
        """Of the series of a kind, in the order in which they came."""
        return [name for field_, name in self.series if field_ == kind]


@dataclass
class _Survey:
    """The first reading: the updates of the log, and where it goes back.

    Attributes:
        returns: (line, update), ascending in both: of the lines before it, those of later updates do not count.
    """

    first: int | None = None
    last: int = 0
    broken: int = 0
    returns: list[tuple[int, int]] = field(default_factory=list)


def read_log(path: Path) -> RunLog:
    """Reads a log. Where it goes back to an earlier update, as when a run is resumed, the later entries count.

    Raises:
        OSError: it cannot be read.
    """
    log = RunLog(path)
    with path.open("rb") as file:
        size = path.stat().st_size  # what a run adds meanwhile is for the next time
        survey = _survey(file, size)
        log.broken = survey.broken
        if survey.first is None:
            return log
        log.first_update, log.last_update = survey.first, survey.last
        lines = [line for line, _ in survey.returns]
        for number, record in enumerate(_records(file, size)):
            if record is None:
                continue
            place = bisect_right(lines, number)
            if place < len(lines) and record["update"] > survey.returns[place][1]:
                log.replaced += 1
            else:
                log.entries += 1
                _take(log, record)
    for series in log.series.values():
        series.close()
    return log


def _survey(file: BinaryIO, size: int) -> _Survey:
    survey = _Survey()
    for number, record in enumerate(_records(file, size)):
        if record is None:
            survey.broken += 1
            continue
        update = record["update"]
        if survey.first is None:
            survey.first = survey.last = update
        if update < survey.last:
            while survey.returns and survey.returns[-1][1] >= update:
                survey.returns.pop()
            survey.returns.append((number, update))
        survey.first, survey.last = min(survey.first, update), update
    return survey


def _records(file: BinaryIO, size: int) -> Iterator[dict[str, Any] | None]:
    """The entries of the first `size` bytes; None for a line that is none."""
    file.seek(0)
    while size > 0 and (line := file.readline(min(size, _MAX_LINE_BYTES))):
        size -= len(line)
        if len(line) < _MAX_LINE_BYTES or line.endswith(b"\n"):
            if line.strip():
                yield _parse(line)
            continue
        while size > 0 and not line.endswith(b"\n") and (line := file.readline(min(size, _MAX_LINE_BYTES))):
            size -= len(line)
        yield None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    update = record.get("update") if isinstance(record, dict) else None
    return record if type(update) is int and 0 <= update < _MAX_UPDATE else None


def _take(log: RunLog, record: dict[str, Any]) -> None:
    update = record["update"]
    epoch = record.get("epoch")
    if type(epoch) is int:
        log.last_epoch = epoch
    for name in NUMBERS:
        if name in record:
            _add(log, (name, ""), update, record[name])
    milliseconds = record.get("milliseconds")
    if isinstance(milliseconds, dict):
        for part, value in milliseconds.items():
            _add(log, ("milliseconds", clean(part)), update, value)
    verification = record.get("verification")
    if isinstance(verification, dict):
        for name, numbers in verification.items():
            if isinstance(numbers, dict):
                for number in VERIFICATION_NUMBERS:
                    if number in numbers:
                        _add(log, (number, clean(name)), update, numbers[number])


def _add(log: RunLog, key: tuple[str, str], update: int, value: Any) -> None:
    series = log.series.get(key)
    if series is None:
        if len(log.names(key[0])) >= MAX_NAMES:
            log.left_out.add(key[0])
            return
        series = log.series[key] = Series(log.first_update, log.last_update)
    series.add(update, _number(value))


def _number(value: Any) -> float:
    """NaN for what is no number, or none that is finite: the log says null where no loss was finite."""
    if type(value) not in (int, float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if abs(number) < _LARGEST_NUMBER else math.nan
