"""Both forms of the kernels, NDArray operations and C, against float64."""

from __future__ import annotations

from dataclasses import dataclass

import mxnet as mx
import numpy as np
import pytest

from partial_fc.collectives import SingleProcess
from partial_fc.head.initialization import initial_rows
from partial_fc.head.kernels import (
    BlockTargets,
    LogitKernels,
    RowKernels,
    SoftmaxState,
    TargetColumns,
    UpdateRule,
)
from partial_fc.head.kernels.ndarray import inverse_norms
from partial_fc.head.margin import Margin
from partial_fc.head.row_store import RowStore
from partial_fc.head.softmax import merge_softmax
from partial_fc.testing import relative_error

ARCFACE, NO_MARGIN = Margin(m2=0.5), Margin()
NOT_HERE = -1

# Of fp32 sums and exponentials, each a few units in the last place.
TOLERANCE = 1e-5


@dataclass
class Softmax:
    """What the kernels and the merge make of logits: the gradients by Z and by the norms of the centers."""

    loss: float
    lse_N: np.ndarray
    gradient_NS: np.ndarray
    projection_S: np.ndarray


def unset(*shape: int) -> mx.nd.NDArray:
    """An array that somebody else is to fill."""
    return mx.nd.array(np.full(shape, np.nan))


def softmax_in_blocks(
    kernels: LogitKernels,
    product_NS: np.ndarray,
    inverse_norm_S: np.ndarray,
    column_N: np.ndarray,
    *,
    widths: tuple[int, ...],
    margin: Margin,
    scale: float,
    raw: bool = False,
) -> Softmax:
    """Takes logits ``product·inverse_norm`` through forward, merge and backward, in blocks of the widths.

    With ``raw`` the backward pass gets the products again, as where logits are computed twice.
    """
    assert sum(widths) == product_NS.shape[1]
    samples, columns = len(product_NS), TargetColumns.on(mx.cpu(), column_N)
    state = SoftmaxState(*(unset(samples) for _ in range(3)))
    kernels.start(state)
    blocks = []
    for stop, width in zip(np.cumsum(widths).tolist(), widths, strict=True):
        part = slice(stop - width, stop)
        product_NB, inverse_norm_B = mx.nd.array(product_NS[:, part]), mx.nd.array(inverse_norm_S[part])
        targets = BlockTargets(columns, part.start, width)
        logits_NB = mx.nd.array(product_NS[:, part])
        kernels.forward(logits_NB, inverse_norm_B, targets, state)
        blocks.append((product_NB if raw else logits_NB, inverse_norm_B, targets))
    softmax = merge_softmax(
        state.max_N.asnumpy(), state.sum_N.asnumpy(), state.target_logit_N.asnumpy(), column_N != NOT_HERE,
        margin=margin, scale=scale, collectives=SingleProcess(),
    )  # fmt: skip
    excess_N = mx.nd.array(softmax.lse_N - state.max_N.asnumpy(), dtype="float32")
    target_gradient_N = mx.nd.array(softmax.target_gradient_N, dtype="float32")
    gradients, projections = [], []
    for logits_NB, inverse_norm_B, targets in blocks:
        projection_B = unset(len(inverse_norm_B))
        kernels.backward(logits_NB, inverse_norm_B, targets, state, excess_N, target_gradient_N, projection_B, raw)
        gradients.append(logits_NB.asnumpy())
        projections.append(projection_B.asnumpy())
    return Softmax(softmax.loss, softmax.lse_N, np.hstack(gradients), np.concatenate(projections))


def naive_softmax(
    product_NS: np.ndarray, inverse_norm_S: np.ndarray, column_N: np.ndarray, *, margin: Margin, scale: float
) -> Softmax:
    """The same in float64, of the same fp32 logits, one entry at a time."""
    logits_NS = (product_NS * inverse_norm_S).astype(np.float64)
    z_NS, slope_N = logits_NS.copy(), np.ones(len(logits_NS))
    owned = [(n, column) for n, column in enumerate(column_N) if column != NOT_HERE]
    for n, column in owned:
        value, slope_N[n : n + 1] = margin(logits_NS[n, column : column + 1] / scale)
        z_NS[n, column] = scale * value[0]
    lse_N = np.logaddexp.reduce(z_NS, axis=1)
    target_N = np.zeros(len(z_NS))
    by_z_NS = np.exp(z_NS - lse_N[:, None])
    for n, column in owned:
        target_N[n] = z_NS[n, column]
        by_z_NS[n, column] = (by_z_NS[n, column] - 1) * slope_N[n]
    return Softmax(float(np.mean(lse_N - target_N)), lse_N, by_z_NS * inverse_norm_S, (by_z_NS * logits_NS).sum(axis=0))


def assert_same(actual: Softmax, expected: Softmax, tolerance: float = TOLERANCE) -> None:
    assert relative_error(actual.loss, expected.loss) < tolerance
    np.testing.assert_allclose(actual.lse_N, expected.lse_N, rtol=tolerance)
    assert relative_error(actual.gradient_NS, expected.gradient_NS) < tolerance
    assert relative_error(actual.projection_S, expected.projection_S) < tolerance


def random_logits(samples: int, classes: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products s·cos·|w|, the inverses 1/|w|, and targets of which some lie on another rank."""
    rng = np.random.default_rng(seed)
    inverse_norm_S = rng.uniform(0.5, 20, size=classes).astype(np.float32)
    cosine_NS = rng.uniform(-0.95, 0.95, size=(samples, classes))
    column_N = rng.integers(NOT_HERE, classes, size=samples)
    return (scale * cosine_NS / inverse_norm_S).astype(np.float32), inverse_norm_S, column_N


@pytest.mark.parametrize("margin", [NO_MARGIN, ARCFACE, Margin(m3=0.4), Margin(2.0, 0.5, 0.35)])
@pytest.mark.parametrize("widths", [(23,), (7, 1, 15), (1,) * 23])
@pytest.mark.parametrize("scale", [3.0, 64.0, 300.0])
@pytest.mark.parametrize("raw", [False, True], ids=["kept", "raw"])
def test_softmax_of_logits_in_blocks(
    logit_kernels: LogitKernels, margin: Margin, widths: tuple[int, ...], scale: float, raw: bool
) -> None:
    logits = random_logits(13, 23, scale)
    actual = softmax_in_blocks(logit_kernels, *logits, widths=widths, margin=margin, scale=scale, raw=raw)
    assert_same(actual, naive_softmax(*logits, margin=margin, scale=scale))


@pytest.mark.parametrize(("samples", "classes"), [(1, 1), (1, 9), (40, 1), (3, 1031), (65, 33)])
def test_softmax_of_odd_sizes(logit_kernels: LogitKernels, samples: int, classes: int) -> None:
    logits = random_logits(samples, classes, 64.0, seed=classes)
    actual = softmax_in_blocks(logit_kernels, *logits, widths=(classes,), margin=ARCFACE, scale=64.0)
    assert_same(actual, naive_softmax(*logits, margin=ARCFACE, scale=64.0))


@pytest.mark.parametrize("margin", [NO_MARGIN, ARCFACE])
def test_logits_times_1000_are_as_exact(logit_kernels: LogitKernels, margin: Margin) -> None:
    logits = random_logits(13, 23, 64_000.0)
    actual = softmax_in_blocks(logit_kernels, *logits, widths=(11, 12), margin=margin, scale=64_000.0)
    assert_same(actual, naive_softmax(*logits, margin=margin, scale=64_000.0))


def test_nearly_equal_logits_times_1000_are_as_exact(logit_kernels: LogitKernels) -> None:
    rng = np.random.default_rng(0)
    product_NS = rng.uniform(-0.9, 0.9, size=(50, 1)) * 64_000 + rng.normal(size=(50, 7))
    logits = product_NS.astype(np.float32), np.ones(7, np.float32), rng.integers(0, 7, size=50)
    expected = naive_softmax(*logits, margin=NO_MARGIN, scale=64_000.0)
    assert 0.5 < expected.loss < 5  # a part of the probability is everywhere
    actual = softmax_in_blocks(logit_kernels, *logits, widths=(3, 4), margin=NO_MARGIN, scale=64_000.0)
    assert_same(actual, expected)


@pytest.mark.parametrize("margin", [Margin(m3=0.7), Margin(m2=1.5)])
@pytest.mark.parametrize("widths", [(9,), (4, 5), (1, 8)])
def test_a_target_far_above_the_others_falls_below_them_by_its_margin(
    logit_kernels: LogitKernels, widths: tuple[int, ...], margin: Margin
) -> None:
    # exp(others − target) is 0 in fp32, and yet the loss is made of the others once the margin is known.
    cosine_NS = np.random.default_rng(1).uniform(0.35, 0.4, size=(6, 9))
    column_N = np.array([0, 3, 4, 8, 8, 0])
    cosine_NS[np.arange(6), column_N] = 0.99
    logits = (300 * cosine_NS).astype(np.float32), np.ones(9, np.float32), column_N
    expected = naive_softmax(*logits, margin=margin, scale=300.0)
    assert expected.loss > 10
    assert_same(softmax_in_blocks(logit_kernels, *logits, widths=widths, margin=margin, scale=300.0), expected)


@pytest.mark.parametrize(
    "column_N",
    [
        pytest.param([4, 4, 4, 1, 4, 0], id="the same target many times"),
        pytest.param([NOT_HERE] * 6, id="no target on this rank"),
        pytest.param([5, 4, 3, 2, 1, 0], id="every class a target"),
    ],
)
def test_any_distribution_of_targets(logit_kernels: LogitKernels, column_N: list[int]) -> None:
    product_NS, inverse_norm_S, _ = random_logits(6, 6, 64.0)
    logits = product_NS, inverse_norm_S, np.array(column_N)
    actual = softmax_in_blocks(logit_kernels, *logits, widths=(2, 4), margin=ARCFACE, scale=64.0)
    assert_same(actual, naive_softmax(*logits, margin=ARCFACE, scale=64.0))


def test_a_block_of_nothing_but_a_target(logit_kernels: LogitKernels) -> None:
    # All that a rank sampled is the one target: its other logits are none, and the margin's is all there is.
    logits = np.array([[32.0]], np.float32), np.ones(1, np.float32), np.array([0])
    actual = softmax_in_blocks(logit_kernels, *logits, widths=(1,), margin=ARCFACE, scale=64.0)
    expected_lse = 64 * np.cos(np.pi / 3 + 0.5)
    assert actual.loss == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(actual.lse_N, expected_lse, rtol=1e-6)
    np.testing.assert_allclose(actual.gradient_NS, 0, atol=1e-9)
    np.testing.assert_allclose(actual.projection_S, 0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 3, 8])
def test_a_logit_that_is_no_number_is_seen_in_the_loss(logit_kernels: LogitKernels, bad: float, column: int) -> None:
    # An infinite cosine at the target itself is clipped to 1, as any above 1: nothing makes one.
    targets = (NOT_HERE, 5, column) if np.isnan(bad) else (NOT_HERE, 5)
    for target in targets:
        product_NS, inverse_norm_S, _ = random_logits(6, 9, 64.0)
        product_NS[3, column] = bad
        logits = product_NS, inverse_norm_S, np.full(6, target)
        actual = softmax_in_blocks(logit_kernels, *logits, widths=(4, 5), margin=ARCFACE, scale=64.0)
        assert not np.isfinite(actual.loss)


def make_store(
    rng: np.random.Generator, rows: int, size: int, weight: str = "float32", momentum: str = "float32"
) -> RowStore:
    """Rows that have been in use, with some momentum."""
    weight_RD = rng.normal(size=(rows, size)).astype(weight)
    momentum_RD = 0.1 * rng.normal(size=(rows, size))
    scale_R1 = None
    if momentum == "int8":
        scale_R1 = np.abs(momentum_RD).max(axis=1, keepdims=True) / 127
        stored_momentum = mx.nd.array(np.rint(momentum_RD / scale_R1).astype(np.int8).view(np.uint8), dtype="uint8")
        scale_R1 = mx.nd.array(scale_R1)
    else:
        stored_momentum = mx.nd.array(momentum_RD, dtype=momentum)
    stored = mx.nd.array(weight_RD, dtype=weight)
    inverse_norm_R = mx.nd.array(inverse_norms(stored.astype("float32")).asnumpy())
    store = RowStore(0, 0, 0, stored, stored_momentum, scale_R1, inverse_norm_R)
    store.first_touched(np.arange(rows))
    return store


def read_store(store: RowStore) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, momentum and inverse norms in float64."""
    momentum_RD = store.momentum_RD.asnumpy()
    if store.scale_R1 is not None:
        momentum_RD = momentum_RD.view(np.int8) * store.scale_R1.asnumpy().astype(np.float64)
    arrays = (store.weight_RD.asnumpy(), momentum_RD, store.inverse_norm_R.asnumpy())
    return tuple(array.astype(np.float64) for array in arrays)


# Of rows that have missed one update, several, none: what each has of W and M beside itself.
FACTORS = np.array([[-0.02, 0.9, -0.02, 0.9], [-0.3, 2.5, -0.4, 0.1], [0, 0, 0, 1], [0.5, -1, 1, 0], [0, 1, 0, 0]])


def take_step(
    kernels: RowKernels,
    store: RowStore,
    rows: slice | np.ndarray,
    rng: np.random.Generator,
    random_key: int = 7,
    missed: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Takes a step of SGD with η = 0.1, μ = 0.9, λ = 0.2, s = 64, N = 12 on the rows, which may have missed others.

    Returns:
        The rows' new W and M as float64 makes them.
    """
    rule = UpdateRule(-0.1 * 64 / 12, 0.1 / 12, 0.1 * 0.2, 0.9, random_key)
    weight_RD, momentum_RD, inverse_norm_R = read_store(store)
    size = weight_RD.shape[1]
    count = len(weight_RD[rows])
    gradient_BD = (0.1 * rng.normal(size=(count, size))).astype(np.float32)
    projection_B = rng.normal(size=count).astype(np.float32)
    factors_B4 = mx.nd.array(FACTORS[:count]) if missed else None
    weight_BD, momentum_BD, inverse_norm_B = weight_RD[rows], momentum_RD[rows], inverse_norm_R[rows]
    if missed:
        f = FACTORS[:count, :, None]
        change_BD = f[:, 0] * weight_BD + f[:, 1] * momentum_BD
        weight_BD, momentum_BD = weight_BD + change_BD, f[:, 2] * weight_BD + f[:, 3] * momentum_BD
        inverse_norm_B = 1 / np.linalg.norm(weight_BD, axis=1)
    if isinstance(rows, slice):
        stored_rows, current_BD = rows, store.weight_RD[rows]
    else:
        stored_rows, current_BD = mx.nd.array(rows, dtype="int64"), unset(count, size)
        gathered_B = unset(count)
        kernels.gather(store, stored_rows, current_BD, gathered_B, factors_B4)
        np.testing.assert_allclose(gathered_B.asnumpy(), inverse_norm_B, rtol=1e-6)
        np.testing.assert_allclose(current_BD.asnumpy(), weight_BD, rtol=1e-5, atol=1e-6)
    arrays = (current_BD, mx.nd.array(gradient_BD), mx.nd.array(projection_B))
    kernels.update(store, stored_rows, *arrays, rule, factors_B4)

    along_B1 = (projection_B.astype(np.float64) * inverse_norm_B**2)[:, None]
    dw_BD = 64 / 12 * gradient_BD.astype(np.float64) - along_B1 / 12 * weight_BD
    new_momentum_BD = 0.9 * momentum_BD - 0.1 * (dw_BD + 0.2 * weight_BD)
    return weight_BD + new_momentum_BD, new_momentum_BD


@pytest.mark.parametrize("rows", [slice(2, 9), np.array([0, 2, 3, 8, 10]), np.array([10])], ids=str)
@pytest.mark.parametrize("size", [1, 16, 129])
def test_an_update_is_one_step_of_sgd_with_momentum_on_the_rows_alone(
    row_kernels: RowKernels, rows: slice | np.ndarray, size: int
) -> None:
    rng = np.random.default_rng(size)
    store = make_store(rng, 11, size)
    before = read_store(store)
    expected_weight_BD, expected_momentum_BD = take_step(row_kernels, store, rows, rng)
    after = read_store(store)
    assert relative_error(after[0][rows], expected_weight_BD) < 1e-6
    assert relative_error(after[1][rows], expected_momentum_BD) < 1e-6
    np.testing.assert_allclose(after[2][rows], 1 / np.linalg.norm(after[0][rows], axis=1), rtol=1e-5)
    others = np.setdiff1d(np.arange(11), np.arange(11)[rows])
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new[others], old[others])


@pytest.mark.parametrize("weight", ["float32", "float16"])
@pytest.mark.parametrize("momentum", ["float32", "float16", "int8"])
@pytest.mark.parametrize("missed", [False, True], ids=["up to date", "behind"])
def test_smaller_types_take_the_same_step_up_to_their_last_bit(
    row_kernels: RowKernels, weight: str, momentum: str, missed: bool
) -> None:
    rng = np.random.default_rng(3)
    store = make_store(rng, 11, 64, weight, momentum)
    rows = np.array([0, 2, 3, 8, 10])
    before = read_store(store)
    expected_weight_BD, expected_momentum_BD = take_step(row_kernels, store, rows, rng, missed=missed)
    after = read_store(store)
    # A value goes to the one above it or below it: less than one unit of the last place away.
    ulp = {"float32": 2**-22, "float16": 2**-10}
    least = {"float32": 1e-6, "float16": 2**-24}
    unit_BD = np.abs(expected_weight_BD) * ulp[weight] + least[weight]
    assert (np.abs(after[0][rows] - expected_weight_BD) < unit_BD).all()
    if momentum == "int8":
        unit_BD = 1.001 * np.abs(expected_momentum_BD).max(axis=1, keepdims=True) / 127
    else:
        unit_BD = np.abs(expected_momentum_BD) * ulp[momentum] + least[momentum]
    assert (np.abs(after[1][rows] - expected_momentum_BD) < unit_BD).all()
    # The inverse norms are those of the rows as they are kept.
    np.testing.assert_allclose(after[2][rows], 1 / np.linalg.norm(after[0][rows], axis=1), rtol=1e-5)
    others = np.setdiff1d(np.arange(11), rows)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new[others], old[others])


@pytest.mark.parametrize(("weight", "momentum"), [("float16", "float32"), ("float32", "float16"), ("float32", "int8")])
def test_rounding_has_no_drift(row_kernels: RowKernels, weight: str, momentum: str) -> None:
    # The mean of many roundings of the same step comes nearer than any one of them can.
    part = 0 if weight == "float16" else 1
    errors = []
    for key in range(100):
        rng = np.random.default_rng(5)
        store = make_store(rng, 4, 64, weight, momentum)
        expected = take_step(row_kernels, store, np.arange(4), rng, key)[part]
        errors.append(read_store(store)[part] - expected)
    single, mean = np.abs(errors).mean(), np.abs(np.mean(errors, axis=0)).mean()
    assert single > 0
    assert mean < 0.2 * single


def test_a_row_that_becomes_zero_has_no_direction(row_kernels: RowKernels) -> None:
    for rows in (slice(1, 3), mx.nd.array([1, 2], dtype="int64")):
        store = make_store(np.random.default_rng(0), 5, 4)
        store.weight_RD[:], store.momentum_RD[:], store.inverse_norm_R[:] = 1, 0, 0.5
        current_BD = store.weight_RD[1:3] if isinstance(rows, slice) else mx.nd.array(np.ones((2, 4)))
        rule = UpdateRule(gradient_factor=-1.0, projection_factor=0.0, decay=0.0, momentum=0.9)
        row_kernels.update(store, rows, current_BD, mx.nd.array(np.ones((2, 4))), mx.nd.array(np.zeros(2)), rule)
        np.testing.assert_array_equal(store.weight_RD.asnumpy()[:, 0], [1, 0, 0, 1, 1])
        np.testing.assert_array_equal(store.momentum_RD.asnumpy()[:, 0], [0, -1, -1, 0, 0])
        np.testing.assert_array_equal(store.inverse_norm_R.asnumpy(), [0.5, 0, 0, 0.5, 0.5])


@pytest.mark.parametrize("weight", ["float32", "float16"])
def test_initial_rows_are_those_of_their_classes(row_kernels: RowKernels, weight: str) -> None:
    store = make_store(np.random.default_rng(0), 11, 7, weight)
    store.first_class, store.seed = 99_999_000, 5
    before = store.weight_RD.asnumpy()
    rows = np.array([0, 3, 4, 10])
    row_kernels.initialize(store, rows)
    expected = initial_rows(5, rows + 99_999_000, 7).astype(weight)
    after = store.weight_RD.asnumpy()
    assert after[rows].tobytes() == expected.tobytes()
    np.testing.assert_array_equal(np.delete(after, rows, axis=0), np.delete(before, rows, axis=0))
    norms = np.linalg.norm(expected.astype(np.float64), axis=1)
    np.testing.assert_allclose(store.inverse_norm_R.asnumpy()[rows], 1 / norms, rtol=1e-6)


@pytest.mark.parametrize("weight", ["float32", "float16"])
def test_gathered_rows_are_the_stored_ones_as_float32(row_kernels: RowKernels, weight: str) -> None:
    store = make_store(np.random.default_rng(0), 11, 33, weight)
    rows = np.array([0, 3, 4, 10])
    weight_BD, inverse_norm_B = unset(4, 33), unset(4)
    row_kernels.gather(store, mx.nd.array(rows, dtype="int64"), weight_BD, inverse_norm_B)
    np.testing.assert_array_equal(weight_BD.asnumpy(), store.weight_RD.asnumpy()[rows].astype(np.float32))
    np.testing.assert_array_equal(inverse_norm_B.asnumpy(), store.inverse_norm_R.asnumpy()[rows])


def test_inverse_norms() -> None:
    rows_BD = np.random.default_rng(0).normal(size=(9, 33)).astype(np.float32)
    rows_BD[4] = 0
    rows_BD[5] *= 1e-15
    actual = inverse_norms(mx.nd.array(rows_BD)).asnumpy()
    assert actual[4] == 0
    others = np.delete(np.arange(9), 4)
    np.testing.assert_allclose(
        actual[others], 1 / np.linalg.norm(rows_BD[others].astype(np.float64), axis=1), rtol=1e-6
    )
