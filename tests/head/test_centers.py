from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from partial_fc.head import centers as centers_module
from partial_fc.head.centers import CenterBlock, ClassCenters
from partial_fc.head.initialization import initial_rows
from partial_fc.head.kernels import BlockKernels, UpdateRule

FIRST_CLASS, COUNT, SIZE, SEED = 100, 23, 5, 3


def make_centers(block_rows: int = 4) -> ClassCenters:
    return ClassCenters(FIRST_CLASS, COUNT, SIZE, SEED, mx.cpu(), block_rows)


@pytest.fixture(params=[2**28, 8 * SIZE, SIZE], ids=["one store", "stores of 8 rows", "stores of 1 row"])
def stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not fit one array of MXNet, at a size that fits a test."""
    monkeypatch.setattr(centers_module, "_LARGEST_STORE_ELEMENTS", request.param)


def held(centers: ClassCenters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows, their momentum and inverse norms as they are stored."""
    parts = [(s.weight_RD.asnumpy(), s.momentum_RD.asnumpy(), s.inverse_norm_R.asnumpy()) for s in centers.stores]
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
def test_centers_start_as_their_class_numbers_say() -> None:
    weight, momentum, inverse_norm = held(make_centers())
    np.testing.assert_array_equal(weight, initial_rows(SEED, np.arange(COUNT) + FIRST_CLASS, SIZE))
    np.testing.assert_array_equal(momentum, 0)
    np.testing.assert_allclose(inverse_norm, 1 / np.linalg.norm(weight.astype(np.float64), axis=1), rtol=1e-6)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_initial_rows_are_the_same_however_many_ranks_share_them(parts: int) -> None:
    bounds = np.linspace(0, COUNT, parts + 1).astype(int)
    weights = [
        held(ClassCenters(FIRST_CLASS + int(start), int(stop - start), SIZE, SEED, mx.cpu(), 4))[0]
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(weights), held(make_centers())[0])


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("block_rows", [1, 4, 100])
def test_blocks_hold_the_rows_asked_for_in_order(rows: np.ndarray, block_rows: int) -> None:
    centers = make_centers(block_rows)
    weight, _, inverse_norm = held(centers)
    blocks = centers.blocks(rows)
    assert [block.column for block in blocks] == np.cumsum([0] + [len(block) for block in blocks[:-1]]).tolist()
    assert all(1 <= len(block) <= block_rows for block in blocks)
    np.testing.assert_array_equal(np.concatenate([b.weight_BD.asnumpy() for b in blocks]), weight[rows])
    np.testing.assert_array_equal(np.concatenate([b.inverse_norm_B.asnumpy() for b in blocks]), inverse_norm[rows])


def update_by_number(centers: ClassCenters, block: CenterBlock, numbers: np.ndarray, kernels: BlockKernels) -> None:
    """Takes the numbers off the block's rows, each from its own row, with the rule's other parts at rest."""
    gradient_BD = mx.nd.array(np.repeat(numbers[:, None], SIZE, axis=1))
    rule = UpdateRule(gradient_factor=-1.0, projection_factor=0.0, decay=0.0, momentum=0.5)
    centers.update(block, gradient_BD, mx.nd.zeros((len(block),)), rule, kernels)


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("block_rows", [1, 4, 100])
def test_an_update_changes_the_rows_of_the_step_and_no_other(
    kernels: BlockKernels, rows: np.ndarray, block_rows: int
) -> None:
    centers = make_centers(block_rows)
    before = held(centers)
    change = np.arange(1, len(rows) + 1, dtype=np.float32)
    for _ in range(2):
        for block in centers.blocks(rows):
            update_by_number(centers, block, change[block.column : block.column + len(block)], kernels)
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
    arguments = {"embedding_size": SIZE, "block_rows": 4, **sizes}
    with pytest.raises(ValueError, match=message):
        ClassCenters(0, COUNT, seed=0, context=mx.cpu(), **arguments)
