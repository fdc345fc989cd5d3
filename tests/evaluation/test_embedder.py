"""Embeddings are kept by content alone, a damaged file is never believed, and ranks share what one of them has."""

import cv2
import numpy as np
import pytest

from partial_fc.collectives import RankError, SingleProcess, run_thread_ranks
from partial_fc.evaluation import embedding_cache
from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.embedding_cache import EmbeddingCache, cache_key, list_digest
from partial_fc.evaluation.images import EncodedImages, ImageFiles

SIZE, COUNT = 6, 7


class PixelModel:
    """A linear map of the pixels that counts the batches it is given."""

    batch_size, image_size, embedding_size = 3, SIZE, 5

    def __init__(self, scale=1.0):
        self.weight = scale * np.random.default_rng(1).normal(size=(SIZE * SIZE * 3, 5)).astype(np.float32)
        self.batches = 0

    def embed(self, images_BHWC):
        self.batches += 1
        return images_BHWC.reshape(len(images_BHWC), -1) @ self.weight


@pytest.fixture
def files(tmp_path):
    pixels = np.random.default_rng(3).integers(1, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(COUNT)]
    for path, pixels_HWC in zip(paths, pixels, strict=True):
        cv2.imwrite(str(path), pixels_HWC)
    return paths


def embedder(tmp_path, model=None, collectives=None, digest="model"):
    return Embedder(
        "m", model or PixelModel(), collectives or SingleProcess(), EmbeddingCache(tmp_path / "kept"), digest
    )


def test_a_second_pass_costs_nothing(tmp_path, files):
    model = PixelModel()
    first = embedder(tmp_path, model).embed(ImageFiles("a", files))
    assert model.batches == 6  # 3 batches of two views
    again = embedder(tmp_path, model).embed(EncodedImages("b", [path.read_bytes() for path in files]))
    assert model.batches == 6, "the same bytes under another name are the same images"
    np.testing.assert_array_equal(again, first)
    alone = embedder(tmp_path, model).embed(ImageFiles("a", files), flip=False)
    np.testing.assert_array_equal(alone, first[:1])
    assert model.batches == 6 and len(list((tmp_path / "kept").iterdir())) == 2


def test_the_mirrors_alone_are_computed_where_they_alone_lack(tmp_path, files):
    model = PixelModel()
    embedder(tmp_path, model).embed(ImageFiles("a", files), flip=False)
    both = embedder(tmp_path, model).embed(ImageFiles("a", files))
    assert model.batches == 6
    np.testing.assert_array_equal(both, Embedder("m", PixelModel(), SingleProcess()).embed(ImageFiles("a", files)))


def test_another_model_image_or_order_is_another_key(tmp_path, files):
    model = PixelModel()
    embedder(tmp_path, model).embed(ImageFiles("a", files))
    before = model.batches
    embedder(tmp_path, model, digest="other").embed(ImageFiles("a", files))
    assert model.batches == 2 * before
    embedder(tmp_path, model).embed(ImageFiles("a", files[::-1]))
    assert model.batches == 3 * before
    files[0].write_bytes(files[1].read_bytes())
    embedder(tmp_path, model).embed(ImageFiles("a", files))
    assert model.batches == 4 * before
    points = np.random.default_rng(0).uniform(1, 5, (COUNT, 5, 2))
    plain, aligned = ImageFiles("a", files), ImageFiles("a", files, points)
    assert list_digest(plain, SingleProcess()) != list_digest(aligned, SingleProcess())
    moved = ImageFiles("a", files, points + 1)
    assert list_digest(moved, SingleProcess()) != list_digest(aligned, SingleProcess())


@pytest.mark.parametrize("damage", ["cut", "flip", "other key", "empty", "no array"])
def test_a_damaged_file_is_not_believed(tmp_path, files, damage, caplog):
    first = embedder(tmp_path).embed(ImageFiles("a", files), flip=False)
    (path,) = (tmp_path / "kept").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-40])
    elif damage == "flip":
        content[200] ^= 1
        path.write_bytes(content)
    elif damage == "other key":
        EmbeddingCache(tmp_path / "kept").save("0" * 64, first[0] + 1)
        (tmp_path / "kept" / f"{'0' * 64}.npz").replace(path)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        np.savez(path, other=first)
    model = PixelModel()
    again = embedder(tmp_path, model).embed(ImageFiles("a", files), flip=False)
    assert model.batches == 3 and "is damaged and not used" in caplog.text
    np.testing.assert_array_equal(again, first)
    assert embedder(tmp_path, model).embed(ImageFiles("a", files), flip=False).shape == first.shape
    assert model.batches == 3, "it was written anew"


def test_a_disk_that_takes_nothing_costs_the_cache_alone(tmp_path, files, caplog):
    (tmp_path / "kept").write_text("in the way")
    assert embedder(tmp_path).embed(ImageFiles("a", files)).shape == (2, COUNT, 5)
    assert "the embeddings are not kept" in caplog.text


def test_ranks_share_what_the_first_has(tmp_path, files, monkeypatch):
    monkeypatch.setattr(embedding_cache, "_BYTES_PER_ROUND", 64)
    expected = embedder(tmp_path).embed(ImageFiles("a", files))
    models = [PixelModel() for _ in range(3)]

    def run(collectives):
        own = tmp_path if collectives.rank == 0 else tmp_path / f"disk of rank {collectives.rank}"
        return embedder(own, models[collectives.rank], collectives).embed(ImageFiles("a", files))

    for result in run_thread_ranks(3, run):
        np.testing.assert_array_equal(result, expected)
    assert [model.batches for model in models] == [0, 0, 0]
    assert not list(tmp_path.glob("disk*")), "one rank alone writes"


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_same_on_any_number_of_ranks(tmp_path, files, ranks):
    expected = Embedder("m", PixelModel(), SingleProcess()).embed(ImageFiles("a", files))

    def run(collectives):
        return embedder(tmp_path, None, collectives).embed(ImageFiles("a", files))

    for result in run_thread_ranks(ranks, run):
        np.testing.assert_array_equal(result, expected)
    key = cache_key("model", True, list_digest(ImageFiles("a", files), SingleProcess()))
    np.testing.assert_array_equal(EmbeddingCache(tmp_path / "kept").load(key), expected[1])


@pytest.mark.parametrize("scale", [0.0, np.nan])
def test_an_embedding_without_direction_is_named_and_not_kept(tmp_path, files, scale):
    def run(collectives):
        with pytest.raises(RankError, match=r"a: 7 of 7 embeddings are zero or not finite: .*0.png, .*6.png"):
            embedder(tmp_path, PixelModel(scale), collectives).embed(ImageFiles("a", files))

    run_thread_ranks(2, run)
    assert not (tmp_path / "kept").exists()


def test_missing_files_are_told_together(tmp_path, files):
    gone = [tmp_path / f"gone{i}.png" for i in range(12)]
    with pytest.raises(
        FileNotFoundError, match=r"a: 12 of its 19 images are not there: .*gone0.*gone9.png, … and 2 more$"
    ):
        ImageFiles("a", files + gone)
    with pytest.raises(ValueError, match="a names no images"):
        ImageFiles("a", [])
    with pytest.raises(ValueError, match=r"need landmarks \(7, 5, 2\), not \(6, 5, 2\)"):
        ImageFiles("a", files, np.zeros((6, 5, 2)))
    with pytest.raises(ValueError, match="landmarks of 1 images are not finite .*2.png"):
        ImageFiles("a", files, np.where(np.arange(COUNT)[:, None, None] == 2, np.nan, np.zeros((COUNT, 5, 2))))
