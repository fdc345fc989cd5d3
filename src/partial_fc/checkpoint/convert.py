"""The original project's ``{rank}_centers.param`` and ``{rank}_centers_mom.param`` as a checkpoint.

They were written by ``mx.nd.save``, a matrix (rows, D) a file. Rows pass through memory block by block.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from partial_fc.checkpoint.directory import new_directory
from partial_fc.checkpoint.files import Facts, facts_of
from partial_fc.checkpoint.manifest import Manifest
from partial_fc.checkpoint.rank_files import rank_file
from partial_fc.checkpoint.run_parts import NETWORK_FILE, PARAMETERS_FILE
from partial_fc.checkpoint.state import RowBlock
from partial_fc.checkpoint.tools import BLOCK_ROWS, CENTERS, write_rank_file
from partial_fc.head.stored_rows import inverse_norms
from partial_fc.params_file import ParamsFile, model_files


def convert(directory: Path, output: Path, *, classes: int, update: int = 0, model: str | None = None) -> Path:
    """Makes a checkpoint of the original project's ``{rank}_centers.param`` and ``{rank}_centers_mom.param``.

    Its R ranks hold ceil(C/R) rows each; those past C belong to no identity and are dropped.

    Args:
        classes: C, which the files do not say.
        model: ``PREFIX,EPOCH`` of its backbone, which then is a part of the checkpoint.

    Raises:
        ValueError: a file is missing or does not fit the others.
    """
    weights = _original_files(directory)
    ranks, rows, size = len(weights), 0, 0
    with ParamsFile(weights[0]) as file:
        rows, size = _only_array(file)
    if rows != -(-classes // ranks):
        raise ValueError(
            f"{weights[0]} holds {rows} rows, but {ranks} ranks of the original project hold ceil({classes}/{ranks}) = "
            f"{-(-classes // ranks)} each: give the number of identities that it was trained with (--num-classes)"
        )
    with new_directory(output) as made:
        files: dict[str, Facts] = {}
        spans: dict[str, tuple[int, int]] = {}
        for rank, weight in enumerate(weights):
            name, first = rank_file(CENTERS, rank, ranks), min(rank * rows, classes)
            stop = min(first + rows, classes)
            momentum = weight.with_name(f"{rank}_centers_mom.param")
            for path in (weight, momentum):
                with ParamsFile(path) as file:
                    if (shape := _only_array(file)) != (rows, size):
                        raise ValueError(f"{path} holds {shape} numbers, but those before it hold {(rows, size)}")
            files[name] = write_rank_file(made / name, partial(_original_rows, weight, momentum, first, stop), {})
            spans[name] = (first, stop)
        values: dict[str, Any] = {CENTERS: [{"classes": classes, "embedding_size": size}] * ranks}
        if model is not None:
            for source, name in zip(model_files(model), (NETWORK_FILE, PARAMETERS_FILE), strict=True):
                shutil.copyfile(source, made / name)
                files[name] = facts_of(made / name)
        description = {"num_classes": classes, "embedding_size": size, "converted_from": str(directory)}
        Manifest(update, ranks, "converted", values, description, files, {}, spans).write(made)
    return output


def _original_files(directory: Path) -> list[Path]:
    found = {path.name: path for path in directory.glob("*_centers.param")}
    if not found:
        raise ValueError(f"{directory} holds no {{rank}}_centers.param")
    files = [found.pop(f"{rank}_centers.param", None) for rank in range(len(found))]
    if None in files or found:
        missing = f"{files.index(None)}_centers.param" if None in files else "a number"
        raise ValueError(f"{directory} does not hold the centers of all ranks: {missing} is missing")
    return [file for file in files if file is not None]


def _only_array(file: ParamsFile) -> tuple[int, int]:
    names = file.names()
    if len(names) != 1 or len(file.shape(names[0])) != 2:
        raise ValueError(f"{file.path} does not hold one matrix")
    return file.shape(names[0])


def _original_rows(weight: Path, momentum: Path, first: int, stop: int) -> Iterator[RowBlock]:
    with ParamsFile(weight) as weights, ParamsFile(momentum) as momenta:
        for start in range(first, stop, BLOCK_ROWS):
            end = min(start + BLOCK_ROWS, stop)
            arrays = {
                name: file.read_rows(file.names()[0], start - first, end - first).astype(np.float32, copy=False)
                for name, file in (("weight", weights), ("momentum", momenta))
            }
            yield RowBlock(np.arange(start, end), arrays | {"inverse_norm": inverse_norms(arrays["weight"])})
