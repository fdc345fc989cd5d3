"""What a part of a run says of itself when it is saved, and is told when it is resumed.

Legend: R rows of a table, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import mxnet as mx
import numpy as np

BeforeChange = Callable[[slice | np.ndarray], None]
Arrays = Mapping[str, mx.nd.NDArray]


@dataclass
class RowTable:
    """Rows that this rank holds, by global number: row i of each array is row ``first + i`` of all ranks' together.

    Attributes:
        first: global number of row 0.
        arrays: name → (R, …).
        small: name → (R,), on the host: a number a row, of which a save copies all when it starts.
        exists_R: (R,) bool, which rows have a value; the others are not saved. None: all.
        watch: None: the arrays are copied when a save starts. Else it is called with a function when a save starts and
            with None when that has ended. Between, whoever changes rows calls the function with their numbers in the
            table (a slice, or distinct int64) before the operation that changes them is pushed, on the thread that
            trains: rows that are not on the disk yet are copied then; at the bound of memory it waits.
    """

    first: int
    arrays: Arrays
    exists_R: np.ndarray | None = None
    watch: Callable[[BeforeChange | None], None] | None = None
    small: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return next(iter(self.arrays.values())).shape[0]


@dataclass
class PartState:
    """The state of one part on this rank at one update.

    Attributes:
        values: JSON values, small; every rank's are kept.
        files: file name → named arrays (``….params``) or text; equal on all ranks, and written once a directory.
        own: arrays of this rank alone, small.
        rows: what is divided among ranks by row number, the tables ascending.
    """

    values: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Arrays | str] = field(default_factory=dict)
    own: Arrays = field(default_factory=dict)
    rows: list[RowTable] = field(default_factory=list)


class RowBlock(NamedTuple):
    """Rows as they were saved: their global numbers, ascending, (B,) int64, and name → (B, …)."""

    numbers_B: np.ndarray
    arrays: dict[str, np.ndarray]


class SavedPart(Protocol):
    """A part as a checkpoint holds it, seen from one rank of a run that may have another number of them.

    Every method raises ValueError or OSError, with the file's name, where something is missing or not as it should be.
    """

    @property
    def ranks(self) -> int:
        """How many ranks saved it."""
        ...

    @property
    def same_ranks(self) -> bool:
        """Whether this run has as many."""
        ...

    @property
    def values(self) -> dict[str, Any]:
        """This rank's values when ``same_ranks``, else rank 0's."""
        ...

    @property
    def all_values(self) -> list[dict[str, Any]]:
        """Every rank's values."""
        ...

    def arrays(self, file: str) -> dict[str, np.ndarray]:
        """The arrays of a file of ``PartState.files``."""
        ...

    def text(self, file: str) -> str:
        """The text of a file of ``PartState.files``."""
        ...

    def own(self, rank: int | None = None) -> dict[str, np.ndarray]:
        """The arrays of the rank of that number, or of this one when ``same_ranks``."""
        ...

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[RowBlock]:
        """The saved rows with numbers in [start, stop), ascending, one block in memory at a time."""
        ...


class Part(Protocol):
    """A part of a run that has state."""

    def state(self) -> PartState:
        """The state now, without waiting for it: arrays are copied, in the engine's order, before they change again.

        Every rank calls it in the same step, the parts in the same order.
        """
        ...

    def restore(self, saved: SavedPart) -> None:
        """Takes a saved state; no collectives. Raises ValueError when it does not fit this run."""
        ...
