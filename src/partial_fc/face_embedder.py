"""A trained model in use: face images in, embeddings out.

    x_n = f(I_n), or with flip f(I_n) + f(mirror of I_n)
    e_n = x_n / |x_n|

N images, D the embedding size, S the side of the model's input, B images of a batch, V views of an image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import mxnet as mx
import numpy as np

from partial_fc.data.decode import decode, resize
from partial_fc.device import compute_context
from partial_fc.evaluation.embedding import IMAGE, MIRROR, embed_batches, flip_sum, load_batch
from partial_fc.evaluation.images import NAMED_AT_MOST
from partial_fc.evaluation.model import CheckpointModel
from partial_fc.evaluation.onnx_model import OnnxModel
from partial_fc.evaluation.open_model import ModelName, model_digest, open_model
from partial_fc.evaluation.pixel_form import ModelOptions

Image = np.ndarray | bytes | str | os.PathLike[str]
"""uint8 RGB (H, W, 3), or what is made into such an array; the bytes of a JPEG or PNG; the path of one."""


class Embedded(NamedTuple):
    """A batch's embeddings; rows that have no direction, for they came out as zero or not finite, are zero."""

    embeddings_BD: np.ndarray
    is_broken_B: np.ndarray


class FaceEmbedder:
    """A model, ready to embed images of faces that are aligned as those that it was trained on.

        embedder = FaceEmbedder.load("models/r50-cosface-emore")
        embedding_ND = embedder(["a.jpg", "b.jpg"])
        cosine = embedding_ND[0] @ embedding_ND[1]

    Not for several threads at once.

    Args:
        model: as :func:`partial_fc.evaluation.open_model.open_model` opens it.
        name: of it.
        flip: whether an image's embedding is that of the image and that of its mirror, summed.
        normalize: whether rows have unit length; if not, they are x_n as the model gives them.
        workers: threads that read and decode images while others are embedded.
        output: which of the model's outputs it is, where that was said; a part of the digest.

    Attributes:
        batch_size, image_size, embedding_size: B, S, D.
        model: what gives x_n, of batches of uint8 images.
    """

    def __init__(
        self,
        model: CheckpointModel | OnnxModel,
        name: ModelName,
        *,
        flip: bool = False,
        normalize: bool = True,
        workers: int = 2,
        output: str | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"reading images takes at least 1 worker, got {workers}")
        self.name = name.name
        self.flip, self.normalize, self.workers = flip, normalize, workers
        self.batch_size, self.image_size = model.batch_size, model.image_size
        self.embedding_size = model.embedding_size
        self.model, self._name, self._output = model, name, output

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        batch_size: int = 64,
        flip: bool = False,
        normalize: bool = True,
        workers: int = 2,
        context: mx.Context | None = None,
        image_size: int | None = None,
        colour: str | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        output: str | None = None,
    ) -> FaceEmbedder:
        """Opens a model.

        Args:
            path: `PREFIX,EPOCH` of an MXNet checkpoint, the directory of a run (its newest model) or of one of its
                checkpoints (`update-…`), or `FILE.onnx`.
            batch_size: images that are computed at once, at most; an ONNX file may fix another number.
            context: the device; the GPU where MXNet sees one, else the CPU. An ONNX file runs on the GPU of that number
                wherever the installed onnxruntime is one for GPUs.
            image_size, colour, mean, std: S, "rgb" or "bgr", and (pixel − mean) / std by one number or three, where the
                model does not say them itself.
            output: the embedding among the model's outputs.

        Raises:
            ValueError: the model is not what it should be, or an option is out of its range.
            OSError: a file is not there or cannot be read.
        """
        name = ModelName(Path(path).absolute().name, os.fspath(path))
        options = ModelOptions(image_size, colour, _numbers(mean), _numbers(std), output)
        model = open_model(name, context or compute_context(), batch_size, options)
        return cls(model, name, flip=flip, normalize=normalize, workers=workers, output=output)

    def __call__(self, images: np.ndarray | mx.nd.NDArray | Image | Sequence[Image]) -> np.ndarray:
        """`embedding_ND` float32 of N images; of one that comes without a list, N = 1.

        Images of another size than S × S are resized. The result does not depend on the number of workers; on B and
        N it does as far as the sums of the device do, some 1e-6.

        Args:
            images: uint8 RGB (N, H, W, 3), or a sequence, each of its items an array (H, W, 3), the bytes of a JPEG or
                PNG, or the path of one.

        Raises:
            ValueError: an image, which is named, is not of these, does not decode, or its embedding is zero or not
                finite.
            OSError: a file cannot be read.
        """
        given = _as_sequence(images)
        embedding_ND = np.empty((len(given), self.embedding_size), np.float32)
        broken: list[int] = []
        batches = [range(i, min(i + self.batch_size, len(given))) for i in range(0, len(given), self.batch_size)]
        pixels = partial(_pixels_of, given, image_size=self.image_size)
        for batch, (embedding_BD, is_broken_B) in zip(batches, self.embed_batches(batches, pixels), strict=True):
            embedding_ND[batch.start : batch.stop] = embedding_BD
            broken += (batch.start + np.flatnonzero(is_broken_B)).tolist()
        if broken:
            shown = ", ".join(_name_of(given, index) for index in broken[:NAMED_AT_MOST])
            more = f", … and {len(broken) - NAMED_AT_MOST} more" if len(broken) > NAMED_AT_MOST else ""
            raise ValueError(f"{len(broken)} of {len(given)} embeddings are zero or not finite: {shown}{more}")
        return embedding_ND

    def embed_batches(
        self, batches: Iterable[range], pixels: Callable[[int], np.ndarray]
    ) -> Iterator[Embedded]:
        """The embeddings of each batch, of at most B images, in order; batches are asked for as workers are free.

        Args:
            pixels: uint8 RGB (S, S, 3) of the image of a number; called from many threads.

        Raises:
            ValueError: the model does not give (B, D); and what `pixels` raises.
        """

        def load(batch: range) -> np.ndarray:
            return load_batch(pixels, batch, self.image_size, self._padded(len(batch)))

        views = (IMAGE, MIRROR) if self.flip else (IMAGE,)
        for embeddings_VBD in embed_batches(batches, load, self.model.embed, views, self.workers):
            yield self._finish(embeddings_VBD)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that an embedding depends on besides the image, flip and normalize: the model's files too."""
        return model_digest(self._name, self.model, self._output)

    def __str__(self) -> str:
        form = self.model.form
        return f"{self.name}: {self.embedding_size} numbers of {self.image_size}×{self.image_size} {form}"

    def _padded(self, count: int) -> int:
        """How many images go into the model for `count`: few shapes for its library to prepare for."""
        if not self.model.takes_fewer:
            return self.batch_size
        return min(1 << (count - 1).bit_length(), self.batch_size)

    def _finish(self, embeddings_VBD: np.ndarray) -> Embedded:
        sum_BD = flip_sum(embeddings_VBD)
        norm_B = np.linalg.norm(sum_BD, axis=1)
        is_broken_B = ~np.isfinite(norm_B) | (norm_B == 0)
        if self.normalize:
            sum_BD /= np.where(is_broken_B, 1, norm_B)[:, None]
        sum_BD[is_broken_B] = 0
        return Embedded(sum_BD.astype(np.float32), is_broken_B)


def _as_sequence(images: np.ndarray | mx.nd.NDArray | Image | Sequence[Image]) -> Sequence[Image]:
    if isinstance(images, mx.nd.NDArray):
        images = images.asnumpy()
    if isinstance(images, bytes | bytearray | memoryview | str | os.PathLike):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim in (1, 3, 4):
        return [images] if images.ndim == 3 else images
    if not isinstance(images, Sequence):
        shape = f" of the shape {images.shape}" if isinstance(images, np.ndarray) else ""
        what = f"{type(images).__name__}{shape}"
        raise ValueError(f"images must be an array (N, H, W, 3) or a list of images, not {what}")
    return images


def _numbers(value: float | Sequence[float] | None) -> tuple[float, ...] | None:
    return None if value is None else tuple(map(float, np.ravel(value)))


def _name_of(images: Sequence[Image], index: int) -> str:
    image = images[index]
    return f"image {index} ({os.fsdecode(image)})" if isinstance(image, str | os.PathLike) else f"image {index}"


def _pixels_of(images: Sequence[Image], index: int, image_size: int) -> np.ndarray:
    """uint8 RGB (S, S, 3) of an image. Raises ValueError that names it, or OSError."""
    image = images[index]
    side = (image_size, image_size)
    try:
        if isinstance(image, str | os.PathLike):
            return decode(Path(image).read_bytes(), side)
        if isinstance(image, bytes | bytearray | memoryview):
            return decode(bytes(image), side)
        array_HWC = image.asnumpy() if isinstance(image, mx.nd.NDArray) else np.asarray(image)
    except ValueError as error:
        raise ValueError(f"{_name_of(images, index)} {error}") from error
    if array_HWC.dtype != np.uint8 or array_HWC.ndim != 3 or array_HWC.shape[2] != 3 or 0 in array_HWC.shape:
        raise ValueError(
            f"image {index} must be uint8 RGB (H, W, 3), but is {array_HWC.dtype} of the shape {array_HWC.shape}"
        )
    return array_HWC if array_HWC.shape[:2] == side else resize(array_HWC, side)
