"""The ONNX model of a checkpoint, in the form that is asked for."""

from __future__ import annotations

from typing import NamedTuple

import onnx

from partial_fc.evaluation.model import Checkpoint
from partial_fc.onnx_file.batch_norm import fold_batch_norm as fold
from partial_fc.onnx_file.from_mxnet import convert
from partial_fc.onnx_file.graph import Graph
from partial_fc.onnx_file.half import to_float16
from partial_fc.onnx_file.normalisation import put_normalisation_inside


class Made(NamedTuple):
    """A model, and how many of the network's BatchNorms were folded."""

    model: onnx.ModelProto
    folded: int
    batch_norms: int


def make_graph(checkpoint: Checkpoint, embedding_size: int) -> Graph:
    """The graph of a checkpoint whose embedding has D numbers, with its normalisation inside.

    Raises:
        ValueError: it has operators that ONNX lacks.
    """
    graph = convert(checkpoint.symbol, checkpoint.parameters, checkpoint.image_size, embedding_size)
    put_normalisation_inside(graph, checkpoint.form)
    return graph


def make_model(graph: Graph, *, fold_batch_norm: bool, fp16: bool) -> Made:
    """The model of a graph, which is changed; see `partial_fc.export.export_model` for what is asked for.

    Raises:
        ValueError: it holds weights that float16 cannot, or is too large for a file.
    """
    norms = graph.count("BatchNormalization")
    folded = fold(graph) if fold_batch_norm else 0
    # What partial_fc.evaluate and people read: pixels enter as they are, for the graph normalises.
    metadata = {
        "mean": "0",
        "std": "1",
        "colour": "rgb",
        "image_size": str(graph.image_size),
        "embedding_size": str(graph.embedding_size),
        "precision": "float16" if fp16 else "float32",
    }
    return Made(to_float16(graph, metadata) if fp16 else graph.to_model(metadata), folded, norms)
