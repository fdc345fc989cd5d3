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
    """A run as the command line names it: `[NAME=]PATH`, a run's directory or a log."""

    name: str | None
    log: Path


def parse_runs(texts: Sequence[str]) -> list[RunName]:
    """The runs that are named, none of them read yet.

    Raises:
        ValueError: too many, or one twice.
        OSError: one is not there.
    """
    if len(texts) > MAX_RUNS:
        raise ValueError(f"at most {MAX_RUNS} runs can be told apart, but {len(texts)} are named: draw fewer at a time")
    names = [_parse(text) for text in texts]
    for place, name in enumerate(names):
        if name.log.resolve() in [other.log.resolve() for other in names[:place]]:
            raise ValueError(f"each run must be named once, but {name.log} is named twice")
    given = [name.name for name in names if name.name is not None]
    if len(set(given)) < len(given):
        raise ValueError(f"each run must have a name of its own (NAME=RUN), but they are {', '.join(given)}")
    return names


def open_runs(names: Sequence[RunName]) -> list[Run]:
    """Reads the logs; one without a single entry is told of and left out.

    Raises:
        ValueError: none of them has an entry.
        OSError: one cannot be read.
    """
    labels = labels_of([name.log.parent if name.log.name == LOG_FILE else name.log for name in names])
    runs = []
    for name, label in zip(names, labels, strict=True):
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
        runs.append(Run(name.name or label, log, read_settings(name.log.parent)))
    if not runs:
        raise ValueError(f"none of the {len(names)} logs has an entry: there is nothing to draw")
    return runs


def tell_broken(log: RunLog) -> str:
    """What is said of a log with lines that are no entries."""
    if log.broken == 1:
        return "1 broken line is passed over (cut short by a kill, or still being written)"
    return f"{log.broken:,} broken lines are passed over (cut short by kills, or no entries of a log)"


def _parse(text: str) -> RunName:
    path = Path(text)
    name, equals, rest = text.partition("=")
    if equals and name and rest and "/" not in name and not path.exists():
        return RunName(clean(name), _log_of(Path(rest)))
    return RunName(None, _log_of(path))


def _log_of(path: Path) -> Path:
    if path.is_dir():
        if not (path / LOG_FILE).is_file():
            raise FileNotFoundError(f"{path} has no {LOG_FILE}: name a run's directory, or a log")
        return path / LOG_FILE
    if not path.is_file():
        what = "is no file" if path.exists() else "is not there"
        raise FileNotFoundError(f"{path} {what}: name a run's directory, or its {LOG_FILE}")
    return path
