"""A run's directory: its checkpoints by update, given their names in one move, and the mark of whose they are.

    run.json                     the run that the directory belongs to now, and the checkpoint that it began with
    update-00032000/             a checkpoint, whole
    .update-00032000.….partial   one that is being written, or was when its run was killed
    .update-00032000.replaced    an earlier one of the same update, for the moment in which the new one takes its name
    .update-00032000.removed     an old one on its way out
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from partial_fc.checkpoint.files import SummedFile, copy_beside, replace_json, sync_directory
from partial_fc.checkpoint.manifest import MANIFEST, read_manifest

RUN_FILE = "run.json"
DEPLOYED = ("model-symbol.json", "model-0000.params")
"""Of the newest checkpoint there are copies in the run's directory."""

_UPDATE = re.compile(r"update-(\d{8,18})")
_LEFT_BEHIND = re.compile(r"\.(update-\d{8,18})\.(?:.*\.)?(partial|replaced|removed)")


@dataclass(frozen=True)
class RunMark:
    """Whose directory it is.

    Attributes:
        run: the name of the run; resuming the newest checkpoint keeps it, everything else begins another.
        origin: the checkpoint that it began with, where that lies elsewhere or belongs to another run.
    """

    run: str
    origin: Path | None = None

    def write(self, directory: Path) -> None:
        """Marks a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        replace_json(directory / RUN_FILE, {"run": self.run, "origin": str(self.origin) if self.origin else None})


def read_mark(directory: Path) -> RunMark | None:
    """The mark of a directory, if it has one.

    Raises:
        ValueError: the file is damaged.
    """
    path = directory / RUN_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes()[: 1 << 16])
        return RunMark(str(content["run"]), Path(content["origin"]) if content["origin"] else None)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged: name the checkpoint to go on with (--resume DIR)") from None


def update_directory(directory: Path, update: int) -> Path:
    return directory / f"update-{update:08d}"


def partial_directory(directory: Path, update: int, token: str) -> Path:
    return directory / f".update-{update:08d}.{token}.partial"


def find_updates(directory: Path, run: str | None = None) -> dict[int, Path]:
    """The checkpoints of a directory by update, those of one run where it is given; damaged ones count as of it."""
    found = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        match = _UPDATE.fullmatch(path.name)
        if match and path.is_dir() and (path / MANIFEST).exists() and (run is None or run_of(path) in (run, None)):
            found[int(match[1])] = path
    return found


def run_of(checkpoint: Path) -> str | None:
    """The run that saved a checkpoint; None where its manifest cannot be read."""
    try:
        return read_manifest(checkpoint).run
    except (ValueError, OSError):
        return None


def clean(directory: Path) -> None:
    """Ends what a killed run has begun: one rank of those that share the directory calls it, before any save."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        match = _LEFT_BEHIND.fullmatch(path.name)
        if match is None:
            continue
        final = directory / match[1]
        if match[2] == "replaced" and not final.exists():
            os.replace(path, final)
        else:
            shutil.rmtree(path, ignore_errors=True)


def publish(partial: Path, final: Path, deployed: bool = True) -> None:
    """Gives a complete directory its name, and its backbone, where ``deployed``, the place of the newest one."""
    sync_directory(partial)
    copies = [copy_beside(partial / name, final.parent / name) for name in DEPLOYED if deployed]  # all that needs room
    replaced = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        os.replace(final, replaced)
    os.replace(partial, final)
    sync_directory(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    for copy, name in zip(copies, DEPLOYED, strict=False):
        os.replace(copy, final.parent / name)
    sync_directory(final.parent)


def remove_old(directory: Path, run: str, keep: int) -> None:
    """Leaves the newest ``keep`` checkpoints of a run; those of others stay. 0 keeps all."""
    if keep == 0:
        return
    own = {update: path for update, path in find_updates(directory).items() if run_of(path) == run}
    for update in sorted(own)[:-keep]:
        removed = own[update].with_name(f".{own[update].name}.removed")
        os.replace(own[update], removed)
        shutil.rmtree(removed, ignore_errors=True)


@contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """A directory that gets its name when the block ends well, and else is removed.

    Raises:
        ValueError: one of that name is there already.
    """
    if final.exists():
        raise ValueError(f"{final} exists already: name a directory that does not")
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        publish(partial, final, deployed=False)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def new_file(final: Path) -> Iterator[SummedFile]:
    """A file that gets its name when the block ends well, and else is removed."""
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.{os.getpid()}")
    try:
        with SummedFile(partial) as file:
            yield file
        os.replace(partial, final)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
