import functools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.augmentation import Augmentation
from partial_fc.data.augment import Augmenter, mirror_flags, random_bits, uniforms

MASK = (1 << 64) - 1


def naive_mix(number):
    number = (number + 0x9E3779B97F4A7C15) & MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def test_the_hash_is_splitmix64():
    """Its first outputs from the seed 1234567, as published with the reference implementation."""
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(naive_mix(state))
        state += 0x9E3779B97F4A7C15
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    key = naive_mix(naive_mix(naive_mix(5) + 7) + 2 * 0x9E3779B97F4A7C15)
    indices = np.array([0, 1, 17_000_000, (1 << 40) + 3])
    expected = [naive_mix((key + int(i) * 0x9E3779B97F4A7C15) & MASK) for i in indices]
    assert random_bits(5, 7, indices, draw=2).tolist() == expected


def test_flags_depend_on_seed_epoch_and_image_alone():
    indices = np.array([5, 900, 17, 3])
    flags = mirror_flags(1, 2, indices)
    assert flags.dtype == bool
    everyone = mirror_flags(1, 2, np.arange(1000))
    np.testing.assert_array_equal(flags, everyone[indices])


def test_flags_are_fair_and_independent():
    n = 20_000
    draws = {(seed, epoch): mirror_flags(seed, epoch, np.arange(n)) for seed in (0, 1) for epoch in (0, 1, 2)}
    five_sigma = 5 * np.sqrt(n) / 2
    for key, flags in draws.items():
        assert abs(flags.sum() - n / 2) < five_sigma
        assert abs((flags[1:] == flags[:-1]).sum() - n / 2) < five_sigma  # neighbours
        for other, other_flags in draws.items():
            if other > key:
                assert abs((flags == other_flags).sum() - n / 2) < five_sigma, (key, other)


def test_every_bit_is_fair_for_every_draw():
    bits = np.stack([random_bits(3, 4, np.arange(4096), draw) for draw in range(4)])
    counts = np.unpackbits(bits.view(np.uint8).reshape(4, 4096, 8), axis=2).sum(1, dtype=np.int64)
    assert (abs(counts - 2048) < 6 * 32).all()  # 256 counts, six standard deviations
    assert len(np.unique(bits)) == bits.size


# ---- the changes ----

CHANGES = ("crop", "color", "grey", "blur", "jpeg", "erase")
SEED, EPOCH = 7, 3


def photo(height=64, width=48):
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def changed(augmentation, image, indices, epoch=EPOCH, seed=SEED):
    """The image as each of `indices`, mirroring apart."""
    changes = Augmenter(augmentation, seed).changes(epoch, np.asarray(indices))
    return [functools.reduce(lambda x, change: change(x), changes.get(row, []), image) for row in range(len(indices))]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_depends_on_seed_epoch_and_image_alone(name):
    augmentation, image = Augmentation(**{name: 0.5}), photo()
    everyone = changed(augmentation, image, range(200))
    some = [150, 3, 77, 8]
    for index, other in zip(some, changed(augmentation, image, some), strict=True):
        np.testing.assert_array_equal(other, everyone[index])
    moved = [(x != image).any() for x in everyone]
    assert 60 < sum(moved) < 140
    for others in (changed(augmentation, image, range(200), seed=8), changed(augmentation, image, range(200), epoch=4)):
        assert sum((x != y).any() for x, y in zip(everyone, others, strict=True)) > 60


@pytest.mark.parametrize("name", CHANGES)
def test_other_changes_do_not_decide_over_one(name):
    """The rows and numbers of a change are the same whatever else is switched on."""
    alone = Augmenter(Augmentation(**{name: 0.4}), SEED).changes(EPOCH, np.arange(100))
    others = Augmentation(**(dict.fromkeys(CHANGES, 1.0) | {name: 0.4}))
    together = Augmenter(others, SEED).changes(EPOCH, np.arange(100))
    place = CHANGES.index(name)
    for row in range(100):
        assert len(together[row]) == 5 + (row in alone)
        if row in alone:
            np.testing.assert_array_equal(alone[row][0](photo()), together[row][place](photo()))


def test_the_numbers_of_different_changes_are_independent():
    n = 20_000
    chosen = [
        np.isin(np.arange(n), list(Augmenter(Augmentation(**{name: 0.5}), SEED).changes(EPOCH, np.arange(n))))
        for name in CHANGES
    ] + [mirror_flags(SEED, EPOCH, np.arange(n))]
    for i, flags in enumerate(chosen):
        for other in chosen[:i]:
            assert abs((flags == other).sum() - n / 2) < 5 * np.sqrt(n) / 2


@pytest.mark.parametrize("probability", [0, 0.2, 1])
def test_a_change_is_made_as_often_as_said(probability):
    n = 10_000
    augmenter = Augmenter(Augmentation(mirror=probability, grey=probability), SEED)
    for count in (len(augmenter.changes(0, np.arange(n))), int(augmenter.mirrored(0, np.arange(n)).sum())):
        assert abs(count - probability * n) <= 5 * np.sqrt(n * probability * (1 - probability))


def test_nothing_is_done_when_all_is_off():
    assert Augmenter(Augmentation.parse("none"), SEED).changes(EPOCH, np.arange(1000)) == {}
    assert not Augmenter(Augmentation.parse("none"), SEED).mirrored(EPOCH, np.arange(1000)).any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from(CHANGES), st.integers(0, 1000), st.integers(0, 2**62)
)
def test_shape_and_type_stay_for_any_size(height, width, name, index, seed):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    original = image.copy()
    (result,) = changed(Augmentation(**{name: 1.0}), image, [index], seed=seed)
    assert result.shape == (height, width, 3) and result.dtype == np.uint8
    np.testing.assert_array_equal(image, original)


def test_a_crop_is_a_part_enlarged():
    """Of a ramp, whose colour is its column and row, the part can be read from the corners."""
    rows, columns = np.mgrid[0:100, 0:100]
    ramp = np.dstack([2 * columns, 2 * rows, 0 * rows]).astype(np.uint8)
    sides = []
    for result in changed(Augmentation(crop=1, crop_strength=0.5), ramp, range(100)):
        left, top = result[0, 0, :2] / 2
        right, bottom = result[-1, -1, :2] / 2
        assert abs((right - left) - (bottom - top)) <= 2
        sides.append((right - left + 1) / 100)
        assert -0.5 <= left and right <= 99.5
    assert 0.48 <= min(sides) < 0.55 and 0.95 < max(sides) <= 1


def test_colours_follow_the_equation():
    image = photo()
    augmentation = Augmentation(color=1, color_strength=0.4)
    for index, result in enumerate(changed(augmentation, image, range(20))):
        brightness, contrast, saturation = (
            1 + 0.4 * (2 * uniforms(SEED, EPOCH, np.array([index]), 32 + k)[0] - 1) for k in (1, 2, 3)
        )
        luma = np.array([0.299, 0.587, 0.114])
        expected = image * brightness
        mean = (expected @ luma).mean()
        expected = mean + contrast * (expected - mean)
        grey = (expected @ luma)[:, :, None]
        expected = grey + saturation * (expected - grey)
        assert np.abs(result - np.clip(expected, 0, 255)).max() < 1  # OpenCV has 10 bits of the factors


def test_no_strength_is_no_change_of_colour_or_place():
    image = photo()
    for augmentation in (Augmentation(color=1, color_strength=0), Augmentation(crop=1, crop_strength=0)):
        for result in changed(augmentation, image, range(20)):
            np.testing.assert_array_equal(result, image)


def test_grey_has_the_luma_of_the_image():
    (result,) = changed(Augmentation(grey=1), photo(), [0])
    assert (result == result[:, :, :1]).all()
    assert np.abs(result[:, :, 0] - photo() @ [0.299, 0.587, 0.114]).max() <= 1


def test_blur_and_jpeg_take_detail_away_and_keep_the_mean():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    blurred = changed(Augmentation(blur=1, blur_strength=3), noise, range(20))
    for result in blurred:
        assert result.std() <= noise.std() and np.abs(result.mean((0, 1)) - noise.mean((0, 1))).max() < 10
    assert min(result.std() for result in blurred) < noise.std() / 5
    assert np.median([result.std() for result in blurred]) < noise.std() / 2
    errors = {}
    for strength in (1, 95):
        images = changed(Augmentation(jpeg=1, jpeg_strength=strength), photo(), range(20))
        errors[strength] = np.mean([np.abs(image.astype(int) - photo()).mean() for image in images])
    assert errors[95] < errors[1] / 2 and 0 < errors[1] < 40


def test_an_erased_rectangle_is_noise_and_the_rest_stays():
    shares, aspects = [], []
    image = np.full((100, 100, 3), 128, np.uint8)
    for result in changed(Augmentation(erase=1, erase_strength=0.3), image, range(200)):
        rows, columns = np.nonzero((result != image).any(2))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width or len(rows) > 0.99 * height * width  # all of the noise is in it
        assert result[rows, columns].std() > 60
        shares.append(height * width / 1e4)
        aspects.append(height / width)
    assert 0.015 < min(shares) < 0.05 and 0.25 < max(shares) < 0.32
    assert min(aspects) < 0.5 and max(aspects) > 2
