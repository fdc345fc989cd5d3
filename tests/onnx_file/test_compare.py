"""Images to compare with, and embeddings that cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest

from partial_fc.onnx_file.compare import check_images, unit_embeddings


class Gives:
    def __init__(self, *rows):
        self.rows_BD = np.float32(rows)

    def embed(self, images_BHWC):
        return self.rows_BD


@pytest.mark.parametrize("size", [5, 56, 112, 1100])
def test_images_are_two_faces_and_noise(size):
    images_BHWC = check_images(size)
    assert images_BHWC.shape == (3, size, size, 3) and images_BHWC.dtype == np.uint8
    np.testing.assert_array_equal(images_BHWC, check_images(size))
    if size > 50:
        rough = [np.abs(np.diff(image.astype(int), axis=1)).mean() for image in images_BHWC]
        assert max(rough[:2]) < 30 < 60 < rough[2]
        assert np.abs(images_BHWC[0].astype(int) - images_BHWC[1]).mean() > 10


def test_embeddings_are_unit():
    np.testing.assert_allclose(unit_embeddings(Gives((3, 4), (0, -2)), None, "it"), [[0.6, 0.8], [0, -1]], rtol=1e-6)


@pytest.mark.parametrize("row", [(0, 0), (1, np.nan), (np.inf, 1)])
def test_what_has_no_direction_is_refused(row):
    with pytest.raises(ValueError, match="it gives an embedding that is not finite, or zero"):
        unit_embeddings(Gives((1, 1), row), None, "it")
