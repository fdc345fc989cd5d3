"""A save is of one update, whatever training changes meanwhile, in bounded memory."""

from __future__ import annotations

import threading

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.checkpoint.snapshot import CopyBudget, TableSnapshot
from partial_fc.checkpoint.state import RowTable


class Watched:
    """A table of D = 3 whose owner tells of changes, each of which counts a row up."""

    def __init__(self, rows: int, exists: np.ndarray | None = None, first: int = 5) -> None:
        weight = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
        self.weight = mx.nd.array(weight)
        self.half = mx.nd.array(weight % 7, dtype="float16")
        self.before_change = None
        arrays = {"weight": self.weight, "half": self.half}
        self.changes = np.zeros(rows, np.int32)
        watch, small = lambda function: setattr(self, "before_change", function), {"changes": self.changes}
        self.table = RowTable(first, arrays, exists, watch, small)

    def expected(self) -> dict[str, np.ndarray]:
        exists = self.table.exists_R if self.table.exists_R is not None else np.ones(len(self.table), bool)
        arrays = {"weight": self.weight.asnumpy()[exists], "half": self.half.asnumpy()[exists]}
        arrays["changes"] = self.changes[exists]
        return arrays | {"numbers": np.flatnonzero(exists) + self.table.first}

    def change(self, rows: slice | np.ndarray) -> None:
        if self.before_change is not None:
            self.before_change(rows)
        self.changes[rows] += 1
        if isinstance(rows, slice):
            self.weight[rows] = self.weight[rows] + 1000
            self.half[rows] = self.half[rows] + 1
            return
        index = mx.nd.array(rows, dtype="int64")
        for array, step in ((self.weight, 1000), (self.half, 1)):
            mx.nd.contrib.index_copy(array, index, mx.nd.take(array, index) + step, out=array)


def read(snapshot: TableSnapshot) -> dict[str, np.ndarray]:
    blocks = list(snapshot.blocks())
    assert len(blocks) == snapshot.count_blocks()
    arrays = {name: np.concatenate([block.arrays[name] for block in blocks]) for name in snapshot.array_names}
    return arrays | {"numbers": np.concatenate([block.numbers_B for block in blocks])}


def check_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, np.ndarray | None, int, list[slice | np.ndarray]]:
    rows = draw(st.integers(1, 40))
    exists = draw(st.none() | st.lists(st.booleans(), min_size=rows, max_size=rows).filter(any))
    pairs = st.tuples(st.integers(0, rows - 1), st.integers(1, rows))
    slices = pairs.map(lambda pair: slice(pair[0], min(rows, sum(pair))))
    lists = st.sets(st.integers(0, rows - 1), min_size=1).map(lambda s: np.array(sorted(s), np.int64))
    changes = draw(st.lists(slices | lists, max_size=12))
    return rows, None if exists is None else np.array(exists), draw(st.integers(1, 9)), changes


@settings(deadline=None, max_examples=60)
@given(case=cases(), read_at=st.integers(0, 12))
def test_what_is_read_is_what_there_was_when_it_began(case, read_at: int) -> None:
    rows, exists, block_rows, changes = case
    watched = Watched(rows, exists)
    expected = watched.expected()
    budget = CopyBudget(1 << 20)
    snapshot = TableSnapshot(watched.table, budget, block_rows)
    blocks = snapshot.blocks()
    parts = []
    for number, rows_changed in enumerate(changes):
        if number >= read_at:
            parts += [block for block in [next(blocks, None)] if block is not None]  # written beside the changes
        watched.change(rows_changed)
    parts += list(blocks)
    found = {name: np.concatenate([block.arrays[name] for block in parts]) for name in snapshot.array_names}
    check_equal(found | {"numbers": np.concatenate([block.numbers_B for block in parts])}, expected)
    assert len(parts) == snapshot.count_blocks()
    assert not any(slab.copies for slab in budget.memory._slabs), "what was copied is given back"
    snapshot.end()
    assert watched.before_change is None


def test_what_nobody_watches_is_copied_at_once() -> None:
    array = mx.nd.arange(12).reshape((4, 3))
    budget = CopyBudget(1)
    snapshot = TableSnapshot(RowTable(0, {"weight": array, "half": array.astype("float16")}), budget, 3)
    before = array.asnumpy()
    array[:] = -1
    check_equal(read(snapshot), {"weight": before, "half": before.astype("float16"), "numbers": np.arange(4)})


@pytest.mark.parametrize("limit", [1, 100, 1000])
def test_past_the_bound_training_waits_and_the_memory_stays_below_it(limit: int) -> None:
    watched = Watched(101)
    expected = watched.expected()
    budget = CopyBudget(limit)
    snapshot = TableSnapshot(watched.table, budget, 7)
    largest = 2 * 128  # of one change below, two arrays of 7 rows each begun at a multiple of 64: it may be alone
    found = {}
    started, writing = threading.Event(), threading.Event()

    def write() -> None:
        started.wait(60)
        found.update(read(snapshot))
        writing.set()

    thread = threading.Thread(target=write)
    thread.start()
    rng = np.random.default_rng(0)
    for number in range(60):
        if number == 3:
            started.set()
        rows = np.sort(rng.choice(101, 7, replace=False))
        if 0 < number < 3:
            continue  # it could wait for a writer that has not begun
        watched.change(rows)
    thread.join(20)
    assert writing.is_set(), "neither waits for the other for ever"
    check_equal(found, expected)
    assert budget.memory.bytes <= max(limit, largest)


def test_a_save_that_failed_holds_nobody_up() -> None:
    watched = Watched(20)
    budget = CopyBudget(1)
    TableSnapshot(watched.table, budget, 5)
    watched.change(slice(0, 5))
    budget.give_up()
    watched.change(slice(5, 10))  # would wait for ever
    assert budget.waits == 0


def test_rows_that_do_not_exist_yet_are_neither_saved_nor_copied() -> None:
    exists = np.zeros(30, bool)
    exists[[2, 29]] = True
    watched = Watched(30, exists)
    budget = CopyBudget(1 << 20)
    snapshot = TableSnapshot(watched.table, budget, 4)
    exists[:] = True  # training goes on to touch them
    watched.change(slice(3, 28))
    assert budget.memory.bytes == 0
    assert read(snapshot)["numbers"].tolist() == [7, 34]
