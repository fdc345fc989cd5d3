from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from partial_fc.center_storage import Storage
from partial_fc.head import row_store
from partial_fc.head.centers import ClassCenters
from partial_fc.head.initialization import initial_rows
from partial_fc.head.kernels import RowKernels, UpdateRule
from partial_fc.head.kernels.select import select_kernels

FIRST_CLASS, COUNT, SIZE, SEED = 100, 23, 5, 3


def make_centers(kernels: RowKernels, storage: Storage | None = None, block_rows: int = 4) -> ClassCenters:
    return ClassCenters(
        FIRST_CLASS,
        COUNT,
        SIZE,
        seed=SEED,
        context=mx.cpu(),
        storage=storage if storage is not None else Storage(),
        kernels=kernels,
        block_rows=block_rows,
    )


@pytest.fixture(params=[2**28, 8 * SIZE], ids=["one store", "stores of 8 rows"])
def stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not fit one array of MXNet, at a size that fits a test."""
    monkeypatch.setattr(row_store, "LARGEST_STORE_ELEMENTS", request.param)


@pytest.fixture(params=["device", "host", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A tier that keeps every bit."""
    return Storage(request.param, directory=tmp_path)


def held(centers: ClassCenters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows, their momentum and inverse norms as they are stored."""
    parts = [
        (store.weight_RD.asnumpy(), store.momentum_RD.asnumpy(), store.inverse_norm_R.asnumpy())
        for store in centers.stores
    ]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


ROWS = {
    "all": np.arange(COUNT),
    "one": np.array([11]),
    "the ends": np.array([0, COUNT - 1]),
    "contiguous": np.arange(5, 14),
    "scattered": np.array([0, 2, 3, 7, 8, 9, 10, 11, 12, 16, 21, 22]),
}


@pytest.fixture(params=ROWS.values(), ids=ROWS.keys())
def rows(request: pytest.FixtureRequest) -> np.ndarray:
    return request.param.astype(np.int64)


@pytest.mark.usefixtures("stores")
def test_centers_start_as_their_class_numbers_say(row_kernels: RowKernels, storage: Storage) -> None:
    centers = make_centers(row_kernels, storage)
    centers.initialize_all()
    weight, momentum, inverse_norm = held(centers)
    np.testing.assert_array_equal(weight, initial_rows(SEED, np.arange(COUNT) + FIRST_CLASS, SIZE))
    np.testing.assert_array_equal(momentum, 0)
    np.testing.assert_allclose(inverse_norm, 1 / np.linalg.norm(weight.astype(np.float64), axis=1), rtol=1e-6)


@pytest.mark.usefixtures("stores")
def test_a_row_gets_its_initial_value_when_it_is_first_touched_and_never_again(
    row_kernels: RowKernels, rows: np.ndarray
) -> None:
    centers = make_centers(row_kernels)
    centers.blocks(rows)
    weight = held(centers)[0]
    np.testing.assert_array_equal(weight[rows], initial_rows(SEED, rows + FIRST_CLASS, SIZE))
    np.testing.assert_array_equal(np.delete(weight, rows, axis=0), 0)
    for store in centers.stores:
        store.weight_RD[:] = 3.0
    centers.blocks(rows)
    centers.initialize_all()
    weight = held(centers)[0]
    np.testing.assert_array_equal(weight[rows], 3.0)
    others = np.setdiff1d(np.arange(COUNT), rows)
    np.testing.assert_array_equal(weight[others], initial_rows(SEED, others + FIRST_CLASS, SIZE))


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("block_rows", [4, 100])
def test_blocks_hold_the_rows_asked_for_in_order(
    row_kernels: RowKernels, storage: Storage, rows: np.ndarray, block_rows: int
) -> None:
    centers = make_centers(row_kernels, storage, block_rows)
    blocks = centers.blocks(rows)
    assert [block.first for block in blocks] == np.cumsum([0] + [block.size for block in blocks[:-1]]).tolist()
    assert all(1 <= block.size <= block_rows for block in blocks)
    expected = initial_rows(SEED, rows + FIRST_CLASS, SIZE)
    # All ahead, each in a slot of its own, or one after the other in the same.
    ahead = [centers.load(block, slot) for slot, block in enumerate(blocks)]
    one_by_one = (centers.load(block, 0) for block in blocks)
    for loaded_blocks in (ahead, one_by_one):
        for block, loaded in zip(blocks, loaded_blocks, strict=True):
            part = expected[block.first : block.first + block.size]
            np.testing.assert_array_equal(loaded.weight_BD.asnumpy(), part)
            norms = np.linalg.norm(part.astype(np.float64), axis=1)
            np.testing.assert_allclose(loaded.inverse_norm_B.asnumpy(), 1 / norms, rtol=1e-6)


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("block_rows", [4, 100])
def test_an_update_changes_the_rows_of_the_step_and_no_other(
    row_kernels: RowKernels, storage: Storage, rows: np.ndarray, block_rows: int
) -> None:
    centers = make_centers(row_kernels, storage, block_rows)
    centers.initialize_all()
    before = held(centers)
    change = np.arange(1, len(rows) + 1, dtype=np.float32)
    rule = UpdateRule(gradient_factor=-1.0, projection_factor=0.0, decay=0.0, momentum=0.5)
    for _ in range(2):
        for block in centers.blocks(rows):
            own = change[block.first : block.first + block.size]
            gradient_BD = mx.nd.array(np.repeat(own[:, None], SIZE, axis=1))
            loaded = centers.load(block, 0)
            centers.update(block, loaded, gradient_BD, mx.nd.array(np.zeros(block.size)), rule)
    after = held(centers)

    others = np.setdiff1d(np.arange(COUNT), rows)
    for old, new in zip(before, after, strict=True):
        assert old[others].tobytes() == new[others].tobytes()
    # Momentum 0.5: the second step changes a row by 1.5 times its number.
    np.testing.assert_allclose(after[1][rows], np.repeat(-1.5 * change[:, None], SIZE, axis=1), rtol=1e-6)
    np.testing.assert_allclose(after[0][rows], before[0][rows] - 2.5 * change[:, None], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(after[2][rows], 1 / np.linalg.norm(after[0][rows], axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"embedding_size": 0}, "embedding size must be at least 1, but is 0"),
        ({"block_rows": 0}, "at least 1 row, but block_rows is 0"),
    ],
)
def test_a_size_below_1_is_refused(sizes: dict[str, int], message: str) -> None:
    kernels = select_kernels("auto", mx.cpu(), mx.cpu())[1]
    arguments = {"embedding_size": SIZE, "block_rows": 4, **sizes}
    with pytest.raises(ValueError, match=message):
        ClassCenters(0, COUNT, seed=0, context=mx.cpu(), storage=Storage(), kernels=kernels, **arguments)
