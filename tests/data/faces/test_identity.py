"""No two identities are near each other, whatever their number."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.data.faces.identity import (
    GAP,
    MIN_DIFFERING_PARAMETERS,
    NUM_IDENTITIES,
    RANGES,
    Identity,
    code_generator,
    identity_parameters,
    identity_position,
)

INDEX = st.integers(0, NUM_IDENTITIES - 1)


def clearly_different(a: np.ndarray, b: np.ndarray) -> int:
    return int((np.abs(a - b) >= GAP).sum())


def test_every_word_of_the_code_but_zero_has_twelve_ones_or_more():
    """The code is linear, so that its distance is the least weight. With generator [A B], A and B invertible,
    a word of eleven ones has five or fewer in one half: a sum of that many rows of that systematic form.
    """
    generator = code_generator()
    halves = [generator, np.roll(generator, 24, axis=1)]
    for half in halves:
        systematic = row_reduce(half)
        np.testing.assert_array_equal(systematic[:, :24], np.eye(24))
        weights = [
            systematic[list(rows)].sum(axis=0) % 2
            for count in range(1, 5)
            for rows in itertools.combinations(range(24), count)
        ]
        assert np.sum(weights, axis=1).min() == MIN_DIFFERING_PARAMETERS
        # Sums of five rows, the first of them by a loop to stay small.
        fours = np.array([c for c in itertools.combinations(range(24), 4)])
        for first in range(24):
            rest = fours[fours[:, 0] > first]
            if len(rest):
                words = (systematic[rest].sum(axis=1) + systematic[first]) % 2
                assert words.sum(axis=1).min() >= MIN_DIFFERING_PARAMETERS


def row_reduce(matrix: np.ndarray) -> np.ndarray:
    """Gauss-Jordan over GF(2), for a matrix whose first columns are invertible."""
    matrix = matrix.astype(np.uint8).copy()
    for column in range(len(matrix)):
        pivot = column + int(np.argmax(matrix[column:, column]))
        matrix[[column, pivot]] = matrix[[pivot, column]]
        others = matrix[:, column].astype(bool)
        others[column] = False
        matrix[others] ^= matrix[column]
    return matrix


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), first=INDEX, second=INDEX)
def test_two_identities_differ_clearly_in_twelve_parameters(seed, first, second):
    if first != second:
        positions = identity_position(seed, first), identity_position(seed, second)
        assert clearly_different(*positions) >= MIN_DIFFERING_PARAMETERS


def test_neighbours_and_ends_of_the_range_differ_clearly():
    starts = (0, 100_000, NUM_IDENTITIES // 4, NUM_IDENTITIES // 2, NUM_IDENTITIES - 100)
    indices = [index for start in starts for index in range(start, start + 100)]
    positions = np.stack([identity_position(3, index) for index in indices])
    for position, others in zip(
        positions, (positions[k + 1 :] for k in range(len(indices) - 1)), strict=False
    ):
        assert (np.abs(others - position) >= GAP).sum(axis=1).min() >= MIN_DIFFERING_PARAMETERS


def test_parameters_fill_their_ranges_evenly():
    positions = np.stack([identity_position(0, index) for index in range(600)])
    assert positions.min() >= 0.0 and positions.max() < 1.0
    np.testing.assert_allclose(positions.mean(axis=0), 0.5, atol=0.06)
    below, above = (1 - GAP) / 2, (1 + GAP) / 2
    assert not ((positions > below) & (positions < above)).any()
    # Both halves of a pair of parameters come with each other: no parameter says another.
    correlation = np.corrcoef(positions.T) - np.eye(len(RANGES))
    assert np.abs(correlation).max() < 0.2


def test_an_identity_depends_on_seed_and_index_alone_and_each_seed_has_other_people():
    assert identity_parameters(5, 17) == identity_parameters(5, 17)
    assert clearly_different(identity_position(5, 17), identity_position(6, 17)) > 5


def test_parameters_lie_in_their_ranges_by_name():
    face = identity_parameters(1, 2)
    assert Identity._fields == tuple(RANGES)
    for name, (low, high) in RANGES.items():
        assert low <= getattr(face, name) <= high


@pytest.mark.parametrize("index", [-1, NUM_IDENTITIES])
def test_an_index_outside_the_code_is_refused(index):
    with pytest.raises(ValueError, match=str(index)):
        identity_position(0, index)
