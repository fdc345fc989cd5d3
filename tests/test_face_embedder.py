"""Images of every kind to the embeddings that the formula gives, by models of both kinds and by any name of them."""

import re
import shutil

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc import FaceEmbedder
from partial_fc.data.decode import decode
from partial_fc.testing_models import png, project, projection, write_onnx_projection, write_projection

SIZE, EMBEDDING = 8, 5
WEIGHT = projection(SIZE, EMBEDDING)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run's directory."""
    directory = tmp_path_factory.mktemp("models") / "r50-faces"
    write_projection(directory, WEIGHT)
    return directory


def random_images(count, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_are_those_of_the_formula(model, flip, normalize):
    embedder = FaceEmbedder.load(model, batch_size=4, flip=flip, normalize=normalize, image_size=SIZE)
    assert (embedder.embedding_size, embedder.image_size, embedder.batch_size) == (EMBEDDING, SIZE, 4)
    for count in (1, 3, 4, 11):
        images_NHWC = random_images(count)
        embedding_ND = embedder(images_NHWC)
        assert embedding_ND.dtype == np.float32 and embedding_ND.shape == (count, EMBEDDING)
        expected_ND = project(WEIGHT, images_NHWC, flip=flip, normalize=normalize)
        np.testing.assert_allclose(embedding_ND, expected_ND, rtol=1e-5, atol=1e-4)  # sums of 192 terms below 4


@pytest.mark.parametrize("batch", ["N", 4])
def test_an_onnx_file_gives_what_the_checkpoint_gives(model, tmp_path, batch):
    write_onnx_projection(tmp_path / "model.onnx", WEIGHT, image_size=SIZE, batch=batch)
    ours = FaceEmbedder.load(model, batch_size=4, flip=True, image_size=SIZE)
    theirs = FaceEmbedder.load(tmp_path / "model.onnx", batch_size=3, flip=True)
    assert theirs.batch_size == (3 if batch == "N" else 4)
    images_NHWC = random_images(6)
    np.testing.assert_allclose(theirs(images_NHWC), ours(images_NHWC), atol=1e-5)
    assert theirs.digest != ours.digest


def test_mean_and_std_are_one_number_or_three(model):
    images_NHWC = random_images(2)
    given = [FaceEmbedder.load(model, image_size=SIZE, mean=mean, std=2) for mean in (3, (3.0,), [3, 3, 3])]
    first, *others = (embedder(images_NHWC) for embedder in given)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)
    assert given[0].digest == given[1].digest
    assert np.abs(first - project(WEIGHT, images_NHWC, flip=False)).max() > 1e-3
    with pytest.raises(ValueError, match="mean must be one number or three"):
        FaceEmbedder.load(model, image_size=SIZE, mean=(1, 2))


def test_images_of_every_kind(model, tmp_path):
    embedder = FaceEmbedder.load(model, batch_size=3, image_size=SIZE, workers=3)
    images_NHWC = random_images(7)
    expected_ND = embedder(images_NHWC)
    (tmp_path / "5.png").write_bytes(png(images_NHWC[5]))
    (tmp_path / "6.png").write_bytes(png(images_NHWC[6]))
    mixed = [
        images_NHWC[0], png(images_NHWC[1]), bytearray(png(images_NHWC[2])),
        mx.nd.array(images_NHWC[3], dtype=np.uint8), np.asfortranarray(images_NHWC[4]),
        tmp_path / "5.png", str(tmp_path / "6.png"),
    ]  # fmt: skip
    np.testing.assert_allclose(embedder(mixed), expected_ND, atol=1e-6)
    np.testing.assert_allclose(embedder(mx.nd.array(images_NHWC, dtype=np.uint8)), expected_ND, atol=1e-6)
    for place, image in enumerate(mixed):
        alone_1D = embedder([image] if place == 3 else image)
        np.testing.assert_allclose(alone_1D, expected_ND[place : place + 1], atol=1e-6)
    assert embedder([]).shape == (0, EMBEDDING)


def test_other_sizes_are_resized_as_files_are(model):
    embedder = FaceEmbedder.load(model, image_size=SIZE)
    large_HWC = random_images(1, 19)[0]
    resized_HWC = decode(png(large_HWC), (SIZE, SIZE))
    expected_1D = project(WEIGHT, resized_HWC[None], flip=False)
    np.testing.assert_allclose(embedder([large_HWC]), expected_1D, atol=1e-5)
    np.testing.assert_allclose(embedder([png(large_HWC)]), expected_1D, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 13), batch_size=st.integers(1, 7), workers=st.integers(1, 4))
def test_batches_and_workers_do_not_matter(model, count, batch_size, workers):
    images_NHWC = random_images(count, seed=count)
    embedder = FaceEmbedder.load(model, batch_size=batch_size, workers=workers, image_size=SIZE)
    np.testing.assert_allclose(embedder(images_NHWC), project(WEIGHT, images_NHWC, flip=False), atol=1e-5)


def test_names_of_a_model(model, tmp_path, monkeypatch):
    """A prefix with an epoch, a run, a checkpoint of it, a run of which only checkpoints are left."""
    images_NHWC = random_images(2)
    expected_ND = project(WEIGHT, images_NHWC, flip=False)
    run = tmp_path / "run"
    write_projection(run / "update-00000100", -WEIGHT)
    write_projection(run / "update-00002000", WEIGHT)
    for path in (model, f"{model}/model,0", run, run / "update-00002000", f"{run / 'update-00002000'}/"):
        np.testing.assert_allclose(FaceEmbedder.load(path, image_size=SIZE)(images_NHWC), expected_ND, atol=1e-5)
    monkeypatch.chdir(tmp_path)
    run.rename("lr=0.1")
    np.testing.assert_allclose(FaceEmbedder.load("lr=0.1", image_size=SIZE)(images_NHWC), expected_ND, atol=1e-5)
    run = tmp_path / "lr=0.1"
    older = FaceEmbedder.load(run / "update-00000100", image_size=SIZE)
    np.testing.assert_allclose(older(images_NHWC), -expected_ND, atol=1e-5)
    assert older.name == "update-00000100"
    assert older.digest != FaceEmbedder.load(run, image_size=SIZE).digest


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"text", "image 2 is neither JPEG nor PNG: 4 bytes"),
        ("{tmp}/broken.jpg", r"image 2 \(.*broken.jpg\) is a JPEG that is cut short|is neither"),
        (np.zeros((8, 8, 3), np.float32), r"image 2 must be uint8 RGB \(H, W, 3\), but is float32"),
        (np.zeros((8, 8), np.uint8), r"of the shape \(8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"of the shape \(0, 8, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"of the shape \(3, 8, 8\)"),
        (None, "image 2 must be uint8 RGB"),
    ],
)
def test_an_image_that_is_none_is_named(model, tmp_path, image, reason):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    embedder = FaceEmbedder.load(model, batch_size=2, image_size=SIZE)
    good_HWC = random_images(1)[0]
    image = image.format(tmp=tmp_path) if isinstance(image, str) else image
    with pytest.raises(ValueError, match=reason):
        embedder([good_HWC, good_HWC, image, good_HWC, good_HWC])
    assert embedder([good_HWC]).shape == (1, EMBEDDING), "it goes on"


def test_what_is_no_images_is_refused(model, tmp_path):
    embedder = FaceEmbedder.load(model, image_size=SIZE)
    with pytest.raises(ValueError, match="an array .* or a list of images, not dict"):
        embedder({})
    for shape in ((), (8, 8)):
        with pytest.raises(ValueError, match=rf"a list of images, not ndarray of the shape {re.escape(str(shape))}"):
            embedder(np.zeros(shape, np.uint8))
    with pytest.raises(FileNotFoundError, match="none.jpg"):
        embedder([tmp_path / "none.jpg"])


def test_an_embedding_without_direction_is_named(tmp_path):
    write_projection(tmp_path, 0 * WEIGHT)
    with pytest.raises(ValueError, match="3 of 3 embeddings are zero or not finite: image 0, image 1, image 2"):
        FaceEmbedder.load(tmp_path, image_size=SIZE)(random_images(3))


def test_what_is_no_model_is_refused(model, tmp_path):
    (tmp_path / "text.onnx").write_text("text")
    two = tmp_path / "two"
    shutil.copytree(model, two)
    shutil.copy(two / "model-0000.params", two / "model-0007.params")
    for path, reason in (
        (tmp_path, "holds no model: it needs NAME-symbol.json"),
        (two, "holds 2 models: name one of them, such as .*two/model,7"),
        (tmp_path / "none", "a model is given as PREFIX,EPOCH"),
        (f"{tmp_path}/none,0", "none-symbol.json, which the model"),
        (tmp_path / "text.onnx", "text.onnx is not an ONNX model"),
        (tmp_path / "none.onnx", "none.onnx is not there"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            FaceEmbedder.load(path)
    for wrong, reason in (
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"workers": 0}, "at least 1 worker"),
        ({"image_size": 0}, "image size must be at least 1 pixel, but is 0"),
        ({"image_size": -5}, "image size must be at least 1 pixel, but is -5"),
    ):
        with pytest.raises(ValueError, match=reason):
            FaceEmbedder.load(model, **({"image_size": SIZE} | wrong))
