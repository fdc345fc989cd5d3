import json
import logging
import threading

import cv2
import numpy as np
import pytest

from partial_fc.augmentation import Augmentation
from partial_fc.data.augment import mirror_flags
from partial_fc.data.decode import decode
from partial_fc.data.loader import TrainingLoader
from partial_fc.data.order import permutation
from partial_fc.data.records import RecordSource

UNCHANGED = Augmentation(mirror=0)


class ListSource:
    """Images in memory, some of them no images; image i has the label i mod 7."""

    name = "list"
    num_identities = 7

    def __init__(self, count, bad=()):
        rng = np.random.default_rng(0)
        self.images = [
            cv2.imencode(".png", rng.integers(0, 256, (6, 8, 3)))[1].tobytes() for _ in range(count)
        ]
        self.errors = {}
        self.reads = 0
        for i in bad:
            self.images[i] = b"broken"

    def __len__(self):
        return len(self.images)

    def read(self, index):
        self.reads += 1
        if index in self.errors:
            raise self.errors[index]
        return self.images[index], index % 7

    def where(self, index):
        return f"image {index}"

    def close(self):
        pass


def make_loader(source, **options):
    return TrainingLoader(source, **({"batch_size": 4, "image_size": (6, 8), "seed": 5} | options))


def take(loader, count):
    return [loader.next_batch() for _ in range(count)]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for a, b in zip(batch, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mirror", [False, True])
def test_batches_hold_the_images_of_the_order(mirror):
    source = ListSource(23)
    with make_loader(source, rank=1, ranks=2, batch_size=3, augmentation=Augmentation(mirror=0.5 * mirror)) as loader:
        assert loader.updates_per_epoch == 3
        for update, batch in enumerate(take(loader, 7)):
            epoch, position = update // 3, update % 3 * 6
            indices = permutation(23, 5, epoch)[position + 3 : position + 6]
            assert (batch.epoch, batch.position) == (epoch, position)
            assert batch.indices_B.tolist() == indices.tolist()
            assert batch.labels_B.dtype == np.int64 and batch.labels_B.tolist() == (indices % 7).tolist()
            assert batch.images_BHWC.dtype == np.uint8 and batch.images_BHWC.flags.c_contiguous
            flags = mirror_flags(5, epoch, indices) & mirror
            for image, index, flag in zip(batch.images_BHWC, indices, flags, strict=True):
                np.testing.assert_array_equal(image, decode(source.images[index], mirror=flag))


def test_an_epoch_of_all_ranks_holds_every_image_once():
    source = ListSource(24)
    read = []
    for rank in range(3):
        with make_loader(source, rank=rank, ranks=3, batch_size=2) as loader:
            read += [index for batch in take(loader, loader.updates_per_epoch) for index in batch.indices_B]
            assert take(loader, 1)[0].epoch == 1
    assert sorted(read) == list(range(24))


def test_content_does_not_depend_on_threads_and_prefetch():
    source = ListSource(400, bad=[17, 18])
    with make_loader(source, batch_size=40, threads=1, prefetch=0) as loader:
        expected = take(loader, 15)
    for threads, prefetch in ((1, 2), (2, 1), (5, 4)):
        with make_loader(source, batch_size=40, threads=threads, prefetch=prefetch) as loader:
            assert_same(take(loader, 15), expected)


def test_batches_belong_to_whom_they_are_handed():
    with make_loader(ListSource(8)) as loader:
        first = loader.next_batch()
        kept = first.images_BHWC.copy()
        take(loader, 9)
        np.testing.assert_array_equal(first.images_BHWC, kept)


def test_the_next_batches_are_made_before_they_are_asked_for_and_no_more():
    source = ListSource(400)
    with make_loader(source, prefetch=3) as loader:
        loader.next_batch()
        for batch in range(1, 5):
            for pending in loader._pending:
                for task in pending.tasks:
                    task.result(timeout=60)
            assert source.reads == 4 * (batch + 3)
            loader.next_batch()


def test_images_of_another_size_are_resized():
    with make_loader(ListSource(8), image_size=5) as loader:
        assert loader.next_batch().images_BHWC.shape == (4, 5, 5, 3)


def test_what_does_not_decode_is_replaced_by_the_next_image_that_does(caplog):
    source = ListSource(400, bad=[100, 101, 399])
    with make_loader(source, batch_size=20, augmentation=UNCHANGED) as loader:
        batches = take(loader, 20)
        assert loader.replaced == 3
        take(loader, 20)
        assert loader.replaced == 6
    stood_in = {100: 102, 101: 102, 399: 0}
    for batch in batches:
        for image, label, index in zip(batch.images_BHWC, batch.labels_B, batch.indices_B, strict=True):
            index = stood_in.get(index, index)
            assert label == index % 7
            np.testing.assert_array_equal(image, decode(source.images[index]))
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    for index in stood_in:
        assert sum(message.startswith(f"image {index} is neither JPEG nor PNG") for message in warnings) == 2


@pytest.mark.parametrize("bad, stops", [(4, False), (5, True)])
def test_more_than_one_percent_of_an_epoch_stops(bad, stops):
    """The limit is on the images that this rank reads in an epoch: 1 % of 400, here."""
    order = permutation(800, 5, 0).reshape(-1, 2, 20)
    source = ListSource(800, bad=order[:, 1].ravel()[-bad:])
    with make_loader(source, batch_size=20, rank=1, ranks=2) as loader:
        take(loader, 19)
        if not stops:
            take(loader, 1)
            assert loader.replaced == 4
            return
        for _ in range(2):  # and it stays
            with pytest.raises(
                ValueError, match="^5 images of this epoch did not decode, more than 1 % .* image "
            ):
                loader.next_batch()


def test_the_limit_is_on_each_epoch_for_itself():
    source = ListSource(400, bad=[1, 2, 3, 4])
    with make_loader(source, batch_size=20) as loader:
        take(loader, 100)
        assert loader.replaced == 20


def test_a_source_without_a_sound_image_stops_at_once():
    source = ListSource(1000, bad=range(1000))
    with (
        make_loader(source) as loader,
        pytest.raises(ValueError, match="images of this epoch did not decode"),
    ):
        loader.next_batch()
    assert source.reads < 500


def test_errors_of_the_source_are_raised_in_their_place():
    source = ListSource(40)
    source.errors[int(permutation(40, 5, 0)[10])] = ValueError("record 17 is broken")
    with make_loader(source, threads=3) as loader:
        take(loader, 2)
        for _ in range(2):
            with pytest.raises(ValueError, match="^record 17 is broken$"):
                loader.next_batch()


def test_a_run_goes_on_where_it_stopped():
    source = ListSource(43)
    with make_loader(source) as loader:
        expected = take(loader, 25)
    for stop in (0, 1, 9, 10, 11, 20):
        with make_loader(source) as loader:
            take(loader, stop)
            state = json.loads(json.dumps(loader.state()))
        with make_loader(source) as loader:
            take(loader, 3)
            loader.restore(state)
            assert_same(take(loader, 25 - stop), expected[stop:])


def test_another_number_of_ranks_goes_on_with_the_rest_of_the_epoch():
    source = ListSource(43)
    with make_loader(source, batch_size=8) as loader:
        read = [index for batch in take(loader, 2) for index in batch.indices_B]
        state = loader.state()
    for rank in range(3):
        with make_loader(source, rank=rank, ranks=3, batch_size=3) as loader:
            loader.restore(state)
            read += [index for batch in take(loader, 3) for index in batch.indices_B]
            assert loader.next_batch().epoch == 1
    assert len(read) == len(set(read)) == 43


def test_the_count_of_replaced_images_goes_on_too():
    source = ListSource(400, bad=[1, 2, 3, 4, 5])
    with make_loader(source, batch_size=20) as loader:
        while loader.replaced < 3:
            loader.next_batch()
        state = loader.state()
    with make_loader(source, batch_size=20) as loader:
        loader.restore(state)
        with pytest.raises(ValueError, match="5 images of this epoch"):
            take(loader, 20)


def test_a_state_of_other_data_is_refused():
    with make_loader(ListSource(8)) as loader:
        state = loader.state()
        for key, value in (("images", 9), ("seed", 6)):
            with pytest.raises(
                ValueError, match=f"belongs to {key} = {value} and this run has {key} = {state[key]}"
            ):
                loader.restore(state | {key: value})


@pytest.mark.parametrize("when", ["at once", "after a batch", "after an error"])
def test_close_ends_all_threads(when):
    before = threading.active_count()
    source = ListSource(400)
    loader = make_loader(source, threads=3, prefetch=20)
    if when == "after a batch":
        loader.next_batch()
    if when == "after an error":
        source.errors = dict.fromkeys(range(400), ValueError("broken"))
        with pytest.raises(ValueError, match="broken"):
            loader.next_batch()
    loader.close()
    loader.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threads": 0}, "at least 1 thread, got 0"),
        ({"image_size": 0}, "at least 1 pixel, got 0"),
        ({"image_size": (112, -1)}, r"at least 1 pixel, got \(112, -1\)"),
        ({"batch_size": 0}, "at least 1 image a rank, got 0"),
        ({"batch_size": 9}, "9 in all, and the data has 8"),
        ({"ranks": 3}, "4 images on each of 3 ranks, 12 in all, and the data has 8"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_loader(ListSource(8), **options)


def test_real_faces(shared_data):
    source = RecordSource(shared_data / "lfw" / "train.rec")
    with TrainingLoader(source, batch_size=32, image_size=112, augmentation=UNCHANGED) as loader:
        batch = loader.next_batch()
    for image, label, index in zip(batch.images_BHWC, batch.labels_B, batch.indices_B, strict=True):
        data, expected = source.read(index)
        assert label == expected
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(image, bgr[:, :, ::-1])


ALL_CHANGES = Augmentation.parse("mirror=0.5,crop=0.5,color=0.5,grey=0.3,blur=0.5,jpeg=0.5,erase=0.5")


def test_augmentation_does_not_depend_on_ranks_and_threads():
    source = ListSource(48)

    def images_of(**options):
        found = {}
        with make_loader(source, augmentation=ALL_CHANGES, **options) as loader:
            for batch in take(loader, loader.updates_per_epoch):
                for index, image in zip(batch.indices_B, batch.images_BHWC, strict=True):
                    found[int(index)] = image
        return found

    alone = images_of(batch_size=48, threads=1)
    shared = images_of(batch_size=4, threads=3, ranks=3) | images_of(batch_size=4, ranks=3, rank=1)
    assert len(shared) == 32
    for index, image in shared.items():
        np.testing.assert_array_equal(image, alone[index])
    changed = sum((image != decode(source.images[index])).any() for index, image in alone.items())
    assert changed > 36


def test_augmentation_goes_on_where_a_run_stopped():
    source = ListSource(43)
    with make_loader(source, augmentation=ALL_CHANGES) as loader:
        take(loader, 7)
        state = loader.state()
        expected = take(loader, 8)
    with make_loader(source, augmentation=ALL_CHANGES) as loader:
        loader.restore(state)
        assert_same(take(loader, 8), expected)
