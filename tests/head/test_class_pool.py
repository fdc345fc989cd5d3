"""The class pool against a pool of dictionaries: order of writes, trial and rollback, shards, what is refused."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.head.class_pool import ClassPool
from partial_fc.testing_f2c import NaivePool

SIZE = 3


def features(seed: int, count: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def content(pools: list[ClassPool]) -> tuple[np.ndarray, list[int], list[tuple[int, int]]]:
    """Prototypes of all slots, pointers, and (identity, slot) in the order of use; equal on every rank."""
    whole = np.stack([np.concatenate([pool.prototypes[p].asnumpy() for pool in pools]) for p in range(2)])
    orders = []
    for pool in pools:
        state = pool.lru.state()
        orders.append(list(zip(state["identities"].tolist(), state["slots"].tolist(), strict=True)))
        assert pool.pointer_Q.tolist() == pools[0].pointer_Q.tolist()
    assert all(order == orders[0] for order in orders)
    return whole, pools[0].pointer_Q.tolist(), orders[0]


def content_of_naive(pool: NaivePool) -> tuple[np.ndarray, list[int], list[tuple[int, int]]]:
    whole = np.array([[pool.prototypes[p, slot] for slot in range(pool.slots)] for p in range(2)])
    return whole, [pool.pointer[slot] for slot in range(pool.slots)], pool.entries


def assert_equal(actual, expected) -> None:
    # Both hold copies of features; the initial prototypes alone are normalised twice.
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-6)
    assert actual[1:] == expected[1:]


def make_pools(slots: int, ranks: int) -> list[ClassPool]:
    return [ClassPool(slots, SIZE, rank=rank, ranks=ranks, seed=4) for rank in range(ranks)]


@settings(max_examples=40, deadline=None)
@given(
    ranks=st.integers(1, 3),
    slots=st.integers(4, 9),
    batches=st.lists(st.tuples(st.lists(st.integers(0, 11), min_size=1, max_size=12), st.booleans()), max_size=6),
)
def test_updates_kept_and_rolled_back_are_those_of_the_reference(ranks, slots, batches):
    pools, naive = make_pools(slots, ranks), NaivePool.initial(slots, SIZE, 4)
    for number, (identities, kept) in enumerate(batches):
        if len(set(identities)) > slots:
            continue
        rows = features(number, len(identities))
        before = content(pools)
        again = [pool.try_update(np.array(identities), mx.nd.array(rows)).tolist() for pool in pools]
        trial = NaivePool(slots, list(naive.entries), dict(naive.prototypes), dict(naive.pointer))
        expected = trial.update(identities, rows)
        assert again == [sorted(expected)] * ranks
        assert_equal(content(pools), content_of_naive(trial))
        for pool in pools:
            pool.keep() if kept else pool.rollback()
        if kept:
            naive = trial
        else:
            after = content(pools)
            np.testing.assert_array_equal(after[0], before[0])  # exactly
            assert after[1:] == before[1:]
    assert_equal(content(pools), content_of_naive(naive))


def test_an_identity_three_times_in_a_batch_writes_in_order():
    pool = ClassPool(4, SIZE, seed=1)
    rows = features(0, 5)
    again = pool.try_update(np.array([7, 8, 7, 7, 9]), mx.nd.array(rows))
    assert again.tolist() == [0]
    np.testing.assert_array_equal(pool.prototypes[0].asnumpy()[0], rows[3])  # the third use, over the first
    np.testing.assert_array_equal(pool.prototypes[1].asnumpy()[0], rows[2])
    assert pool.pointer_Q.tolist() == [1, 1, 1, 0]


def test_slots_never_used_hold_directions_that_depend_on_the_slot_alone():
    whole = content(make_pools(11, 1))[0]
    np.testing.assert_array_equal(content(make_pools(11, 3))[0], whole)
    np.testing.assert_allclose(np.linalg.norm(whole[0], axis=1), 1, atol=1e-6)
    assert abs(whole[0].mean()) < 0.3  # in all directions, not in one corner of the space


def test_rows_are_announced_before_they_change():
    pool, told = ClassPool(5, SIZE, rank=1, ranks=2, seed=0), []
    pool.before_change = lambda rows: told.append((rows.tolist(), [p.asnumpy().copy() for p in pool.prototypes]))
    before = [p.asnumpy() for p in pool.prototypes]
    pool.try_update(np.arange(4), mx.nd.array(features(0, 4)))
    assert [rows for rows, _ in told] == [[0]]  # slot 3 of 3 and 4 here, prototype 0
    np.testing.assert_array_equal(told[0][1], before)
    pool.rollback()
    assert len(told) == 2


def test_more_identities_than_slots_are_refused_and_nothing_changes():
    pool = ClassPool(3, SIZE, seed=0)
    before = content([pool])
    with pytest.raises(ValueError, match="3 slots and the batch 4 identities: give the pool more slots"):
        pool.try_update(np.arange(4), mx.nd.array(features(0, 4)))
    with pytest.raises(ValueError, match=r"an identity must be an integer in \[0, 2\^63\), but one is -1"):
        pool.try_update(np.array([1, -1]), mx.nd.array(features(0, 2)))
    after = content([pool])
    np.testing.assert_array_equal(after[0], before[0])
    assert after[1:] == before[1:]


@pytest.mark.parametrize(("slots", "ranks"), [(0, 1), (1, 2), (-1, 1)])
def test_fewer_slots_than_ranks_are_refused(slots, ranks):
    with pytest.raises(ValueError, match=f"there are {slots} slots for {ranks} ranks: give the pool more slots"):
        ClassPool(slots, SIZE, ranks=ranks)


def test_a_part_that_no_array_holds_is_refused_before_memory_is_taken():
    with pytest.raises(ValueError, match="2.31 numbers, but 4194304 slots × 512 are more: start more ranks"):
        ClassPool(2**23, 512, ranks=2)
