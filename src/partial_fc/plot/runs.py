"""The runs of a command line: their logs, their settings, and what they are called."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partial_fc.plot.log_reader import RunLog, read_log
from partial_fc.plot.names import clean, labels_of
from partial_fc.plot.settings import read_settings

logger = logging.getLogger("partial_fc")

LOG_FILE = "log.jsonl"
MAX_RUNS = 32
"""In one figure: as many lines as colours and dashes tell apart."""


@dataclass(frozen=True)
class Run:
    """A run to draw.

    Attributes:
        name: what it is called in figures and tables.
        settings: JSON values by name; empty where they are not known.
    """

    name: str
    log: RunLog
    settings: dict[str, Any]


@dataclass(frozen=True)
class RunName:
    """A run as the command line names it, `[NAME=]PATH`, a run's directory or a log; without NAME, by its path."""

    name: str
    log: Path


def parse_runs(texts: Sequence[str]) -> list[RunName]:
    """The runs that are named, none of them read yet.

    Raises:
        ValueError: too many, one twice, or two of one name.
        OSError: one is not there.
    """
    if len(texts) > MAX_RUNS:
        raise ValueError(f"at most {MAX_RUNS} runs can be told apart, but {len(texts)} are named: draw fewer at a time")
    given, logs = zip(*map(_parse, texts), strict=True)
    for place, log in enumerate(logs):
        if log.resolve() in [other.resolve() for other in logs[:place]]:
            raise ValueError(f"each run must be named once, but {log} is named twice")
    labels = labels_of([log.parent if log.name == LOG_FILE else log for log in logs])
    named = [RunName(name or label, log) for name, label, log in zip(given, labels, logs, strict=True)]
    if len({name.name for name in named}) < len(named):
        called = ", ".join(name.name for name in named)
        raise ValueError(f"each run must have a name of its own (NAME=RUN), but they are {called}")
    return named


def open_runs(names: Sequence[RunName]) -> list[Run]:
    """Reads the logs; one without a single entry is told of and left out.

    Raises:
        ValueError: none of them has an entry.
        OSError: one cannot be read.
    """
    runs = []
    for name in names:
        log = read_log(name.log)
        broken = f", and {log.broken:,} broken line{'s' * (log.broken != 1)}" if log.broken else ""
        if log.entries == 0:
            if len(names) == 1:
                raise ValueError(
                    f"{name.log} has no entry{broken}: there is nothing to draw before the run's first line of log"
                )
            logger.warning("%s has no entry%s: it is left out", name.log, broken)
            continue
        if log.broken:
            logger.warning("%s: %s", name.log, tell_broken(log))
        runs.append(Run(name.name, log, read_settings(name.log.parent)))
    if not runs:
        raise ValueError(f"none of the {len(names)} logs has an entry: there is nothing to draw")
    return runs


def tell_broken(log: RunLog) -> str:
    """What is said of a log with lines that are no entries."""
    if log.broken == 1:
        return "1 broken line is passed over (cut short by a kill, or still being written)"
    return f"{log.broken:,} broken lines are passed over (cut short by kills, or no entries of a log)"


def _parse(text: str) -> tuple[str | None, Path]:
    path = Path(text)
    name, equals, rest = text.partition("=")
    if equals and name and rest and "/" not in name and not path.exists():
        return clean(name), _log_of(Path(rest))
    return None, _log_of(path)


def _log_of(path: Path) -> Path:
    if path.is_dir():
        if not (path / LOG_FILE).is_file():
            raise FileNotFoundError(f"{path} has no {LOG_FILE}: name a run's directory, or a log")
        return path / LOG_FILE
    if not path.is_file():
        what = "is no file" if path.exists() else "is not there"
        raise FileNotFoundError(f"{path} {what}: name a run's directory, or its {LOG_FILE}")
    return path
