"""Checkpoints of untrained backbones whose values are as large as in a trained one, for tests and benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import mxnet as mx
import numpy as np

import symbol
from partial_fc.onnx_file.compare import check_images
from partial_fc.params_file import write_params

_SLOPE, _SCALE, _SHIFT = (0.0, 0.5), (0.5, 1.5), 0.2
# The last BatchNorm of a residual branch: as in a trained network, the branch changes what it is added to a little.
_BRANCH_ENDS, _BRANCH_SCALE = ("_bn3_gamma", "_proj_batchnorm_gamma"), (0.1, 0.3)


def write_backbone(
    directory: Path, name: str, embedding_size: int = 512, image_size: int | None = None, seed: int = 0
) -> str:
    """Writes backbone `name` as an MXNet checkpoint; returns its ``PREFIX,EPOCH``."""
    network = symbol.build_backbone(name, embedding_size)
    return write_network(directory, network, image_size or symbol.default_image_size(name), seed, name)


def write_network(
    directory: Path, network: mx.sym.Symbol, image_size: int, seed: int = 0, name: str = "model"
) -> str:
    """Writes a graph with `random_parameters` as an MXNet checkpoint; returns its ``PREFIX,EPOCH``."""
    states = set(network.list_auxiliary_states())
    parameters = random_parameters(network, image_size, seed)
    arrays = {f"{'aux' if name in states else 'arg'}:{name}": array.asnumpy() for name, array in parameters.items()}
    prefix = directory / name
    network.save(f"{prefix}-symbol.json")
    with Path(f"{prefix}-0000.params").open("wb") as file:
        write_params(file, arrays)
    return f"{prefix},0"


def random_parameters(network: mx.sym.Symbol, image_size: int, seed: int = 0) -> dict[str, mx.nd.NDArray]:
    """Random weights, and BatchNorm's statistics as a batch of drawn faces gives them.

    No gamma is 1, those that BatchNorm does not use (``fix_gamma``) included.
    """
    images_BHWC = check_images(image_size)
    data = mx.nd.array(images_BHWC.transpose(0, 3, 1, 2), dtype=np.float32)
    shapes, _, state_shapes = network.infer_shape(data=data.shape)
    rng, arguments = np.random.default_rng(seed), zip(network.list_arguments(), shapes, strict=True)
    values = {name: _random(rng, name, shape) for name, shape in arguments if name != "data"}
    auxiliary = zip(network.list_auxiliary_states(), state_shapes, strict=True)
    states = {name: mx.nd.ones(shape) for name, shape in auxiliary}
    # MXNet writes 1 over the gammas that it does not use: what it gets is a copy.
    arrays = {name: mx.nd.array(value) for name, value in values.items()} | states | {"data": data}
    data.attach_grad()
    with mx.autograd.record():
        embedding = mx.nd.CachedOp(_forgetful(network))(*(arrays[name] for name in network.list_inputs()))
    embedding.backward()  # where MXNet moves BatchNorm's statistics
    data.grad.wait_to_read()
    return {name: mx.nd.array(value) for name, value in values.items()} | states


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if "relu" in name and name.endswith("_gamma"):
        values = rng.uniform(*_SLOPE, shape)
    elif name.endswith(_BRANCH_ENDS):
        values = rng.uniform(*_BRANCH_SCALE, shape)
    elif name.endswith("_gamma"):
        values = rng.uniform(*_SCALE, shape)
    elif name.endswith("_weight"):
        values = rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
    else:
        values = _SHIFT * rng.standard_normal(shape)
    return values.astype(np.float32)


def _forgetful(network: mx.sym.Symbol) -> mx.sym.Symbol:
    """The graph whose statistics become those of one batch, but for a tenth: no channel has next to no variance."""
    graph = json.loads(network.tojson())
    for node in graph["nodes"]:
        if node["op"] == "BatchNorm":
            node.setdefault("attrs", {})["momentum"] = "0.1"
    return mx.sym.load_json(json.dumps(graph))
