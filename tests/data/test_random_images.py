import numpy as np
import pytest

from partial_fc.data.random_images import RandomLoader


def loaders(ranks, batch_size, **options):
    options = {"image_size": 6, "seed": 3} | options
    return [
        RandomLoader(1009, batch_size=batch_size, rank=rank, ranks=ranks, **options) for rank in range(ranks)
    ]


def global_batch(ranks):
    batches = [loader.next_batch() for loader in ranks]
    assert len({batch.position for batch in batches}) == 1
    return np.concatenate([b.images_BHWC for b in batches]), np.concatenate([b.labels_B for b in batches])


def test_batches_have_their_shapes_and_types():
    for image_size, shape in ((6, (5, 6, 6, 3)), ((6, 8), (5, 6, 8, 3))):
        (loader,) = loaders(1, 5, image_size=image_size)
        for _ in range(40):  # past the end of the pool
            images, labels, epoch, position, indices = loader.next_batch()
            assert images.shape == shape and images.dtype == np.uint8 and images.flags.c_contiguous
            assert labels.shape == (5,) and labels.dtype == np.int64
            assert epoch == 0 and indices.tolist() == list(range(position, position + 5))
            assert images.std() > 60  # noise over the whole range: 74


def test_the_global_batch_is_the_same_for_every_number_of_ranks():
    one, three = loaders(1, 12), loaders(3, 4)
    for _ in range(30):
        for a, b in zip(global_batch(one), global_batch(three), strict=True):
            np.testing.assert_array_equal(a, b)


def test_labels_are_uniform_over_all_identities():
    loader = RandomLoader(50, batch_size=1000, image_size=2, seed=1)
    counts = np.bincount(np.concatenate([loader.next_batch().labels_B for _ in range(50)]), minlength=50)
    assert len(counts) == 50
    assert ((counts - 1000) ** 2 / 1000).sum() < 86  # 49 degrees of freedom: 0.1 % of seeds exceed 85.4


def test_labels_of_a_hundred_million_identities():
    (loader,) = loaders(1, 4096)
    loader.num_identities = 100_000_000
    labels = loader.next_batch().labels_B
    assert labels.min() < 1_000_000 and labels.max() > 99_000_000 and labels.max() < 100_000_000
    assert len(np.unique(labels)) > 4090


def test_the_series_differs_with_the_seed_and_from_update_to_update():
    (a,), (b,) = loaders(1, 8), loaders(1, 8, seed=4)
    first, second, other = a.next_batch(), a.next_batch(), b.next_batch()
    assert (first.labels_B != second.labels_B).any() and (first.labels_B != other.labels_B).any()
    assert (first.images_BHWC != second.images_BHWC).any() and (first.images_BHWC != other.images_BHWC).any()


def test_a_state_is_gone_on_from_by_any_number_of_ranks():
    one = loaders(1, 12)
    for _ in range(5):
        global_batch(one)
    three = loaders(3, 4)
    for loader in three:
        loader.restore(one[0].state())
    for a, b in zip(global_batch(one), global_batch(three), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="belongs to seed = 3 and this run has seed = 4"):
        loaders(1, 4, seed=4)[0].restore(one[0].state())


def test_images_are_views_that_nobody_writes_to():
    (loader,) = loaders(1, 8)
    images = loader.next_batch().images_BHWC
    assert images.base is not None
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


@pytest.mark.parametrize(
    "identities, batch_size, image_size, message",
    [
        (0, 1, 1, "number of identities"),
        (1, 0, 1, "batch size"),
        (1, 1, 0, "image size"),
        (1, 1, (3, -1), "image size"),
    ],
)
def test_sizes_below_one_are_refused(identities, batch_size, image_size, message):
    with pytest.raises(ValueError, match=f"the {message} is at least 1, got"):
        RandomLoader(identities, batch_size=batch_size, image_size=image_size)
