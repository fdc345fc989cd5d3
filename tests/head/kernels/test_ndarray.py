"""Every form of the element-wise work against float64: NDArray operations, and what computes the same."""

from __future__ import annotations

from dataclasses import dataclass

import mxnet as mx
import numpy as np
import pytest

from partial_fc.collectives import SingleProcess
from partial_fc.head.kernels import BlockKernels, BlockTargets, SoftmaxState, UpdateRule
from partial_fc.head.kernels.ndarray import inverse_norms
from partial_fc.head.margin import Margin
from partial_fc.head.softmax import merge_softmax
from partial_fc.testing import relative_error

ARCFACE, NO_MARGIN = Margin(m2=0.5), Margin()
NOT_HERE = -1

# Of fp32 sums and exponentials, each a few units in the last place.
TOLERANCE = 1e-5


@dataclass
class Softmax:
    """What the kernels and the merge make of a rank's logits: the gradients by Z and by the norms of the centers."""

    loss: float
    lse_N: np.ndarray
    gradient_NS: np.ndarray
    projection_S: np.ndarray


def softmax_in_blocks(
    kernels: BlockKernels,
    product_NS: np.ndarray,
    inverse_norm_S: np.ndarray,
    column_N: np.ndarray,
    *,
    widths: tuple[int, ...],
    margin: Margin,
    scale: float,
) -> Softmax:
    """Takes logits ``product·inverse_norm`` through forward, merge and backward, cut into blocks of the widths."""
    assert sum(widths) == product_NS.shape[1]
    samples = len(product_NS)
    state = SoftmaxState(*(mx.nd.full((samples,), np.nan) for _ in range(3)))
    kernels.start(state)
    blocks = []
    for stop, width in zip(np.cumsum(widths), widths, strict=True):
        columns = slice(stop - width, stop)
        sample_K = np.flatnonzero((column_N >= columns.start) & (column_N < stop))
        targets = BlockTargets(sample_K.astype(np.int32), (column_N[sample_K] - columns.start).astype(np.int32))
        logits_NB, inverse_norm_B = mx.nd.array(product_NS[:, columns]), mx.nd.array(inverse_norm_S[columns])
        kernels.forward(logits_NB, inverse_norm_B, targets, state)
        blocks.append((logits_NB, inverse_norm_B, targets))
    softmax = merge_softmax(
        state.max_N.asnumpy(), state.sum_N.asnumpy(), state.target_logit_N.asnumpy(), column_N != NOT_HERE,
        margin=margin, scale=scale, collectives=SingleProcess(),
    )  # fmt: skip
    excess_N, target_gradient_N = (
        mx.nd.array(a, dtype="float32") for a in (softmax.lse_N - state.max_N.asnumpy(), softmax.target_gradient_N)
    )
    gradients, projections = [], []
    for logits_NB, inverse_norm_B, targets in blocks:
        projection_B = mx.nd.full(inverse_norm_B.shape, np.nan)
        kernels.backward(logits_NB, inverse_norm_B, targets, state, excess_N, target_gradient_N, projection_B)
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
    return Softmax(
        float(np.mean(lse_N - target_N)), lse_N, by_z_NS * inverse_norm_S, (by_z_NS * logits_NS).sum(axis=0)
    )


def assert_same(actual: Softmax, expected: Softmax, tolerance: float = TOLERANCE) -> None:
    assert relative_error(actual.loss, expected.loss) < tolerance
    np.testing.assert_allclose(actual.lse_N, expected.lse_N, rtol=tolerance)
    assert relative_error(actual.gradient_NS, expected.gradient_NS) < tolerance
    assert relative_error(actual.projection_S, expected.projection_S) < tolerance


def random_logits(
    samples: int, classes: int, scale: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products s·cos·|w|, the inverses 1/|w|, and targets of which some lie on another rank."""
    rng = np.random.default_rng(seed)
    inverse_norm_S = rng.uniform(0.5, 20, size=classes).astype(np.float32)
    cosine_NS = rng.uniform(-0.95, 0.95, size=(samples, classes))
    column_N = rng.integers(NOT_HERE, classes, size=samples)
    return (scale * cosine_NS / inverse_norm_S).astype(np.float32), inverse_norm_S, column_N


@pytest.mark.parametrize("margin", [NO_MARGIN, ARCFACE, Margin(m3=0.4), Margin(2.0, 0.5, 0.35)])
@pytest.mark.parametrize("widths", [(23,), (7, 1, 15), (1,) * 23])
@pytest.mark.parametrize("scale", [3.0, 64.0, 300.0])
def test_softmax_of_logits_in_blocks(
    kernels: BlockKernels, margin: Margin, widths: tuple[int, ...], scale: float
) -> None:
    logits = random_logits(13, 23, scale)
    actual = softmax_in_blocks(kernels, *logits, widths=widths, margin=margin, scale=scale)
    assert_same(actual, naive_softmax(*logits, margin=margin, scale=scale))


@pytest.mark.parametrize(("samples", "classes"), [(1, 1), (1, 9), (40, 1), (3, 1031), (65, 33)])
def test_softmax_of_odd_sizes(kernels: BlockKernels, samples: int, classes: int) -> None:
    logits = random_logits(samples, classes, 64.0, seed=classes)
    actual = softmax_in_blocks(kernels, *logits, widths=(classes,), margin=ARCFACE, scale=64.0)
    assert_same(actual, naive_softmax(*logits, margin=ARCFACE, scale=64.0))


@pytest.mark.parametrize("margin", [NO_MARGIN, ARCFACE])
def test_logits_times_1000_are_as_exact(kernels: BlockKernels, margin: Margin) -> None:
    logits = random_logits(13, 23, 64_000.0)
    actual = softmax_in_blocks(kernels, *logits, widths=(11, 12), margin=margin, scale=64_000.0)
    assert_same(actual, naive_softmax(*logits, margin=margin, scale=64_000.0))


def test_nearly_equal_logits_times_1000_are_as_exact(kernels: BlockKernels) -> None:
    rng = np.random.default_rng(0)
    product_NS = rng.uniform(-0.9, 0.9, size=(50, 1)) * 64_000 + rng.normal(size=(50, 7))
    logits = product_NS.astype(np.float32), np.ones(7, np.float32), rng.integers(0, 7, size=50)
    expected = naive_softmax(*logits, margin=NO_MARGIN, scale=64_000.0)
    assert 0.5 < expected.loss < 5  # a part of the probability is everywhere
    actual = softmax_in_blocks(kernels, *logits, widths=(3, 4), margin=NO_MARGIN, scale=64_000.0)
    assert_same(actual, expected)


@pytest.mark.parametrize("margin", [Margin(m3=0.7), Margin(m2=1.5)])
@pytest.mark.parametrize("widths", [(9,), (4, 5), (1, 8)])
def test_a_target_far_above_the_others_falls_below_them_by_its_margin(
    kernels: BlockKernels, widths: tuple[int, ...], margin: Margin
) -> None:
    # exp(others − target) is 0 in fp32, and yet the loss is made of the others once the margin is known.
    cosine_NS = np.random.default_rng(1).uniform(0.35, 0.4, size=(6, 9))
    column_N = np.array([0, 3, 4, 8, 8, 0])
    cosine_NS[np.arange(6), column_N] = 0.99
    logits = (300 * cosine_NS).astype(np.float32), np.ones(9, np.float32), column_N
    expected = naive_softmax(*logits, margin=margin, scale=300.0)
    assert expected.loss > 10
    assert_same(softmax_in_blocks(kernels, *logits, widths=widths, margin=margin, scale=300.0), expected)


@pytest.mark.parametrize(
    "column_N",
    [
        pytest.param([4, 4, 4, 1, 4, 0], id="the same target many times"),
        pytest.param([NOT_HERE] * 6, id="no target on this rank"),
        pytest.param([5, 4, 3, 2, 1, 0], id="every class a target"),
    ],
)
def test_any_distribution_of_targets(kernels: BlockKernels, column_N: list[int]) -> None:
    product_NS, inverse_norm_S, _ = random_logits(6, 6, 64.0)
    logits = product_NS, inverse_norm_S, np.array(column_N)
    actual = softmax_in_blocks(kernels, *logits, widths=(2, 4), margin=ARCFACE, scale=64.0)
    assert_same(actual, naive_softmax(*logits, margin=ARCFACE, scale=64.0))


def test_a_block_of_nothing_but_a_target(kernels: BlockKernels) -> None:
    # All that a rank sampled is the one target: its other logits are none, and the margin's is all there is.
    logits = np.array([[32.0]], np.float32), np.ones(1, np.float32), np.array([0])
    actual = softmax_in_blocks(kernels, *logits, widths=(1,), margin=ARCFACE, scale=64.0)
    expected_lse = 64 * np.cos(np.pi / 3 + 0.5)
    assert actual.loss == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(actual.lse_N, expected_lse, rtol=1e-6)
    np.testing.assert_allclose(actual.gradient_NS, 0, atol=1e-9)
    np.testing.assert_allclose(actual.projection_S, 0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 3, 8])
def test_a_logit_that_is_no_number_is_seen_in_the_loss(kernels: BlockKernels, bad: float, column: int) -> None:
    # An infinite cosine at the target itself is clipped to 1, as any above 1: nothing makes one.
    targets = (NOT_HERE, 5, column) if np.isnan(bad) else (NOT_HERE, 5)
    for target in targets:
        product_NS, inverse_norm_S, _ = random_logits(6, 9, 64.0)
        product_NS[3, column] = bad
        logits = product_NS, inverse_norm_S, np.full(6, target)
        actual = softmax_in_blocks(kernels, *logits, widths=(4, 5), margin=ARCFACE, scale=64.0)
        assert not np.isfinite(actual.loss)


@pytest.mark.parametrize(("rows", "embedding_size"), [(1, 1), (7, 16), (33, 129)])
def test_update_is_one_step_of_sgd_with_momentum(kernels: BlockKernels, rows: int, embedding_size: int) -> None:
    rng = np.random.default_rng(rows)
    weight_BD, momentum_BD, gradient_BD = rng.normal(size=(3, rows, embedding_size)).astype(np.float32)
    projection_B = rng.normal(size=rows).astype(np.float32)
    inverse_norm_B = (1 / np.linalg.norm(weight_BD, axis=1)).astype(np.float32)
    eta, mu, decay, scale, n = 0.1, 0.9, 5e-4, 64.0, 12
    rule = UpdateRule(-eta * scale / n, eta / n, eta * decay, mu)
    arrays = [mx.nd.array(a) for a in (weight_BD, momentum_BD, inverse_norm_B, gradient_BD, projection_B)]
    kernels.update(*arrays, rule)

    wide = [a.astype(np.float64) for a in (weight_BD, momentum_BD, inverse_norm_B, gradient_BD, projection_B)]
    weight_BD, momentum_BD, inverse_norm_B, gradient_BD, projection_B = wide
    along_B1 = (projection_B * inverse_norm_B**2)[:, None]
    dw_BD = scale / n * gradient_BD - along_B1 / n * weight_BD
    expected_momentum_BD = mu * momentum_BD - eta * (dw_BD + decay * weight_BD)
    expected_weight_BD = weight_BD + expected_momentum_BD
    assert relative_error(arrays[0].asnumpy(), expected_weight_BD) < 1e-6
    assert relative_error(arrays[1].asnumpy(), expected_momentum_BD) < 1e-6
    np.testing.assert_allclose(arrays[2].asnumpy(), 1 / np.linalg.norm(expected_weight_BD, axis=1), rtol=1e-5)


def test_update_goes_into_views(kernels: BlockKernels) -> None:
    stored = [mx.nd.ones((5, 4)), mx.nd.zeros((5, 4)), mx.nd.full((5,), 0.5)]
    kernels.update(*(a[1:3] for a in stored), mx.nd.ones((2, 4)), mx.nd.zeros((2,)), UpdateRule(-1.0, 0.0, 0.0, 0.9))
    weight, momentum, inverse_norm = (a.asnumpy() for a in stored)
    np.testing.assert_array_equal(weight[:, 0], [1, 0, 0, 1, 1])
    np.testing.assert_array_equal(momentum[:, 0], [0, -1, -1, 0, 0])
    np.testing.assert_array_equal(inverse_norm, [0.5, 0, 0, 0.5, 0.5])  # a row of zeros has no direction


def test_inverse_norms() -> None:
    rows_BD = np.random.default_rng(0).normal(size=(9, 33)).astype(np.float32)
    rows_BD[4] = 0
    rows_BD[5] *= 1e-15
    actual = inverse_norms(mx.nd.array(rows_BD)).asnumpy()
    assert actual[4] == 0
    others = np.delete(np.arange(9), 4)
    np.testing.assert_allclose(actual[others], 1 / np.linalg.norm(rows_BD[others].astype(np.float64), axis=1), rtol=1e-6)
