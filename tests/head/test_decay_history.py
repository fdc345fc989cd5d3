"""Products of the updates' matrices, against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.head.decay_history import DecayHistory, settled

STEPS = st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 0.99)), max_size=70)


def made(steps: list[tuple[float, float]]) -> DecayHistory:
    history = DecayHistory()
    for decay, momentum in steps:
        history.append(decay, momentum)
    return history


def naive_product(steps: list[tuple[float, float]], first: int) -> np.ndarray:
    product = np.eye(2)
    for decay, momentum in steps[first:]:
        product = np.array([[1 - decay, momentum], [-decay, momentum]]) @ product
    return product


@settings(deadline=None, max_examples=100)
@given(steps=STEPS)
def test_products_from_every_update_on_are_those_of_a_plain_loop(steps: list[tuple[float, float]]) -> None:
    history = made(steps)
    assert len(history) == len(steps)
    first_K = np.arange(len(steps) + 1)
    expected = np.array([naive_product(steps, first) for first in first_K])
    np.testing.assert_allclose(history.products(first_K), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(history.products(first_K[-1:]), [np.eye(2)])
    np.testing.assert_array_equal(history.products(first_K[:0]), np.empty((0, 2, 2)))


@settings(deadline=None, max_examples=50)
@given(steps=STEPS, data=st.data())
def test_a_restored_history_goes_on_with_the_same_bits(steps: list[tuple[float, float]], data: st.DataObject) -> None:
    stop = data.draw(st.integers(0, len(steps)))
    history = DecayHistory(made(steps[:stop]).steps_T2)
    for step in steps[stop:]:
        history.append(*step)
    whole = made(steps)
    np.testing.assert_array_equal(history.steps_T2, whole.steps_T2)
    last_B = np.arange(len(steps) + 1)
    np.testing.assert_array_equal(history.products(last_B), whole.products(last_B))


@settings(deadline=None, max_examples=50)
@given(steps=STEPS, data=st.data())
def test_factors_are_those_of_each_row_in_any_order(steps: list[tuple[float, float]], data: st.DataObject) -> None:
    last_B = np.array(data.draw(st.lists(st.integers(0, len(steps)), max_size=30)), np.int32)
    factors_B4 = made(steps).factors(last_B)
    assert factors_B4.shape == (len(last_B), 4) and factors_B4.dtype == np.float32
    for last, factors in zip(last_B.tolist(), factors_B4, strict=True):
        expected = naive_product(steps, last) - [[1, 0], [0, 0]]
        np.testing.assert_allclose(factors.reshape(2, 2), expected, rtol=1e-6, atol=1e-12)


def test_what_the_updates_do_in_closed_form() -> None:
    weight_BD, momentum_BD = np.ones((1, 3), np.float32), np.full((1, 3), 0.5, np.float32)
    last_B, k = np.array([2]), 7
    weight, momentum = settled(weight_BD, momentum_BD, made([(0.0, 0.9)] * (2 + k)).factors(last_B))
    np.testing.assert_allclose(momentum, 0.5 * 0.9**k, rtol=1e-6)
    np.testing.assert_allclose(weight, 1 + 0.5 * sum(0.9**i for i in range(1, k + 1)), rtol=1e-6)
    weight, momentum = settled(weight_BD, momentum_BD, made([(0.01, 0.0)] * (2 + k)).factors(last_B))
    np.testing.assert_allclose(weight, 0.99**k, rtol=1e-6)
    np.testing.assert_allclose(momentum, 0.99**k - 0.99 ** (k - 1), rtol=1e-6)


def test_weak_decay_is_not_lost_to_float32() -> None:
    # 1 − 3.1e-8 as a float32 is 1 − 6e-8: twice the decay, every time that the row is touched.
    factors_B4 = made([(3.1e-9, 0.0)] * 10).factors(np.array([0]))
    assert factors_B4[0, 0] == pytest.approx(-3.1e-8, rel=1e-6)


def test_its_memory_is_54_bytes_an_update() -> None:
    history = DecayHistory(np.full((100_000, 2), 0.5))
    history.append(0.1, 0.9)
    arrays = [history._steps._memory, *(level._memory for level in history._levels)]
    assert sum(array.nbytes for array in arrays) < 54.5 * len(history)
