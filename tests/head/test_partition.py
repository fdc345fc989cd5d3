from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.head.partition import ClassPartition


def owned_classes(partition: ClassPartition, rank: int) -> list[int]:
    start = partition.start(rank)
    return list(range(start, start + partition.count(rank)))


@pytest.mark.parametrize("num_classes", range(1, 31))
def test_every_class_has_exactly_one_owner(num_classes: int) -> None:
    for ranks in range(1, num_classes + 1):
        partition = ClassPartition(num_classes, ranks)
        in_rank_order = [number for rank in range(ranks) for number in owned_classes(partition, rank)]
        assert in_rank_order == list(range(num_classes))
        assert partition.start(ranks) == num_classes


def test_the_first_ranks_hold_one_more() -> None:
    partition = ClassPartition(23, 4)
    assert [partition.count(rank) for rank in range(4)] == [6, 6, 6, 5]
    assert [partition.start(rank) for rank in range(4)] == [0, 6, 12, 18]


@settings(max_examples=50)
@given(st.integers(1, 10**9), st.integers(1, 1024))
def test_no_rank_holds_more_than_one_above_another(num_classes: int, ranks: int) -> None:
    ranks = min(ranks, num_classes)
    partition = ClassPartition(num_classes, ranks)
    counts = [partition.count(rank) for rank in range(ranks)]
    assert sum(counts) == num_classes
    assert counts == sorted(counts, reverse=True)
    assert counts[0] - counts[-1] <= 1


@pytest.mark.parametrize(
    ("num_classes", "ranks", "message"),
    [
        (0, 1, "at least 1 identity, but got 0"),
        (5, 0, "number of ranks must be at least 1, but is 0"),
        (2, 3, "2 identities for 3 ranks: start at most 2 ranks"),
    ],
)
def test_a_rank_without_a_class_is_refused(num_classes: int, ranks: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassPartition(num_classes, ranks)
