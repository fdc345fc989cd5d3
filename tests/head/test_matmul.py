from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from partial_fc.head import matmul
from partial_fc.testing import relative_error

SIZES = [(252, 123, 507), (1, 1, 1), (5, 1, 33), (1, 40, 7), (12, 3, 512)]


def operands(n: int, b: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([n, b, d])
    shapes = ((n, d), (b, d), (n, b))
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


# Sums of up to 512 products in fp32, relative to the largest element.
TOLERANCE = 2e-6


@pytest.mark.parametrize(("n", "b", "d"), SIZES)
def test_logits(n: int, b: int, d: int) -> None:
    x_ND, weight_BD, _ = operands(n, b, d)
    out_NB = mx.nd.full((n, b), np.nan)
    matmul.logits(mx.nd.array(x_ND), mx.nd.array(weight_BD), out_NB)
    assert relative_error(out_NB.asnumpy(), x_ND.astype(np.float64) @ weight_BD.T) < TOLERANCE


@pytest.mark.parametrize(("n", "b", "d"), SIZES)
def test_gradients(n: int, b: int, d: int) -> None:
    x_ND, weight_BD, coefficient_NB = operands(n, b, d)
    out_x_ND, out_weight_BD = mx.nd.full((n, d), np.nan), mx.nd.full((b, d), np.nan)
    matmul.gradients(*map(mx.nd.array, (coefficient_NB, x_ND, weight_BD)), out_x_ND, out_weight_BD)
    coefficient_NB = coefficient_NB.astype(np.float64)
    assert relative_error(out_x_ND.asnumpy(), coefficient_NB @ weight_BD) < TOLERANCE
    assert relative_error(out_weight_BD.asnumpy(), coefficient_NB.T @ x_ND) < TOLERANCE


def test_results_go_into_views_of_larger_arrays() -> None:
    x_ND, weight_BD, coefficient_NB = operands(4, 3, 8)
    memory = mx.nd.full((100,), -1.0)
    matmul.logits(mx.nd.array(x_ND), mx.nd.array(weight_BD), memory[:12].reshape((4, 3)))
    assert relative_error(memory[:12].asnumpy().reshape(4, 3), x_ND.astype(np.float64) @ weight_BD.T) < TOLERANCE
    rows = mx.nd.array(np.vstack([np.zeros((2, 8)), weight_BD, np.zeros((2, 8))]))
    out_x_ND = mx.nd.empty((4, 8))
    part = memory[20:44].reshape((3, 8))
    matmul.gradients(mx.nd.array(coefficient_NB), mx.nd.array(x_ND), rows[2:5], out_x_ND, part)
    assert relative_error(out_x_ND.asnumpy(), coefficient_NB.astype(np.float64) @ weight_BD) < TOLERANCE
    assert relative_error(part.asnumpy(), coefficient_NB.T.astype(np.float64) @ x_ND) < TOLERANCE
    np.testing.assert_array_equal(memory[12:20].asnumpy(), -1.0)
    np.testing.assert_array_equal(memory[44:].asnumpy(), -1.0)
