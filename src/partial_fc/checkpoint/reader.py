"""A checkpoint read: verified, and its parts seen from one rank of a run of any number of ranks."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from partial_fc.checkpoint.files import Facts, facts_of
from partial_fc.checkpoint.manifest import Manifest, read_manifest
from partial_fc.checkpoint.rank_files import ROW_NUMBERS, rank_file
from partial_fc.checkpoint.state import RowBlock
from partial_fc.params_file import ParamsFile, read_params

_LARGEST_TEXT = 1 << 26


class SavedCheckpoint:
    """A checkpoint's directory.

    Args:
        directory: the one of an update.
        rank, ranks: this rank, among those of the run that reads.

    Raises:
        ValueError: its manifest is damaged, or the directory is none of a checkpoint.
    """

    def __init__(self, directory: Path, rank: int = 0, ranks: int = 1) -> None:
        if not directory.is_dir():
            raise FileNotFoundError(f"there is no checkpoint {directory}: name the directory of an update")
        self.directory = directory
        try:
            self.manifest: Manifest = read_manifest(directory)
        except FileNotFoundError:
            inner = ", ".join(sorted(path.name for path in directory.glob("update-*"))[-3:])
            hint = f"name one of its checkpoints ({inner})" if inner else "name the directory of an update"
            raise FileNotFoundError(f"{directory} is no checkpoint, for it has no manifest.json: {hint}") from None
        self.rank, self.ranks = rank, ranks

    def missing(self) -> list[str]:
        """The files of other machines that are not in this directory."""
        return [name for name in self.manifest.elsewhere if not (self.directory / name).exists()]

    def verify(self, share: int = 0, shares: int = 1) -> None:
        """Checks that every file is there with its size, and of one share of them that the content is what was written.

        Raises:
            ValueError: a file is not; the message names it.
        """
        here = {name: facts for name, facts in self.manifest.all_files.items() if name not in self.missing()}
        for name, facts in here.items():
            self._check_size(name, facts)
        for number, (name, facts) in enumerate(sorted(here.items(), key=lambda item: (-item[1].bytes, item[0]))):
            if number % shares == share and facts_of(self.directory / name, facts.bytes) != facts:
                raise ValueError(f"{self.directory / name} is damaged: its content does not match its checksum")

    def part(self, name: str) -> SavedPartFiles:
        """A part's state.

        Raises:
            ValueError: the checkpoint has no such part.
        """
        if name not in self.manifest.values:
            known = ", ".join(self.manifest.values)
            raise ValueError(f"{self.directory} has no part {name!r}, but {known}")
        return SavedPartFiles(self, name)

    def path_of(self, name: str) -> Path:
        """A file of the checkpoint, checked to be there."""
        facts = self.manifest.all_files.get(name)
        if facts is None:
            raise ValueError(f"{self.directory} has no file {name}")
        if name in self.manifest.elsewhere and not (self.directory / name).exists():
            raise ValueError(
                f"{name} of the checkpoint {self.directory} lies on another machine, whose ranks wrote it to a disk of "
                "their own: copy the other machines' files into this directory, or resume on the same machines with "
                "the same ranks"
            )
        self._check_size(name, facts)
        return self.directory / name

    def _check_size(self, name: str, facts: Facts) -> None:
        path = self.directory / name
        try:
            status = path.lstat()
        except FileNotFoundError:
            raise ValueError(f"{path} is missing, which the checkpoint's manifest names") from None
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is no regular file")
        if status.st_size != facts.bytes:
            raise ValueError(f"{path} has {status.st_size} bytes, but the manifest says {facts.bytes}")


class SavedPartFiles:
    """One part of a checkpoint: :class:`partial_fc.checkpoint.state.SavedPart`."""

    def __init__(self, checkpoint: SavedCheckpoint, name: str) -> None:
        self._checkpoint = checkpoint
        self._name = name

    @property
    def ranks(self) -> int:
        return self._checkpoint.manifest.ranks

    @property
    def same_ranks(self) -> bool:
        return self._checkpoint.ranks == self.ranks

    @property
    def values(self) -> dict[str, Any]:
        return self.all_values[self._checkpoint.rank if self.same_ranks else 0]

    @property
    def all_values(self) -> list[dict[str, Any]]:
        return self._checkpoint.manifest.values[self._name]

    def arrays(self, file: str) -> dict[str, np.ndarray]:
        return read_params(self._checkpoint.path_of(file))

    def text(self, file: str) -> str:
        path = self._checkpoint.path_of(file)
        if path.stat().st_size > _LARGEST_TEXT:
            raise ValueError(f"{path} is too large for a text")
        return path.read_text(encoding="utf-8")

    def own(self, rank: int | None = None) -> dict[str, np.ndarray]:
        assert rank is not None or self.same_ranks
        with ParamsFile(self._path_of_rank(self._checkpoint.rank if rank is None else rank)) as file:
            return {name: file.read(name) for name in file.names() if ":" not in name}

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[RowBlock]:
        spans = self._checkpoint.manifest.spans
        for rank in range(self.ranks):
            span = spans.get(rank_file(self._name, rank, self.ranks))
            if span is not None and span[1] > start and (stop is None or span[0] < stop):
                with ParamsFile(self._path_of_rank(rank)) as file:
                    yield from _rows_of(file, start, span[1] if stop is None else min(stop, span[1]))

    def _path_of_rank(self, rank: int) -> Path:
        return self._checkpoint.path_of(rank_file(self._name, rank, self.ranks))


def _rows_of(file: ParamsFile, start: int, stop: int) -> Iterator[RowBlock]:
    """The rows of one file with numbers in [start, stop)."""
    blocks: dict[int, dict[str, str]] = {}
    for name in file.names():
        array, colon, number = name.partition(":")
        if colon and number.isdecimal():
            blocks.setdefault(int(number), {})[array] = name
    last = -1
    for number in sorted(blocks):
        names = blocks[number]
        if ROW_NUMBERS not in names or file.dtype(names[ROW_NUMBERS]) != np.int64:
            raise ValueError(f"{file.path}: block {number} does not say which rows it holds")
        numbers_B = file.read(names.pop(ROW_NUMBERS))
        if numbers_B.ndim != 1 or len(numbers_B) == 0 or numbers_B[0] <= last or (np.diff(numbers_B) <= 0).any():
            raise ValueError(f"{file.path}: the rows of block {number} do not ascend")
        last = int(numbers_B[-1])
        begin, end = np.searchsorted(numbers_B, [start, stop]).tolist()
        if begin == end:
            if numbers_B[0] >= stop:
                return
            continue
        for array, name in names.items():
            if file.shape(name)[:1] != numbers_B.shape:
                raise ValueError(f"{file.path}: {array} of block {number} has not as many rows as the block")
        yield RowBlock(
            numbers_B[begin:end], {array: file.read_rows(name, begin, end) for array, name in names.items()}
        )
