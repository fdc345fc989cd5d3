"""Which image of whom is where, and the pairs of the verification set."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.data.faces.identity import NUM_IDENTITIES
from partial_fc.data.faces.plan import FOLDS, FaceSetPlan


@settings(max_examples=30, deadline=None)
@given(
    identities=st.integers(1, 50),
    per_identity=st.integers(1, 7),
    held_out=st.integers(20, 97),
    tens=st.integers(1, 12),
)
def test_pairs(identities, per_identity, held_out, tens):
    plan = FaceSetPlan(identities, per_identity, held_out, 20 * tens)
    images = [plan[n] for n in range(len(plan))]
    training, verification = images[: plan.training_images], images[plan.training_images :]
    assert training == [(i, j) for i in range(identities) for j in range(per_identity)]

    pairs = np.array(verification).reshape(-1, 2, 2)
    same = pairs[:, 0, 0] == pairs[:, 1, 0]
    np.testing.assert_array_equal(same, plan.is_same())
    for fold in np.split(same, FOLDS):
        assert fold.sum() * 2 == len(fold)

    people = set(pairs[:, :, 0].ravel().tolist())
    assert min(people) >= NUM_IDENTITIES - held_out > max(i for i, _ in training)
    folds = [set(fold[:, :, 0].ravel().tolist()) for fold in np.split(pairs, FOLDS)]
    assert sum(map(len, folds)) == len(people)  # nobody is in two folds
    assert max(Counter(verification).values()) == 1  # no image is in two pairs


def test_different_pairs_are_of_different_people_as_long_as_there_are_any():
    plan = FaceSetPlan(1, 1, 70, 400)
    pairs = np.array([plan[n] for n in range(1, len(plan))])[:, 0].reshape(-1, 2)[~plan.is_same()]
    assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == len(pairs)


def test_the_held_out_people_do_not_depend_on_how_many_are_trained_on():
    small, large = FaceSetPlan(3, 2, 40, 100), FaceSetPlan(100_000, 5, 40, 100)
    assert [small[6 + n] for n in range(200)] == [large[500_000 + n] for n in range(200)]


def test_a_large_set_needs_no_list_of_its_images():
    plan = FaceSetPlan(10_000_000, 50)
    assert plan[len(plan) - 2 * plan.pairs - 1] == (9_999_999, 49)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("identities", 0),
        ("images_per_identity", 0),
        ("held_out_identities", 19),
        ("pairs", 0),
        ("pairs", 30),
        ("seed", -1),
        ("image_size", 31),
        ("quality", 101),
        ("identities", NUM_IDENTITIES - 3),
    ],
)
def test_a_number_outside_its_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        FaceSetPlan(**{field: value})
