"""MXNet's symbol JSON from outside: checked here before MXNet, which trusts it, sees it, and tried in another process.

    {"nodes": [{"op": "null" or an operator, "name": …, "attrs": {…}, "inputs": [[node, output, …], …]}, …],
     "arg_nodes": [node, …], "heads": [[node, output, …], …], …}

MXNet ends the process for some graphs that make no sense, and some operators run code or read memory that the file
names (Custom, _Native, _NDArray, subgraph operators). So a graph may use the operators of plain networks alone, every
node may use those before it alone, and a child with limits loads it first.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mxnet as mx

from partial_fc.limited_child import try_in_child

LARGEST_BYTES = 64 << 20

# Operators with a leading underscore are MXNet's own tools: of these, arithmetic alone.
_ARITHMETIC = re.compile(
    r"_(Plus|Minus|Mul|Div|Power|Maximum|Minimum|RMinus|RDiv|copy|zeros|ones"
    r"|(plus|minus|mul|div|power|maximum|minimum|rminus|rdiv|rpower)(_scalar)?|(Plus|Minus|Mul|Div|Power|Maximum|Minimum|"
    r"RMinus|RDiv)Scalar|contrib_(AdaptiveAvgPooling2D|BilinearResize2D|div_sqrt_dim)|grad_add)"
)
_FORBIDDEN = frozenset(("Custom",))

# MXNet's library alone: Python's part of it takes seconds to import.
_LOAD = """
import ctypes, sys
library, path = ctypes.CDLL(sys.argv[1]), sys.argv[2].encode()
graph, count, names = ctypes.c_void_p(), ctypes.c_uint(), ctypes.POINTER(ctypes.c_char_p)()
library.MXListAllOpNames(ctypes.byref(count), ctypes.byref(names))  # which registers the older operators
status = library.MXSymbolCreateFromFile(path, ctypes.byref(graph))
sys.exit(status or library.MXSymbolListArguments(graph, ctypes.byref(count), ctypes.byref(names)))
"""


def load_symbol(path: Path) -> mx.sym.Symbol:
    """The graph of a file from outside.

    Raises:
        ValueError: it is no symbol, holds an operator that no network needs, or cannot be loaded.
    """
    check_symbol(path)
    try:
        status = try_in_child(_LOAD, mx.libinfo.find_lib_path()[0], str(path), options=("-S",))
    except TimeoutError as error:
        raise ValueError(f"{path} does not hold an MXNet symbol: to load it, {error}") from None
    if status != 0:
        raise ValueError(f"{path} does not hold an MXNet symbol: MXNet refuses it (status {status})")
    try:
        return mx.sym.load(str(path))
    except mx.MXNetError as error:
        raise ValueError(f"{path} does not hold an MXNet symbol") from error


def check_symbol(path: Path) -> None:
    """Checks the form of a symbol's file, without MXNet.

    Raises:
        ValueError: it is none, is larger than 64 MiB, or names an operator that no network needs.
    """
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise ValueError(f"{path} does not hold an MXNet symbol: {size} bytes are more than any network's")
    try:
        graph = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} does not hold an MXNet symbol: it is no JSON") from None
    why = _complaint(graph)
    if why:
        raise ValueError(f"{path} does not hold an MXNet symbol: {why}")


def _complaint(graph: Any) -> str | None:
    if not isinstance(graph, dict) or not isinstance(graph.get("nodes"), list) or not graph["nodes"]:
        return "it has no nodes"
    count = len(graph["nodes"])
    for number, node in enumerate(graph["nodes"]):
        why = _node_complaint(node, number)
        if why:
            return f"node {number} {why}"
    if not _are_entries(graph.get("heads"), count) or not graph["heads"]:
        return "its heads are not among its nodes"
    arguments = graph.get("arg_nodes")
    if not isinstance(arguments, list) or not all(_is_index(argument, count) for argument in arguments):
        return "its arg_nodes are not among its nodes"
    # Loaded by MXNet's JSON reader, which takes other keys by name and may not know how to end.
    unknown = set(graph) - {"nodes", "arg_nodes", "heads", "node_row_ptr", "attrs"}
    return f"it has the unknown part {sorted(unknown)[0]!r}" if unknown else None


def _node_complaint(node: Any, number: int) -> str | None:
    if not isinstance(node, dict) or not isinstance(node.get("op"), str) or not isinstance(node.get("name"), str):
        return "has no operator or no name"
    operator = node["op"]
    if operator in _FORBIDDEN or (operator.startswith("_") and not _ARITHMETIC.fullmatch(operator)):
        return f"is the operator {operator!r}, which no network needs"
    if not _are_entries(node.get("inputs"), number):
        return "has inputs that are not among the nodes before it"
    if operator == "null" and node["inputs"]:
        return "is a variable with inputs"
    if set(node) - {"op", "name", "inputs", "attrs", "attr", "param", "backward_source_id"}:
        return "has unknown parts, such as a graph of its own"
    for key in ("attrs", "attr", "param"):
        values = node.get(key, {})
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            return f"has {key} that are not texts"
    return None


def _are_entries(entries: Any, limit: int) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, list) and 2 <= len(entry) <= 3 and _is_index(entry[0], limit) and _is_index(entry[1], 1 << 16)
        for entry in entries
    )


def _is_index(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit
