from __future__ import annotations

import math

import numpy as np
import pytest

from partial_fc.head.initialization import INITIAL_DEVIATION, initial_rows, stream_key

MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """One output of SplitMix64 after the paper, in Python's integers."""
    mixed = (state * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return mixed ^ (mixed >> 31)


def naive_element(seed: int, number: int) -> float:
    bits = splitmix64((splitmix64(seed & MASK) + number) & MASK)
    fields = [(bits >> shift) & 0xFFFF for shift in (0, 16, 32, 48)]
    return 0.01 * math.sqrt(3) * (sum(fields) - 2 * 65535) / 65536


@pytest.mark.parametrize("seed", [0, 1, -1, 2**40 + 3])
def test_an_element_is_the_sum_of_the_four_fields_of_its_hash(seed: int) -> None:
    classes, size = np.array([0, 3, 99_999_999]), 5
    expected = [[naive_element(seed, c * size + d) for d in range(size)] for c in classes.tolist()]
    rows = initial_rows(seed, classes, size)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_the_hash_is_the_published_one() -> None:
    # First outputs of SplitMix64 from state 0, as its authors' C code prints them.
    assert [splitmix64(0), splitmix64(1)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert stream_key(0) == splitmix64(0)


def test_a_row_depends_on_its_seed_and_class_alone() -> None:
    together = initial_rows(7, np.arange(23), 16)
    for part in (np.arange(5, 9), np.array([22, 0, 11])):
        np.testing.assert_array_equal(initial_rows(7, part, 16), together[part])
    assert not np.isin(initial_rows(8, np.arange(23), 16), together).all(axis=1).any()


def test_rows_are_close_to_normal_with_the_deviation_of_the_paper() -> None:
    values = initial_rows(3, np.arange(4000), 64).astype(np.float64)
    count = values.size
    assert abs(values.mean()) < 4 * INITIAL_DEVIATION / math.sqrt(count)
    assert values.std() == pytest.approx(0.01, rel=0.01)
    # The sum of four uniform numbers: no skew, kurtosis 3 − 6/20.
    standard = values / values.std()
    assert abs((standard**3).mean()) < 0.02
    assert (standard**4).mean() == pytest.approx(2.7, abs=0.03)


def test_rows_have_nothing_in_common() -> None:
    rows = initial_rows(0, np.arange(300), 512).astype(np.float64)
    other_seed = initial_rows(1, np.arange(300), 512).astype(np.float64)
    for first, second in ((rows, rows), (rows, other_seed), (rows[:, :-1], rows[:, 1:])):
        cosine = (first @ second.T) / np.linalg.norm(first, axis=1)[:, None] / np.linalg.norm(second, axis=1)
        if first is second:
            np.fill_diagonal(cosine, 0)
        assert np.abs(cosine).max() < 6 / math.sqrt(512)
        assert cosine.std() == pytest.approx(1 / math.sqrt(512), rel=0.05)
