"""The references themselves: a reference that nothing checks could be wrong in the same way as the code."""

from __future__ import annotations

import math

import numpy as np
import pytest

from partial_fc.collectives import run_thread_ranks
from partial_fc.head.margin import Margin
from partial_fc.testing import (
    LayerCase,
    compare_with_dense,
    dense_loss_and_gradients,
    dense_sgd_momentum,
    relative_error,
    train_layer,
)

N, C, D = 6, 5, 4
MARGINS = [Margin(), Margin(m2=0.5), Margin(m3=0.4), Margin(1.0, 0.3, 0.2), Margin(2.0, 0.5, 0.35)]


def random_inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(N, D)), np.array([0, 4, 4, 2, 1, 2]), rng.normal(size=(C, D))


def loss_by_hand(
    x_ND: np.ndarray, label_N: np.ndarray, w_CD: np.ndarray, columns: list[int], margin: Margin, scale: float
) -> float:
    """One number at a time, as the paper has it."""
    total = 0.0
    for x, label in zip(x_ND, label_N, strict=True):
        logits = {}
        for j in columns:
            cosine = float(x @ w_CD[j]) / math.sqrt(float(x @ x) * float(w_CD[j] @ w_CD[j]))
            if j == label:
                angle = margin.m1 * math.acos(cosine) + margin.m2
                if angle <= math.pi:
                    cosine = math.cos(angle)
                else:
                    cosine = -1 + cosine - math.cos((math.pi - margin.m2) / margin.m1)
                cosine -= margin.m3
            logits[j] = scale * cosine
        total -= logits[int(label)] - math.log(sum(math.exp(logit) for logit in logits.values()))
    return total / len(x_ND)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("columns", [None, [4, 0, 2, 1]])
def test_dense_loss_and_gradients(margin: Margin, columns: list[int] | None) -> None:
    inputs = random_inputs()
    used = list(range(C)) if columns is None else columns
    dense = dense_loss_and_gradients(*inputs, columns, margin=margin, scale=8.0)
    assert dense.loss == pytest.approx(loss_by_hand(*inputs, used, margin, 8.0), rel=1e-12)
    for changed, gradient in ((0, dense.gradient_x_ND), (2, dense.gradient_w_CD)):
        difference = np.zeros_like(gradient)
        for index in np.ndindex(gradient.shape):
            around = []
            for step in (1e-6, -1e-6):
                moved = [part.copy() for part in inputs]
                moved[changed][index] += step
                around.append(loss_by_hand(*moved, used, margin, 8.0))
            difference[index] = (around[0] - around[1]) / 2e-6
        assert relative_error(gradient, difference) < 1e-7
    if columns is not None:
        np.testing.assert_array_equal(dense.gradient_w_CD[3], 0)


def test_logits_of_64000_are_finite() -> None:
    dense = dense_loss_and_gradients(*random_inputs(), margin=Margin(m2=0.5), scale=64_000.0)
    assert np.isfinite(dense.loss) and np.isfinite(dense.gradient_x_ND).all()


def test_a_label_outside_the_columns_is_a_mistake_of_the_test() -> None:
    with pytest.raises(AssertionError, match="one of the columns"):
        dense_loss_and_gradients(*random_inputs(), [0, 1, 2], margin=Margin(), scale=8.0)


def test_dense_sgd_momentum_changes_the_rows_alone() -> None:
    w, m, g = (
        np.array([[1.0], [2.0], [3.0]]),
        np.array([[0.5], [0.5], [0.5]]),
        np.array([[10.0], [20.0], [30.0]]),
    )
    new_w, new_m = dense_sgd_momentum(
        w, m, g, np.array([0, 2]), learning_rate=0.1, momentum=0.9, weight_decay=0.01
    )
    np.testing.assert_allclose(new_m, [[0.45 - 0.1 * 10.01], [0.5], [0.45 - 0.1 * 30.03]], rtol=1e-12)
    np.testing.assert_allclose(new_w, w + [[new_m[0, 0]], [0], [new_m[2, 0]]], rtol=1e-12)
    np.testing.assert_array_equal(w, [[1.0], [2.0], [3.0]])


def test_relative_error() -> None:
    assert relative_error(np.array([1.0, -4.1]), np.array([1.0, -4.0])) == pytest.approx(0.025)
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    for wrong in ([np.nan, 0.0], [np.inf, 0.0]):
        assert relative_error(np.array(wrong), np.array([1.0, 0.0])) == np.inf
    assert relative_error(np.array([1e-9]), np.zeros(1)) == np.inf
    with pytest.raises(AssertionError):
        relative_error(np.zeros((2, 3)), np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gradient_x", "gradient_x_BD"),
        ("gradient_w", "momentum_CD"),
        ("momentum", "momentum_CD"),
        ("weight", "weight_CD"),
    ],
)
def test_a_comparison_sees_one_wrong_number(name: str, part: str) -> None:
    case = LayerCase(7)
    traces = run_thread_ranks(2, lambda collectives: train_layer(case, collectives))
    assert max(vars(compare_with_dense(case, traces)).values()) < 5e-5
    wrong = getattr(traces[1], part)[-1]
    wrong[1, 2] += 2e-4 * np.abs(np.concatenate([getattr(trace, part)[-1] for trace in traces])).max()
    assert getattr(compare_with_dense(case, traces), name) > 5e-5


def test_a_comparison_sees_one_wrong_loss() -> None:
    case = LayerCase(7)
    traces = run_thread_ranks(2, lambda collectives: train_layer(case, collectives))
    traces[1].loss[2] *= 1 + 2e-5
    assert compare_with_dense(case, traces).loss > 1e-5
