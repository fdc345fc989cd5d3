"""Pairs and instances: every identity once an epoch, two images of each, the same on any number of ranks, resumable."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from partial_fc.data.combined import CombinedSource
from partial_fc.data.identities import IdentityIndex
from partial_fc.data.pair_loader import IdentityLoader, PairOrder, open_pair_loader


class ListSource:
    """Images in memory, each of one colour that is its number; labels as given."""

    name = "list"

    def __init__(self, labels, identities=None):
        self._labels = np.array(labels, dtype=np.int64)
        self.num_identities = identities or int(self._labels.max()) + 1
        pixels = [np.full((8, 8, 3), number, np.uint8) for number in range(len(labels))]
        for pixel in pixels:
            pixel[:, 4:] += 100  # a mirrored one is told from one that is not
        self.images = [cv2.imencode(".png", pixel)[1].tobytes() for pixel in pixels]

    def __len__(self):
        return len(self.images)

    def read(self, index):
        return self.images[index], int(self._labels[index])

    def where(self, index):
        return f"image {index}"

    def labels(self):
        return self._labels

    def close(self):
        pass


LABELS = [0, 0, 0, 1, 1, 3, 4, 4, 5, 5, 5, 5, 6, 7, 8]  # identity 2 has no image, 3 and 6 to 8 have one


def make(source, **options):
    return open_pair_loader(source, 0, **({"batch_size": 2, "image_size": 8, "seed": 5} | options))


def identities_of(batches):
    return np.concatenate([batch.labels_B[:2] for batch in batches])


def test_an_epoch_has_each_identity_once_and_pairs_of_distinct_images():
    order = PairOrder(IdentityIndex(np.array(LABELS), 9), batch_size=2, seed=3)
    labels, seen = np.array(LABELS), set()
    epochs = []
    for epoch in range(40):
        pairs = np.concatenate([order.indices(epoch, position).reshape(2, 2) for position in (0, 2, 4, 6)], axis=1)
        first, second = pairs
        np.testing.assert_array_equal(labels[first], labels[second])
        assert sorted(labels[first].tolist()) == [0, 1, 3, 4, 5, 6, 7, 8]
        several = np.bincount(labels)[labels[first]] > 1
        assert (first != second).tolist() == several.tolist()
        epochs.append(tuple(labels[first].tolist()))
        seen |= {(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True) if labels[a] == 5}
    assert len(set(epochs)) == 40  # shuffled anew each time
    assert len(seen) == 12  # of four images, all pairs both ways


def test_x_and_y_have_half_of_the_instances_each():
    batch = make(ListSource(LABELS)).next_batch()
    assert batch.images_BHWC.shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(batch.labels_B[:2], batch.labels_B[3:5])
    np.testing.assert_array_equal(np.array(LABELS)[batch.indices_B], batch.labels_B)
    left, right = batch.images_BHWC[:, 0, 0, 0].astype(int), batch.images_BHWC[:, 0, -1, 0].astype(int)
    np.testing.assert_array_equal(np.minimum(left, right), batch.indices_B)


def test_the_images_of_a_pair_are_mirrored_independently():
    loader = IdentityLoader(ListSource(list(range(9))), batch_size=8, image_size=8, seed=1)
    differ = 0
    for _ in range(12):  # all have but one image: a pair shows it twice
        images = loader.next_batch().images_BHWC
        differ += (images[:8] != images[8:]).any(axis=(1, 2, 3)).sum()
    assert 24 <= differ <= 72  # half of 96
    loader.close()


def test_two_ranks_together_see_what_one_would():
    whole = make(ListSource(LABELS), batch_size=4)
    parts = [make(ListSource(LABELS), batch_size=2, ranks=2, rank=rank) for rank in range(2)]
    for _ in range(5):
        expected, batches = whole.next_batch(), [part.next_batch() for part in parts]
        pairs = np.concatenate([batch.indices_B[:2] for batch in batches])
        np.testing.assert_array_equal(pairs, expected.indices_B[:4])
        instances = np.concatenate([batch.indices_B[[2, 5]] for batch in batches])
        np.testing.assert_array_equal(instances, expected.indices_B[[4, 5, 10, 11]])


def test_a_position_is_resumed_exactly_across_the_ends_of_both_epochs():
    loader = make(ListSource(LABELS))
    for _ in range(9):
        loader.next_batch()
    state = json.loads(json.dumps(loader.state()))
    expected = [loader.next_batch() for _ in range(7)]
    resumed = make(ListSource(LABELS))
    resumed.next_batch()
    resumed.restore(state)
    for batch in expected:
        for ours, theirs in zip(resumed.next_batch(), batch, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_labels_of_several_sets_are_offset_alike_in_both_loaders():
    source = CombinedSource([ListSource([0, 0, 1]), ListSource([0, 1, 1, 2])])
    loader = make(source)
    expected = np.array([0, 0, 1, 2, 3, 3, 4])
    for _ in range(6):
        batch = loader.next_batch()
        np.testing.assert_array_equal(batch.labels_B, expected[batch.indices_B])


def test_random_images_come_in_pairs():
    loader = open_pair_loader(None, 10**7, batch_size=4, image_size=8, rank=1, ranks=2, seed=1)
    batch = loader.next_batch()
    assert batch.images_BHWC.shape == (12, 8, 8, 3)
    np.testing.assert_array_equal(batch.labels_B[:4], batch.labels_B[6:10])
    assert (batch.labels_B[4:6] != batch.labels_B[10:12]).all() and batch.labels_B.max() < 10**7


def test_fewer_identities_than_a_step_takes_are_refused():
    with pytest.raises(ValueError, match="8 identities on each of 2 ranks, 16 in all, and the data has 8"):
        make(ListSource(LABELS), batch_size=8, ranks=2)
    with pytest.raises(ValueError, match="halves a rank's 3 instances: set --batch-size to an even number"):
        make(ListSource(LABELS), batch_size=3)
