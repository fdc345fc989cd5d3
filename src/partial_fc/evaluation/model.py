"""Trained models as functions from images to embeddings."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import mxnet as mx
import numpy as np

from partial_fc.evaluation.pixel_form import (
    ModelOptions,
    PixelForm,
    check_embeddings_shape,
    form_from_attributes,
    size_from_attributes,
)
from partial_fc.params_file import read_params
from partial_fc.symbol_file import load_symbol

EMBEDDING_OUTPUT = "fc1_output"
IMAGE_SIZES = (112, 56, 224, 96, 128, 160, 64, 48, 32)
"""Input sizes that a checkpoint is tried with, most usual first: it does not say its own."""

_NORMALISING = {
    *("_minus_scalar", "_mul_scalar", "_div_scalar", "_plus_scalar", "_rminus_scalar"),
    *("elemwise_sub", "elemwise_mul", "broadcast_sub", "broadcast_mul", "broadcast_div"),
    *("BatchNorm", "_image_normalize"),
}
_PASSING = {"_copy", "identity", "Cast", "amp_cast", "transpose", "SwapAxis", "BlockGrad"}

Parameters = Mapping[str, mx.nd.NDArray]


class Checkpoint(NamedTuple):
    """A trained network as it was read.

    Attributes:
        symbol: from `data` to the embedding.
        parameters: by their names in the graph.
        image_size: S.
        form: of the pixels.
    """

    symbol: mx.sym.Symbol
    parameters: Parameters
    image_size: int
    form: PixelForm


class CheckpointModel:
    """An MXNet graph with its parameters, for inference on batches of one shape, or of up to so many images.

    B images of a batch, S the input size, D the embedding size. Runs as a CachedOp: an executor without
    gradients goes through MXNet 1.9.1's oneDNN subgraphs, which fail on the second batch of a MobileFaceNet.

    Attributes:
        batch_size: B.
        takes_fewer: whether a batch may have fewer images than B: always.
        image_size: S.
        embedding_size: D.
        form: of the pixels.
    """

    takes_fewer = True

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        parameters: Parameters,
        context: mx.Context,
        *,
        batch_size: int,
        image_size: int,
        form: PixelForm | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.form = form or PixelForm()
        self.image_size = image_size
        self.embedding_size = _embedding_size(symbol, parameters, image_size)
        self._context = context
        self._inputs = symbol.list_inputs()
        self._parameters = {
            name: parameters[name].as_in_context(context) for name in self._inputs if name != "data"
        }
        self._forward = mx.nd.CachedOp(symbol, [("static_alloc", True), ("static_shape", True)])

    def embed(self, images_BHWC: np.ndarray) -> np.ndarray:
        """`embeddings_BD` float32, as the graph gives them (not normalised), of uint8 RGB (B, S, S, 3)."""
        assert images_BHWC.shape[1:] == (self.image_size, self.image_size, 3), images_BHWC.shape
        assert 0 < len(images_BHWC) <= self.batch_size, images_BHWC.shape
        if self.form.is_plain:
            pixels = mx.nd.array(images_BHWC, self._context, dtype=np.uint8)  # a quarter of float32's bytes
        else:
            pixels = mx.nd.array(self.form.apply(images_BHWC), self._context, dtype=np.float32)
        data = mx.nd.transpose(pixels, (0, 3, 1, 2)).astype(np.float32)
        output = self._forward(*(data if name == "data" else self._parameters[name] for name in self._inputs))
        return output.astype(np.float32, copy=False).asnumpy()


def load_model(
    checkpoint: str, context: mx.Context, batch_size: int, options: ModelOptions | None = None
) -> CheckpointModel:
    """Loads the embedding of the checkpoint `"PREFIX,EPOCH"`: `PREFIX-symbol.json` and `PREFIX-EPOCH.params`.

    The embedding is the graph's `fc1_output`, or its output if it has but one, or the one that is named. The graph
    must scale its pixels itself, as InsightFace's graphs do, or tell how they come (see `pixel_form`), or the
    options must. The input size S is what the options say, or the graph, or the first of `IMAGE_SIZES` that the
    parameters' shapes allow.

    Raises:
        ValueError: a file is not what it should be, graph and parameters do not belong together (those that
            lack and those that are too many are listed), no input size fits, or the output is not (N, D).
        FileNotFoundError: a file of the checkpoint is not there.
    """
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, but is {batch_size}")
    symbol, parameters, image_size, form = read_checkpoint(checkpoint, options)
    try:
        return CheckpointModel(
            symbol, parameters, context, batch_size=batch_size, image_size=image_size, form=form
        )
    except ValueError as error:
        raise ValueError(f"the model {checkpoint}: {error}") from error


def read_checkpoint(checkpoint: str, options: ModelOptions | None = None) -> Checkpoint:
    """What `load_model` runs; the same is raised."""
    symbol_path, parameters_path = checkpoint_files(checkpoint)
    graph = load_symbol(symbol_path)
    parameters = _load_parameters(parameters_path)
    options = options or ModelOptions()
    symbol = _embedding_of(graph, symbol_path, options.output)
    _check_names(graph, symbol, parameters, parameters_path)
    try:
        attributes = graph.attr_dict().get("data", {})
        image_size = options.image_size or size_from_attributes(attributes) or _find_image_size(symbol, parameters)
        form = options.over(form_from_attributes(attributes) or PixelForm(said_by=_who_normalises(symbol)))
    except ValueError as error:
        raise ValueError(f"the model {checkpoint}: {error}") from error
    return Checkpoint(symbol, parameters, image_size, form)


def checkpoint_files(checkpoint: str) -> tuple[Path, Path]:
    """The symbol's and the parameters' file of `"PREFIX,EPOCH"`.

    Raises:
        ValueError: `checkpoint` is not of that form.
        FileNotFoundError: a file is not there.
    """
    prefix, comma, epoch = checkpoint.rpartition(",")
    if not comma or not prefix or not (epoch.isascii() and epoch.isdigit()):
        form = "PREFIX,EPOCH (such as models/model,0), as the directory of a run or as FILE.onnx"
        raise ValueError(f"a model is given as {form}, not as {checkpoint!r}")
    files = Path(f"{prefix}-symbol.json"), Path(f"{prefix}-{int(epoch):04d}.params")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}, which the model {checkpoint} needs, is not there")
    return files


def _load_parameters(path: Path) -> Parameters:
    """MXNet writes `arg:NAME` and `aux:NAME`; a graph's names are unique over both."""
    try:
        loaded = read_params(path)
    except ValueError as error:
        raise ValueError(f"{path} does not hold MXNet parameters: {error}") from error
    if not loaded or all(name.isdigit() for name in loaded):  # a list of arrays has their places for names
        raise ValueError(f"{path} does not hold the named parameters of a model")
    return {
        name.removeprefix("arg:").removeprefix("aux:"): mx.nd.array(array, dtype=array.dtype)
        for name, array in loaded.items()
    }


def _embedding_of(graph: mx.sym.Symbol, path: Path, wanted: str | None) -> mx.sym.Symbol:
    internals = graph.get_internals()
    if wanted is not None:
        if wanted not in internals.list_outputs():
            raise ValueError(f"{path} has no output {wanted!r}: its last are {_some(internals.list_outputs()[-10:])}")
        return internals[wanted]
    if EMBEDDING_OUTPUT in internals.list_outputs():
        return internals[EMBEDDING_OUTPUT]
    outputs = graph.list_outputs()
    if len(outputs) != 1:
        raise ValueError(f"{path} must have one output, or {EMBEDDING_OUTPUT}, but has {_some(outputs)}")
    return graph


def _check_names(graph: mx.sym.Symbol, symbol: mx.sym.Symbol, parameters: Parameters, path: Path) -> None:
    """Both must name the same parameters; those of a classifier after the embedding may be there or not."""
    inputs = symbol.list_inputs()
    if "data" not in inputs:
        raise ValueError(f"the graph of {path} takes no input 'data', but {_some(inputs)}")
    missing = [name for name in inputs if name != "data" and name not in parameters]
    extra = sorted(set(parameters) - set(graph.list_inputs()))
    complaints = []
    if missing:
        complaints.append(f"lacks {len(missing)} of the graph's parameters ({_some(missing)})")
    if extra:
        complaints.append(f"has {len(extra)} that the graph does not know ({_some(extra)})")
    if complaints:
        raise ValueError(f"{path} {' and '.join(complaints)}")


def _find_image_size(symbol: mx.sym.Symbol, parameters: Parameters) -> int:
    refusals = []
    for image_size in IMAGE_SIZES:
        try:
            _embedding_size(symbol, parameters, image_size)
        except ValueError as error:
            refusals.append(error)
        else:
            return image_size
    raise refusals[0]


def _embedding_size(symbol: mx.sym.Symbol, parameters: Parameters, image_size: int) -> int:
    """D, once every shape is known to fit the input size, and the output to be (N, D)."""
    batch = 2
    shapes = {name: parameters[name].shape for name in symbol.list_inputs() if name != "data"}
    try:
        with redirect_stdout(io.StringIO()):  # MXNet prints every shape of a graph that does not fit
            _, (output,), _ = symbol.infer_shape(data=(batch, 3, image_size, image_size), **shapes)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"it does not take images of {image_size}×{image_size}: {reason}") from error
    return check_embeddings_shape(output, batch, "its output")


def _who_normalises(symbol: mx.sym.Symbol) -> str:
    """Whether the first thing that happens to the pixels is arithmetic, in words."""
    reached = set()
    nodes = json.loads(symbol.tojson())["nodes"]
    for number, node in enumerate(nodes):
        if node["name"] == "data":
            reached.add(number)
        elif any(source[0] in reached for source in node["inputs"]):
            if node["op"] in _PASSING:
                reached.add(number)
            elif node["op"] in _NORMALISING:
                return "the graph normalises"
            else:
                break
    return "the graph does not normalise, and nothing else says how"


def _some(names: list[str], shown: int = 10) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
