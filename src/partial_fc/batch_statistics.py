"""BatchNorm's statistics moved beside a forward pass, where MXNet moves them in a backward pass alone: on a CPU.

    moving ← m·moving + (1 − m)·(the batch's mean, or variance)

A BatchNorm has the batch's mean and 1/√(variance + ε) as outputs that a network does not show; here it shows them.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import mxnet as mx

Named = dict[str, mx.nd.NDArray]

_MOMENTUM, _EPS = 0.9, 1e-3  # MXNet's own, where a node does not say


class BatchNorm(NamedTuple):
    """One BatchNorm: the names of its two statistics, m, and ε."""

    mean: str
    variance: str
    momentum: float
    eps: float


def with_batch_statistics(network: mx.sym.Symbol) -> tuple[mx.sym.Symbol, list[BatchNorm]]:
    """The network with two more outputs for each of some BatchNorms, behind its own; and these, in that order.

    Those that normalise by their moving statistics (``use_global_stats``) leave them alone and are left out. What
    the network itself gives stays the same to the last bit.
    """
    graph = json.loads(network.tojson())
    nodes, found = graph["nodes"], []
    for number, node in enumerate(nodes):
        attributes = node.get("attrs", {})
        if node["op"] == "BatchNorm" and attributes.get("use_global_stats", "False") not in ("True", "1"):
            attributes["output_mean_var"] = "True"
            node["attrs"] = attributes
            mean, variance = (nodes[source[0]]["name"] for source in node["inputs"][3:5])
            momentum, eps = float(attributes.get("momentum", _MOMENTUM)), float(attributes.get("eps", _EPS))
            found.append(BatchNorm(mean, variance, momentum, eps))
            graph["heads"] += [[number, 1, 0], [number, 2, 0]]
    return mx.sym.load_json(json.dumps(graph)) if found else network, found


def move_statistics(statistics: Named, layers: list[BatchNorm], outputs: list[mx.nd.NDArray]) -> None:
    """Moves the statistics by a batch's ``outputs``, two for each layer: as MXNet's backward pass does."""
    for layer, mean_C, deviation_C in zip(layers, outputs[::2], outputs[1::2], strict=True):
        variance_C = mx.nd.maximum(1.0 / mx.nd.square(deviation_C) - layer.eps, 0.0)
        for name, batch_C in ((layer.mean, mean_C), (layer.variance, variance_C)):
            statistics[name] *= layer.momentum
            statistics[name] += (1.0 - layer.momentum) * batch_C
