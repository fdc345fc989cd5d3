"""The embeddings of an ONNX file beside those of the MXNet network that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import onnx
import onnxruntime

from partial_fc.data.faces.plan import FaceSetPlan
from partial_fc.data.faces.stream import draw_image
from partial_fc.evaluation.onnx_model import OnnxModel
from partial_fc.evaluation.pixel_form import ModelOptions
from partial_fc.onnx_file.graph import INPUT, OUTPUT

FACES, ALONE = 3, 1
"""Images embedded in one batch, and those of them once more in a batch of their own."""
_DRAWN_SIDES = (32, 1024)


class Model(Protocol):
    """What embeds batches of uint8 RGB images (B, S, S, 3)."""

    def embed(self, images_BHWC: np.ndarray) -> np.ndarray: ...


def check_images(image_size: int) -> np.ndarray:
    """`images_BHWC` uint8 RGB: faces as the project draws them, the last one turned into noise."""
    plan, side = FaceSetPlan(image_size=int(np.clip(image_size, *_DRAWN_SIDES))), (image_size, image_size)
    jpegs = [np.frombuffer(draw_image(plan, number * plan.images_per_identity), np.uint8) for number in range(FACES)]
    faces = [cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for jpeg in jpegs]
    images_BHWC = np.stack([cv2.resize(face, side, interpolation=cv2.INTER_AREA) for face in faces])
    images_BHWC[-1] = np.random.default_rng(0).integers(0, 256, images_BHWC[-1].shape, np.uint8)
    return images_BHWC


def unit_embeddings(model: Model, images_BHWC: np.ndarray, what: str) -> np.ndarray:
    """Embeddings over their length, float64.

    Raises:
        ValueError: one of them is not finite, or zero.
    """
    embeddings_BD = model.embed(images_BHWC).astype(np.float64)
    lengths_B = np.linalg.norm(embeddings_BD, axis=1, keepdims=True)
    if not (np.isfinite(lengths_B) & (lengths_B > 0)).all():
        raise ValueError(f"{what} gives an embedding that is not finite, or zero, for a drawn face")
    return embeddings_BD / lengths_B


def file_difference(path: Path, images_BHWC: np.ndarray, expected_BD: np.ndarray) -> float:
    """The largest difference in a number of the unit embeddings, from a file as `partial_fc.evaluate` opens it.

    Raises:
        ValueError: the file cannot be used, or gives an embedding that is not finite.
    """
    differences = []
    for count in (len(images_BHWC), ALONE):
        model = OnnxModel(path, count, ModelOptions(), device=None)  # a GPU's TF32 would differ by more than is allowed
        unit_BD = unit_embeddings(model, images_BHWC[:count], "the ONNX file")
        differences.append(np.abs(unit_BD - expected_BD[:count]).max())
    return float(max(differences))


def model_difference(model: onnx.ModelProto, images_BHWC: np.ndarray, expected_BD: np.ndarray, what: str) -> float:
    """The same of a model in memory that takes raw RGB pixels."""
    unit_BD = unit_embeddings(_InMemory(model), images_BHWC, what)
    return float(np.abs(unit_BD - expected_BD).max())


class _InMemory:
    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)

    def embed(self, images_BHWC: np.ndarray) -> np.ndarray:
        data = np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2)).astype(np.float32)
        return self._session.run([OUTPUT], {INPUT: data})[0]
