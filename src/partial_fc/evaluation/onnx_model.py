"""ONNX models as functions from images to embeddings, run by onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from partial_fc.evaluation.onnx_check import read_onnx, weight_files
from partial_fc.evaluation.pixel_form import (
    ModelOptions,
    PixelForm,
    check_embeddings_shape,
    form_from_attributes,
    size_from_attributes,
)

DEFAULT_SIZE = 112
_ONNXRUNTIME_ERRORS = (
    RuntimeError,
    native.EPFail,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NotImplemented,
    native.RuntimeException,
)
_NORMALISING = {"Sub", "Mul", "Div", "Add", "BatchNormalization", "InstanceNormalization"}
_PASSING = {"Transpose", "Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Slice", "Split", "Concat", "Gather"}


class OnnxModel:
    """An ONNX file, for inference on batches of one shape, or of up to so many images.

    The input is its only one that is no initialiser, (N, 3, S, S) or (N, S, S, 3); the embedding its only output, or
    the one that is named. Where the file fixes N, that is the batch size. Pixels come as 0 to 255 where the graph
    subtracts, divides or normalises them before anything else, otherwise as the file's metadata says, otherwise as
    (pixel − 127.5) / 127.5, which is what InsightFace does with such files. Runs on the GPU `device` where the
    installed onnxruntime is one for GPUs, and on the CPU where it is None.

    Attributes:
        batch_size: B.
        takes_fewer: whether a batch may have fewer images than B: where the file does not fix N.
        image_size: S.
        embedding_size: D.
        form: of the pixels.

    Raises:
        ValueError: the file is not an ONNX model, or does not take images, or does not give (N, D).
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, batch_size: int, options: ModelOptions, device: int | None = 0) -> None:
        self._path = path
        graph = read_onnx(path).graph
        self._session = _open_session(path, device)
        attributes = self._session.get_modelmeta().custom_metadata_map
        shape = self._find_input()
        self._takes_rows_first = shape[3] == 3 and shape[1] != 3
        self.takes_fewer = not (isinstance(shape[0], int) and shape[0] > 0)
        self.batch_size = batch_size if self.takes_fewer else shape[0]
        self.image_size = self._find_size(shape, options.image_size, size_from_attributes(attributes))
        self.form = options.over(_find_form(graph, self._input, attributes))
        self._output = self._find_output(options.output)
        self.embedding_size = self._find_embedding_size()

    def embed(self, images_BHWC: np.ndarray) -> np.ndarray:
        """`embeddings_BD` float32, as the graph gives them (not normalised), of uint8 RGB (B, S, S, 3)."""
        assert images_BHWC.shape[1:] == (self.image_size, self.image_size, 3), images_BHWC.shape
        assert len(images_BHWC) == self.batch_size or (self.takes_fewer and len(images_BHWC) <= self.batch_size)
        return self._run(self.form.apply(images_BHWC)).astype(np.float32, copy=False)

    def _run(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        data = pixels_BHWC if self._takes_rows_first else np.ascontiguousarray(pixels_BHWC.transpose(0, 3, 1, 2))
        try:
            return self._session.run([self._output], {self._input: data.astype(self._dtype, copy=False)})[0]
        except _ONNXRUNTIME_ERRORS as error:
            raise ValueError(f"{self._path} does not take {data.shape}: {str(error).splitlines()[0]}") from error

    def _find_input(self) -> list[int | str | None]:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(f"{self._path} must have one input, but has {', '.join(one.name for one in inputs)}")
        (only,) = inputs
        if len(only.shape) != 4 or 3 not in (only.shape[1], only.shape[3]):
            raise ValueError(f"{self._path} must take images (N, 3, S, S) or (N, S, S, 3), but takes {only.shape}")
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
        if only.type not in types:
            raise ValueError(f"{self._path} must take floating-point pixels, but takes {only.type}")
        self._input, self._dtype = only.name, types[only.type]
        return only.shape

    def _find_size(self, shape: list[int | str | None], given: int | None, told: int | None) -> int:
        height, width = shape[1:3] if self._takes_rows_first else shape[2:4]
        sides = [side for side in (height, width) if isinstance(side, int) and side > 0]
        if len(set(sides)) == 2:
            raise ValueError(f"{self._path} takes images of {width}×{height}: only square ones are provided for")
        size = given or (sides[0] if sides else None) or told or DEFAULT_SIZE
        if sides and size != sides[0]:
            raise ValueError(f"{self._path} takes images of {sides[0]}×{sides[0]}, not of {size}×{size}")
        return size

    def _find_output(self, wanted: str | None) -> str:
        names = [output.name for output in self._session.get_outputs()]
        if wanted is not None and wanted not in names:
            raise ValueError(f"{self._path} has no output {wanted!r}, but {', '.join(names)}")
        if wanted is None and len(names) != 1:
            raise ValueError(f"{self._path} has the outputs {', '.join(names)}: name the embedding by --output")
        return wanted or names[0]

    def _find_embedding_size(self) -> int:
        images_BHWC = np.zeros((self.batch_size, self.image_size, self.image_size, 3), np.uint8)
        output = self._run(self.form.apply(images_BHWC))
        return check_embeddings_shape(output.shape, self.batch_size, f"the output of {self._path}")


def model_files(path: Path) -> list[Path]:
    """The file and those that hold its weights where they are apart from it, in a settled order."""
    return [path, *(path.parent / name for name in weight_files(read_onnx(path)))]


def _open_session(path: Path, device: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
    options.log_severity_level = 3
    providers: list[str | tuple[str, dict[str, int]]] = ["CPUExecutionProvider"]
    if device is not None and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device}))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except _ONNXRUNTIME_ERRORS as error:
        raise ValueError(f"onnxruntime does not take {path}: {str(error).splitlines()[0]}") from error


def _find_form(graph: onnx.GraphProto, name: str, attributes: dict[str, str]) -> PixelForm:
    told = form_from_attributes(attributes)
    if _normalises(graph, name):
        return PixelForm(colour=told.colour if told else "rgb", said_by="the graph normalises")
    assumed = PixelForm(mean=(127.5,), std=(127.5,), said_by="InsightFace's habit, for the file tells nothing")
    return told or assumed


def _normalises(graph: onnx.GraphProto, name: str) -> bool:
    """Whether the first nodes that the pixels meet are arithmetic: what comes after a convolution is the network's."""
    reached = {name}
    for node in graph.node:  # in topological order
        if reached.isdisjoint(node.input):
            continue
        if node.op_type in _NORMALISING:
            return True
        if node.op_type not in _PASSING:
            return False
        reached.update(node.output)
    return False
