"""What ``python -m partial_fc.checkpoint`` does with checkpoints that lie on a disk: no training, no ranks, no device.

Legend: C identities, D embedding size. Rows pass through memory block by block.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from partial_fc.checkpoint.directory import new_directory, new_file
from partial_fc.checkpoint.files import Facts, SummedFile, facts_of
from partial_fc.checkpoint.rank_files import ROW_NUMBERS, rank_file
from partial_fc.checkpoint.reader import SavedCheckpoint
from partial_fc.checkpoint.run_parts import NETWORK_FILE, PARAMETERS_FILE
from partial_fc.checkpoint.settled_rows import SettledRows
from partial_fc.checkpoint.state import RowBlock
from partial_fc.head.initialization import initial_rows
from partial_fc.head.partition import ClassPartition
from partial_fc.params_file import ParamsWriter

CENTERS = "centers"
BLOCK_ROWS = 4096


def describe(checkpoint: SavedCheckpoint) -> str:
    """A checkpoint in words, for a terminal."""
    manifest = checkpoint.manifest
    ranks = f"{manifest.ranks} rank{'s' if manifest.ranks > 1 else ''}"
    lines = [f"{checkpoint.directory}: update {manifest.update}, saved by {ranks}"]
    for name in ("num_classes", "embedding_size"):
        if name in manifest.description:
            lines.append(f"  {name:<22} {manifest.description[name]}")
    for name, of_ranks in manifest.values.items():
        rows = row_count(checkpoint, name)
        lines.append(f"  {'part ' + name:<22} {_short(of_ranks[0])}{f', rows 0 to {rows - 1}' if rows else ''}")
    versions, config = (manifest.description.get(name) for name in ("versions", "config"))
    if isinstance(versions, dict):
        lines.append(f"  {'versions':<22} {_short(', '.join(f'{name} {value}' for name, value in versions.items()))}")
    if isinstance(config, dict):
        lines += [f"  {name:<22} {_short(value)}" for name, value in config.items() if value is not None]
    total = sum(facts.bytes for facts in manifest.all_files.values())
    lines.append(f"  {len(manifest.all_files)} files, {total / 2**20:.1f} MiB")
    missing = set(checkpoint.missing())
    for name, facts in sorted(manifest.all_files.items()):
        lines.append(f"    {name:<40} {facts.bytes:>14,} bytes{'  on another machine' if name in missing else ''}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 90 else text[:87] + "…"


def classes_of(checkpoint: SavedCheckpoint) -> tuple[int, int]:
    """(C, D) of a checkpoint's class centers.

    Raises:
        ValueError: it has none.
    """
    if CENTERS not in checkpoint.manifest.values:
        raise ValueError(f"{checkpoint.directory} has no class centers: a run with F²C has a pool")
    values = checkpoint.part(CENTERS).values
    classes, size = values.get("classes"), values.get("embedding_size")
    if not (type(classes) is int and type(size) is int and classes >= 1 and size >= 1):
        raise ValueError(f"{checkpoint.directory} does not say how many class centers of which size it has")
    return classes, size


def dense_blocks(checkpoint: SavedCheckpoint) -> Iterator[RowBlock]:
    """All C centers in order, ``weight`` and ``momentum`` as float32, up to date; those never touched as they start."""
    classes, size = classes_of(checkpoint)
    config = checkpoint.manifest.description.get("config")
    seed = config.get("seed") if isinstance(config, dict) else None
    next_row = 0
    settled = SettledRows(checkpoint.part(CENTERS))
    for numbers_B, arrays in settled.rows():
        yield from _untouched(checkpoint, settled, seed, next_row, int(numbers_B[0]), size)
        start, stop = int(numbers_B[0]), int(numbers_B[-1]) + 1
        if stop > classes or arrays["weight"].shape != (len(numbers_B), size):
            raise ValueError(f"{checkpoint.directory} holds other rows than {classes} centers of {size} numbers")
        if stop - start != len(numbers_B):
            ((_, filled),) = _untouched(checkpoint, settled, seed, start, stop, size, stop - start)
            for name, values in arrays.items():
                filled[name][numbers_B - start] = values
            arrays = filled
        yield RowBlock(np.arange(start, stop), arrays)
        next_row = stop
    yield from _untouched(checkpoint, settled, seed, next_row, classes, size)


def _untouched(
    checkpoint: SavedCheckpoint,
    settled: SettledRows,
    seed: int | None,
    start: int,
    stop: int,
    size: int,
    step: int = BLOCK_ROWS,
) -> Iterator[RowBlock]:
    for first in range(start, stop, step):
        if type(seed) is not int:
            raise ValueError(f"{checkpoint.directory} has rows that were never touched, and does not say their seed")
        numbers_B = np.arange(first, min(first + step, stop))
        yield settled.untouched(numbers_B, initial_rows(seed, numbers_B, size))


def merge(checkpoint: SavedCheckpoint, output: Path, with_momentum: bool = False) -> int:
    """Writes all class centers into one file: ``weight`` (C, D) float32, and ``momentum`` where wanted; returns C."""
    classes, size = classes_of(checkpoint)
    names = ("weight", "momentum") if with_momentum else ("weight",)
    with new_file(output) as file:
        writer = ParamsWriter(file, len(names))
        for name in names:
            writer.begin(name, (classes, size), np.dtype(np.float32))
            for block in dense_blocks(checkpoint):
                file.write(memoryview(block.arrays[name]).cast("B"))
        writer.end()
    return classes


def split(checkpoint: SavedCheckpoint, output: Path, ranks: int) -> Path:
    """Writes the checkpoint again as one of another number of ranks.

    Raises:
        ValueError: ``output`` is there already, or the ranks are more than the identities.
    """
    manifest = checkpoint.manifest
    with new_directory(output) as partial:
        files: dict[str, Facts] = {}
        spans: dict[str, tuple[int, int]] = {}
        of_ranks = {rank_file(part, rank, manifest.ranks) for part in manifest.values for rank in range(manifest.ranks)}
        for name in manifest.all_files.keys() - of_ranks:
            shutil.copyfile(checkpoint.path_of(name), partial / name)
            files[name] = facts_of(partial / name)
        for part in manifest.values:
            mean, rows = _mean_own(checkpoint, part), row_count(checkpoint, part)
            if mean is None:
                continue
            partition = ClassPartition(rows, ranks) if rows else None
            for rank in range(ranks):
                name = rank_file(part, rank, ranks)
                span = (partition.start(rank), partition.start(rank + 1)) if partition else (0, 0)
                files[name] = write_rank_file(partial / name, partial_rows(checkpoint, part, span), mean)
                if partition:
                    spans[name] = span
        values = {part: _spread(of_ranks, ranks) for part, of_ranks in manifest.values.items()}
        replace(manifest, ranks=ranks, values=values, files=files, elsewhere={}, spans=spans).write(partial)
    return output


def row_count(checkpoint: SavedCheckpoint, part: str) -> int:
    """One more than the largest row number that a part can have; 0 where it has no rows."""
    manifest = checkpoint.manifest
    names = (rank_file(part, rank, manifest.ranks) for rank in range(manifest.ranks))
    return max((manifest.spans[name][1] for name in names if name in manifest.spans), default=0)


def partial_rows(checkpoint: SavedCheckpoint, part: str, span: tuple[int, int]) -> Callable[[], Iterator[RowBlock]]:
    """What gives the rows of a span, again at each call."""
    return lambda: checkpoint.part(part).rows(*span)


def _mean_own(checkpoint: SavedCheckpoint, part: str) -> dict[str, np.ndarray] | None:
    """The mean over ranks of a part's own arrays, with which every new rank begins: BatchNorm's statistics.

    None where the ranks have no file of the part.
    """
    manifest = checkpoint.manifest
    if rank_file(part, 0, manifest.ranks) not in manifest.all_files:
        return None
    of_ranks = [checkpoint.part(part).own(rank) for rank in range(manifest.ranks)]
    return {
        name: np.mean([own[name] for own in of_ranks], axis=0, dtype=np.float64).astype(array.dtype)
        for name, array in of_ranks[0].items()
    }


def _spread(of_ranks: list[dict[str, Any]], ranks: int) -> list[dict[str, Any]]:
    """Rank 0's values for every new rank; a count of replaced images is rank 0's alone, so that it is counted once."""
    values = dict(of_ranks[0])
    if "replaced" not in values:
        return [values] * ranks
    values["replaced"] = sum(value["replaced"] for value in of_ranks)
    return [values, *([values | {"replaced": 0}] * (ranks - 1))]


def write_rank_file(path: Path, blocks: Callable[[], Iterator[RowBlock]], own: dict[str, np.ndarray]) -> Facts:
    """Writes a rank's file of a part: its own arrays, and the rows that ``blocks()`` gives, twice the same."""
    count = len(own) + sum(len(block.arrays) + 1 for block in blocks())
    with SummedFile(path) as file:
        writer = ParamsWriter(file, count)
        for name, array in own.items():
            writer.add(name, array)
        for number, (numbers_B, arrays) in enumerate(blocks()):
            writer.add(f"{ROW_NUMBERS}:{number}", numbers_B)
            for name, values in arrays.items():
                writer.add(f"{name}:{number}", values)
        writer.end()
    return file.facts


def export(checkpoint: SavedCheckpoint, prefix: str, epoch: int = 0) -> tuple[Path, Path]:
    """Copies the backbone: ``PREFIX-symbol.json`` and ``PREFIX-0000.params``."""
    targets = Path(f"{prefix}-symbol.json"), Path(f"{prefix}-{epoch:04d}.params")
    targets[0].parent.mkdir(parents=True, exist_ok=True)
    for name, target in zip((NETWORK_FILE, PARAMETERS_FILE), targets, strict=True):
        source = checkpoint.path_of(name)
        if facts_of(source) != checkpoint.manifest.all_files[name]:
            raise ValueError(f"{source} is damaged: its content does not match its checksum")
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    return targets
