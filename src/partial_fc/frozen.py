"""Parts of a backbone that training leaves as they are, chosen by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase

import mxnet as mx


def freeze(network: mx.sym.Symbol, patterns: Sequence[str]) -> tuple[mx.sym.Symbol, frozenset[str]]:
    """Finds the arrays of a network that patterns name, such as ``stage1_*``; returns the network to train and them.

    A parameter that is named gets no gradient. A BatchNorm both of whose moving statistics are named uses them in
    training too, as it does at inference, and leaves them as they are. A network all of whose parameters are named
    is frozen whole.

    Raises:
        ValueError: a pattern names nothing.
    """
    if not patterns:
        return network, frozenset()
    parameters = [name for name in network.list_arguments() if name != "data"]
    names = parameters + network.list_auxiliary_states()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"--freeze {pattern} names no parameter of the network: they are called {', '.join(names[:6])}, …"
            )
    frozen = {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    if frozen.issuperset(parameters):
        frozen = set(names)
    return _with_frozen_statistics(network, frozen), frozenset(frozen)


def _with_frozen_statistics(network: mx.sym.Symbol, frozen: set[str]) -> mx.sym.Symbol:
    graph = json.loads(network.tojson())
    changed = False
    for node in graph["nodes"]:
        if node["op"] == "BatchNorm":
            statistics = {graph["nodes"][source[0]]["name"] for source in node["inputs"][3:5]}
            if statistics <= frozen:
                node.setdefault("attrs", {})["use_global_stats"] = "True"
                changed = True
    return mx.sym.load_json(json.dumps(graph)) if changed else network
