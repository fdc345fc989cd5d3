"""A model whose embeddings can be told without it: a random projection of the pixels, as MXNet and as ONNX.

    x_n = W · (I_n − 127.5) · 2⁻⁷            e_n = x_n / |x_n|, with flip of x_n and its mirror's, summed

S the side of the model's input, D the embedding size.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MEAN, SCALE = 127.5, 0.0078125


def projection(image_size: int, embedding_size: int, seed: int = 0) -> np.ndarray:
    """W, (D, 3·S·S) float32."""
    shape = (embedding_size, 3 * image_size * image_size)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_projection(directory: Path, weight_DP: np.ndarray) -> None:
    """`model-symbol.json` and `model-0000.params`, which a directory is made for."""
    directory.mkdir(parents=True, exist_ok=True)
    data = (mx.sym.Variable("data") - MEAN) * SCALE
    graph = mx.sym.FullyConnected(data, num_hidden=len(weight_DP), no_bias=True, name="fc1")
    graph.save(str(directory / "model-symbol.json"))
    mx.nd.save(str(directory / "model-0000.params"), {"arg:fc1_weight": mx.nd.array(weight_DP)})


def write_onnx_projection(path: Path, weight_DP: np.ndarray, *, image_size: int, batch: int | str = "N") -> None:
    """The same as an ONNX file, for any number of images or for `batch` alone."""
    numbers = {"mean": np.float32(MEAN), "scale": np.float32(SCALE), "weight": weight_DP}
    nodes = [
        helper.make_node("Sub", ["data", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["fc1"], transB=1),
    ]
    shapes = {"data": [batch, 3, image_size, image_size], "fc1": [batch, len(weight_DP)]}
    data, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    initialisers = [numpy_helper.from_array(value, name) for name, value in numbers.items()]
    graph = helper.make_graph(nodes, "faces", [data], [out], initialisers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def project(weight_DP: np.ndarray, images_NHWC: np.ndarray, *, flip: bool, normalize: bool = True) -> np.ndarray:
    """(N, D) float64: what the models above give for uint8 RGB images of their size, by the formula."""
    views = [images_NHWC, images_NHWC[:, :, ::-1]] if flip else [images_NHWC]
    pixels = [(view.astype(np.float64).transpose(0, 3, 1, 2) - MEAN) * SCALE for view in views]
    sum_ND = sum(view.reshape(len(view), -1) @ weight_DP.T.astype(np.float64) for view in pixels)
    return sum_ND / np.linalg.norm(sum_ND, axis=1, keepdims=True) if normalize else sum_ND


def png(image_HWC: np.ndarray) -> bytes:
    """A PNG of RGB pixels, which keeps each of them."""
    return cv2.imencode(".png", image_HWC[:, :, ::-1])[1].tobytes()
