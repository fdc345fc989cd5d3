"""What one rank writes of a checkpoint, from copies that it takes when the save starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mxnet as mx

from partial_fc.checkpoint.files import Facts, SummedFile, is_plain_name, write_text
from partial_fc.checkpoint.snapshot import CopyBudget, TableSnapshot
from partial_fc.checkpoint.state import Arrays, PartState
from partial_fc.params_file import ParamsWriter

ROW_NUMBERS = "rows"


def rank_file(part: str, rank: int, ranks: int) -> str:
    """The file with what one rank alone holds of a part: its rows, as ``{array}:{block}``, and its own arrays."""
    return f"{part}-{rank}-of-{ranks}.params"


class RankFiles:
    """The files of one rank, of the parts' states as they are now.

    Args:
        states: part → state.
        writes_shared: whether this rank writes what is equal on all.
        budget: for the copies of rows.
    """

    def __init__(
        self, states: Mapping[str, PartState], *, rank: int, ranks: int, writes_shared: bool, budget: CopyBudget
    ) -> None:
        self._rank, self._ranks = rank, ranks
        self._shared: dict[str, Arrays | str] = {}
        self._own: dict[str, tuple[Arrays, list[TableSnapshot]]] = {}
        for part, state in states.items():
            if writes_shared:
                for name, content in state.files.items():
                    assert is_plain_name(name) and name not in self._shared, name
                    self._shared[name] = content if isinstance(content, str) else _copied(content)
            if state.own or state.rows:
                assert not any(":" in name for name in state.own), list(state.own)
                self._own[part] = (_copied(state.own), [TableSnapshot(table, budget) for table in state.rows])

    def write(self, directory: Path) -> dict[str, Facts]:
        """Writes all files; on the thread that writes. Raises OSError where the disk is full."""
        written = {}
        for name, content in self._shared.items():
            if isinstance(content, str):
                written[name] = write_text(directory / name, content)
            else:
                written[name] = _write_arrays(directory / name, content)
        for part, (arrays, tables) in self._own.items():
            name = rank_file(part, self._rank, self._ranks)
            written[name] = _write_own(directory / name, arrays, tables)
        return written

    def spans(self) -> dict[str, tuple[int, int]]:
        """File → the global numbers of its rows, from the first one to one past the last."""
        return {
            rank_file(part, self._rank, self._ranks): (tables[0].first, tables[-1].stop)
            for part, (_, tables) in self._own.items()
            if tables
        }

    def end(self) -> None:
        """Lets the parts change their rows without a word."""
        for _, tables in self._own.values():
            for table in tables:
                table.end()


def _write_arrays(path: Path, arrays: Arrays) -> Facts:
    with SummedFile(path) as file:
        writer = ParamsWriter(file, len(arrays))
        for name, array in arrays.items():
            writer.add(name, array.asnumpy())
        writer.end()
    return file.facts


def _write_own(path: Path, arrays: Arrays, tables: list[TableSnapshot]) -> Facts:
    per_block = [len(table.array_names) + 1 for table in tables]
    count = len(arrays) + sum(t.count_blocks() * n for t, n in zip(tables, per_block, strict=True))
    with SummedFile(path) as file:
        writer = ParamsWriter(file, count)
        for name, array in arrays.items():
            writer.add(name, array.asnumpy())
        number = 0
        for table in tables:
            for block in table.blocks():
                writer.add(f"{ROW_NUMBERS}:{number}", block.numbers_B)
                for name, values in block.arrays.items():
                    writer.add(f"{name}:{number}", values)
                number += 1
        writer.end()
    return file.facts


def _copied(arrays: Arrays) -> Arrays:
    return {name: array.copyto(mx.cpu()) for name, array in arrays.items()}

