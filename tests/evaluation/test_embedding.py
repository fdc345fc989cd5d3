"""Embeddings do not depend on the ranks that computed them, and one rank's error is every rank's."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partial_fc.collectives import RankError, SingleProcess, run_thread_ranks
from partial_fc.evaluation import embedding
from partial_fc.evaluation.embedding import (
    IMAGE,
    MIRROR,
    contiguous_share,
    embed_images,
    flip_sum,
    unit_rows,
)
from partial_fc.evaluation.images import EncodedImages

SIZE = 6


def encode(pixels_HWC, extension=".png"):
    return cv2.imencode(extension, pixels_HWC[:, :, ::-1])[1].tobytes()


def faces(images):
    return EncodedImages("faces", images)


def random_pixels(count, height=SIZE, width=SIZE, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


class EmbedPixels:
    """A linear map of the pixels, and what it was asked."""

    def __init__(self, size=5):
        self.weight = np.random.default_rng(1).normal(size=(SIZE * SIZE * 3, size)).astype(np.float32)
        self.shapes = []

    def __call__(self, images_BHWC):
        assert images_BHWC.dtype == np.uint8 and images_BHWC.flags.c_contiguous
        self.shapes.append(images_BHWC.shape)
        return images_BHWC.reshape(len(images_BHWC), -1) @ self.weight


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("count", [1, 3, 4, 17])
@pytest.mark.parametrize("images_per_round", [1, 8, 1000])
def test_embeddings_on_any_number_of_ranks(monkeypatch, flip, count, images_per_round):
    monkeypatch.setattr(embedding, "IMAGES_PER_ROUND", images_per_round)
    pixels_NHWC = random_pixels(count)
    images = [encode(pixels) for pixels in pixels_NHWC]
    weight = EmbedPixels().weight
    views = [pixels_NHWC, pixels_NHWC[:, :, ::-1]][: 1 + flip]
    expected_VND = np.stack([view.reshape(count, -1) @ weight for view in views])

    def run(collectives):
        embed = EmbedPixels()
        embeddings_VND = embed_images(
            faces(images),
            embed,
            image_size=SIZE,
            batch_size=4,
            collectives=collectives,
            views=(IMAGE, MIRROR)[: 1 + flip],
        )
        return embeddings_VND, embed.shapes

    alone_VND, shapes = run(SingleProcess())
    assert alone_VND.dtype == np.float32
    np.testing.assert_allclose(alone_VND, expected_VND, rtol=1e-5, atol=1e-2)  # sums of 108 terms of 255
    assert set(shapes) == {(4, SIZE, SIZE, 3)}
    for ranks in (2, 3, 5):
        results = run_thread_ranks(ranks, run)
        for shared_VND, _ in results:
            np.testing.assert_array_equal(shared_VND, alone_VND)
        assert sum(len(shapes) for _, shapes in results) == len(shapes)


@given(total=st.integers(0, 50), ranks=st.integers(1, 9))
def test_shares_are_contiguous_and_even(total, ranks):
    shares = [range(total)[contiguous_share(total, rank, ranks)] for rank in range(ranks)]
    assert [i for share in shares for i in share] == list(range(total))
    sizes = [len(share) for share in shares]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("broken", [0, 9, 16])
def test_an_image_that_does_not_decode_is_every_ranks_error(ranks, broken):
    images = [encode(pixels) for pixels in random_pixels(17)]
    images[broken] = images[broken][:20]

    def run(collectives):
        with pytest.raises(RankError, match=f"image {broken} of faces is a PNG without a header"):
            embed_images(faces(images), EmbedPixels(), image_size=SIZE, batch_size=2, collectives=collectives)
        return collectives.rank

    assert run_thread_ranks(ranks, run) == list(range(ranks))


@pytest.mark.parametrize(
    "output",
    [lambda x: x, lambda x: x[:-1, :, 0, 0], lambda x: x[0, 0], lambda x: x[:, 0, 0, 0], lambda x: 1.0],
)
def test_a_model_must_give_an_embedding_an_image(output):
    images = [encode(pixels) for pixels in random_pixels(3)]
    with pytest.raises(RankError, match=r"one embedding an image, \(N, D\)"):
        embed_images(faces(images), output, image_size=SIZE, batch_size=2, collectives=SingleProcess())


def test_nothing_to_embed_is_refused():
    with pytest.raises(ValueError, match="faces holds no images"):
        embed_images(faces([]), len, image_size=SIZE, batch_size=2, collectives=SingleProcess())
    with pytest.raises(ValueError, match="batch size must be at least 1, but is 0"):
        embed_images(faces([b""]), len, image_size=SIZE, batch_size=0, collectives=SingleProcess())


def test_sums_and_unit_rows():
    embeddings_VND = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(flip_sum(embeddings_VND), embeddings_VND[0] + embeddings_VND[1], rtol=1e-5)
    assert flip_sum(embeddings_VND).dtype == np.float64
    rows_ND = unit_rows(embeddings_VND[0])
    assert rows_ND.dtype == np.float32
    np.testing.assert_allclose((rows_ND**2).sum(axis=1), 1, rtol=1e-6)
    broken_ND = np.ones((15, 4))
    broken_ND[2:14] = 0
    broken_ND[14, 3] = np.inf
    with pytest.raises(ValueError, match=r"13 of 15 .*the first: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\)"):
        unit_rows(broken_ND)
