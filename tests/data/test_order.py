import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.data.order import EpochOrder, permutation


def read_epoch(num_images, batch_size, ranks, *, epoch=0, start=0, seed=3):
    """(update, rank, image in the batch) of all that the ranks read of one epoch from position `start`."""
    orders = [
        EpochOrder(num_images, batch_size=batch_size, rank=rank, ranks=ranks, seed=seed)
        for rank in range(ranks)
    ]
    updates, position = [], start
    while orders[0].update_at(epoch, position) == (epoch, position):
        updates.append([order.indices(epoch, position) for order in orders])
        position += orders[0].global_batch
    assert orders[0].update_at(epoch, position) == (epoch + 1, 0)
    return np.array(updates)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 7))
def test_an_epoch_reads_each_image_once_or_leaves_it_out(num_images, batch_size, ranks):
    if num_images < batch_size * ranks:
        with pytest.raises(ValueError, match=rf"{batch_size * ranks} in all, and the data has {num_images}"):
            EpochOrder(num_images, batch_size=batch_size, ranks=ranks)
        return
    read = read_epoch(num_images, batch_size, ranks)
    assert read.shape == (num_images // (batch_size * ranks), ranks, batch_size)
    assert len(np.unique(read)) == read.size > num_images - batch_size * ranks
    assert read.min() >= 0 and read.max() < num_images


def test_the_global_batch_is_the_same_for_every_number_of_ranks():
    one = read_epoch(101, 12, 1).reshape(-1, 12)
    for ranks in (2, 3, 4, 6, 12):
        np.testing.assert_array_equal(read_epoch(101, 12 // ranks, ranks).reshape(-1, 12), one)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 8), st.integers(1, 4), st.integers(1, 4))
def test_other_ranks_go_on_where_some_stopped_with_no_image_twice(updates_done, batch_size, ranks):
    before = read_epoch(101, 4, 3)[:updates_done]
    after = read_epoch(101, batch_size, ranks, start=before.size)
    both = np.concatenate([before.ravel(), after.ravel()])
    assert len(np.unique(both)) == len(both) > 101 - batch_size * ranks


def test_the_order_depends_on_seed_and_epoch_alone():
    order = EpochOrder(1000, batch_size=10, seed=3)
    first, second = order.indices(0, 40).copy(), order.indices(1, 40).copy()
    np.testing.assert_array_equal(order.indices(0, 40), first)
    orders = [permutation(1000, seed, epoch) for seed in (3, 4) for epoch in (0, 1, 2)]
    for i, one in enumerate(orders):
        np.testing.assert_array_equal(np.sort(one), np.arange(1000))
        for other in orders[:i]:
            assert (one == other).sum() < 10  # 1 is expected, more than 9 once in a million
    np.testing.assert_array_equal(first, orders[0][40:50])
    np.testing.assert_array_equal(second, orders[1][40:50])


def test_the_order_stays_the_same_over_versions():
    """Runs are resumed by it."""
    assert permutation(10, seed=7, epoch=2).tolist() == [8, 0, 3, 4, 5, 6, 7, 2, 1, 9]


def test_what_is_left_out_differs_from_epoch_to_epoch():
    left_out = [set(range(103)) - set(read_epoch(103, 10, 2, epoch=epoch).ravel()) for epoch in range(40)]
    assert all(len(images) == 3 for images in left_out)
    assert len(set.union(*left_out)) > 50  # 72 expected


def test_every_place_gets_every_image_as_often():
    """χ² over 5 images × 5 places × 2,000 epochs."""
    counts = np.zeros((5, 5))
    for epoch in range(2000):
        counts[np.arange(5), permutation(5, 0, epoch)] += 1
    assert ((counts - 400) ** 2 / 400).sum() < 40  # 16 degrees of freedom: 0.1 % of seeds exceed 39


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 0}, "batch size is at least 1 image a rank, got 0"),
        ({"batch_size": -3}, "batch size is at least 1 image a rank, got -3"),
        ({"batch_size": 1, "seed": -1}, "seed is a whole number from 0 up, got -1"),
        ({"batch_size": 2, "ranks": 6}, "2 images on each of 6 ranks, 12 in all, and the data has 11: give"),
        (
            {"batch_size": 1, "ranks": 12},
            "1 images on each of 12 ranks, 12 in all, and the data has 11: give",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochOrder(11, **arguments)


def test_17_million_images_take_seconds_and_one_integer_each():
    start = time.process_time()
    order = EpochOrder(17_091_657, batch_size=64, rank=3, ranks=8)
    assert len(order.indices(5, 64 * 8 * 1000)) == 64
    assert time.process_time() - start < 5
    assert order._order_N.nbytes == 4 * 17_091_657
