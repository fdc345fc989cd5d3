"""The LRU in both forms against an OrderedDict and a plain list, on random sequences."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.head.kernels.build import LRU_SOURCE, build
from partial_fc.head.lru import LRU, Uses

FORMS = ("C", "plain")


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    build(LRU_SOURCE)


class OrderedDictLRU:
    """The reference: identity → slot, least recently used first. Undoes by the copies it keeps."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.slots: OrderedDict[int, int] = OrderedDict()
        self.copies: list[OrderedDict[int, int]] = []

    def use(self, identity: int) -> tuple[int, bool]:
        hit = identity in self.slots
        if not hit and len(self.slots) < self.capacity:
            self.slots[identity] = min(set(range(self.capacity)) - set(self.slots.values()))
        elif not hit:
            self.slots[identity] = self.slots.popitem(last=False)[1]
        self.slots.move_to_end(identity)
        return self.slots[identity], hit

    def get(self, identities: list[int]) -> list[tuple[int, bool]]:
        self.copies.clear()
        return [self.use(identity) for identity in identities]

    def try_get(self, identities: list[int]) -> list[tuple[int, bool]]:
        outcome = []
        for identity in identities:
            self.copies.append(OrderedDict(self.slots))
            outcome.append(self.use(identity))
        return outcome

    def rollback(self, n: int) -> None:
        for _ in range(n):
            self.slots = self.copies.pop()

    def view(self, identities: list[int]) -> list[int]:
        return [self.slots.get(identity, -1) for identity in identities]

    def order(self) -> list[tuple[int, int]]:
        return list(reversed(self.slots.items()))


class ListLRU(OrderedDictLRU):
    """Another one: a list of (identity, slot), most recently used first, searched from its start."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: list[tuple[int, int]] = []
        self.copies = []

    def use(self, identity: int) -> tuple[int, bool]:
        for number, entry in enumerate(self.entries):
            if entry[0] == identity:
                self.entries.insert(0, self.entries.pop(number))
                return entry[1], True
        if len(self.entries) < self.capacity:
            slot = next(s for s in range(self.capacity) if all(s != taken for _, taken in self.entries))
        else:
            slot = self.entries.pop()[1]
        self.entries.insert(0, (identity, slot))
        return slot, False

    def try_get(self, identities: list[int]) -> list[tuple[int, bool]]:
        outcome = []
        for identity in identities:
            self.copies.append(list(self.entries))
            outcome.append(self.use(identity))
        return outcome

    def rollback(self, n: int) -> None:
        for _ in range(n):
            self.entries = self.copies.pop()

    def view(self, identities: list[int]) -> list[int]:
        return [dict(self.entries).get(identity, -1) for identity in identities]

    def order(self) -> list[tuple[int, int]]:
        return list(self.entries)


def pairs(uses: Uses) -> list[tuple[int, bool]]:
    return list(zip(uses.slot_N.tolist(), uses.hit_N.tolist(), strict=True))


def order_of(lru: LRU) -> list[tuple[int, int]]:
    state = lru.state()
    return list(zip(state["identities"].tolist(), state["slots"].tolist(), strict=True))


# Few small identities, so that hits, evictions and returns all occur, and the largest ones.
_IDENTITY = st.one_of(st.integers(0, 12), st.integers(2**63 - 3, 2**63 - 1))
_OPERATION = st.tuples(
    st.sampled_from(["get", "try_get", "view", "rollback", "restore"]),
    st.lists(_IDENTITY, max_size=9),
    st.integers(0, 20),
)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=150, deadline=None)
@given(capacity=st.integers(1, 7), operations=st.lists(_OPERATION, max_size=25))
def test_every_operation_does_what_the_references_do(form, capacity, operations):
    lru, references = LRU(capacity, form), [OrderedDictLRU(capacity), ListLRU(capacity)]
    for name, identities, number in operations:
        identity_N = np.array(identities, dtype=np.int64)
        if name in ("get", "try_get"):
            outcome = pairs(getattr(lru, name)(identity_N))
            expected = [getattr(reference, name)(identities) for reference in references]
        elif name == "view":
            outcome = lru.view(identity_N).tolist()
            expected = [reference.view(identities) for reference in references]
        elif name == "rollback":
            n = min(number, len(references[0].copies))
            lru.rollback(n)
            outcome, expected = None, [reference.rollback(n) for reference in references]
        else:
            state = lru.state()
            lru = LRU(capacity, form)
            lru.restore(state)
            outcome, expected = None, [reference.copies.clear() for reference in references]
        assert [outcome] * 2 == expected
        assert [order_of(lru)] * 2 == [reference.order() for reference in references]
        assert len(lru) == len(references[0].slots)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), capacity=st.integers(1, 300))
def test_both_forms_do_the_same_at_length(seed, capacity):
    rng = np.random.default_rng(seed)
    tables = [LRU(capacity, form) for form in FORMS]
    for _ in range(8):
        identity_N = rng.integers(0, 2 * capacity + 1, rng.integers(0, 2 * capacity + 2))
        before = [lru.state() for lru in tables]
        uses = [lru.try_get(identity_N) for lru in tables]
        np.testing.assert_equal(uses[0], uses[1])
        for lru in tables:
            lru.rollback(len(identity_N))
        np.testing.assert_equal([lru.state() for lru in tables], before)
        np.testing.assert_equal(tables[0].get(identity_N), tables[1].get(identity_N))
    np.testing.assert_equal(tables[0].state(), tables[1].state())


@pytest.mark.parametrize("form", FORMS)
def test_a_state_may_have_any_slots_and_the_lowest_free_ones_are_taken_next(form):
    lru = LRU(5, form)
    lru.restore({"capacity": 5, "identities": [70, 30], "slots": [3, 1]})
    assert pairs(lru.get([1, 2, 30, 3, 4])) == [(0, False), (2, False), (1, True), (4, False), (3, False)]
    assert order_of(lru) == [(4, 3), (3, 4), (30, 1), (2, 2), (1, 0)]


@pytest.mark.parametrize("form", FORMS)
def test_rolling_back_past_what_is_on_trial_is_refused(form):
    lru = LRU(3, form)
    lru.try_get([1, 2])
    lru.get([3])
    with pytest.raises(ValueError, match="from 0 to 0 uses on trial can be undone, but not 1"):
        lru.rollback(1)
    lru.try_get([4])
    with pytest.raises(ValueError, match="from 0 to 1 uses on trial can be undone, but not 2"):
        lru.rollback(2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("identities", "said"),
    [([3, -1], "-1"), ([2**63], "9223372036854775808"), ([1, 2**70], str(2**70)), ([0.5], "0.5"), (["a"], "'a'")],
)
def test_what_is_no_identity_is_refused_and_nothing_is_used(form, identities, said):
    lru = LRU(3, form)
    lru.get([5])
    for method in (lru.get, lru.try_get, lru.view):
        with pytest.raises(ValueError, match=r"an identity must be an integer in \[0, 2\^63\), but one is " + said):
            method(np.array(identities))
    assert order_of(lru) == [(5, 0)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity": 4}, "the saved pool has 4 slots and this one has 3"),
        ({"slots": [1, 1]}, "must not hold the same slot twice, but 1 is"),
        ({"identities": [8, 8]}, "must not hold the same identity twice, but 8 is"),
        ({"slots": [0, 3]}, r"must lie in \[0, 3\), but one is 3"),
        ({"slots": [0, -1]}, r"must lie in \[0, 3\), but one is -1"),
        ({"slots": [0.0, 1.0]}, r"must lie in \[0, 3\), but one is 0.0"),
        ({"slots": [0]}, "a slot for each identity, but has 2 and 1"),
        ({"identities": [-4, 8]}, r"in \[0, 2\^63\), but one is -4"),
    ],
)
def test_a_broken_state_is_refused_and_changes_nothing(form, change, message):
    lru = LRU(3, form)
    lru.get([8, 9])
    state = lru.state()
    with pytest.raises(ValueError, match=message):
        lru.restore(deepcopy(state) | change)
    np.testing.assert_equal(lru.state(), state)


@pytest.mark.parametrize("capacity", [0, -1, 2**30 + 1])
def test_a_capacity_out_of_its_range_is_refused(capacity):
    with pytest.raises(ValueError, match=f"must have from 1 to 1073741824 slots, but has {capacity}"):
        LRU(capacity)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="must be one of auto, C, plain, but is 'rust'"):
        LRU(3, "rust")
