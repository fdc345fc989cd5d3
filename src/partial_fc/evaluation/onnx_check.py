"""ONNX files from outside: tried in another process before protobuf and onnxruntime see them in this one.

Both are C++ libraries that parse what a stranger wrote. A graph may keep its weights in files beside it, which it
names: in its own directory, and nowhere else.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError

from partial_fc.limited_child import try_in_child

_ADDRESSES = 8 << 30  # of libraries and threads' stacks; the file and its weights come on top
_REFUSED = 3

_TRY = f"""
import sys
import onnx, onnxruntime
model = onnx.load(sys.argv[1], load_external_data=False)
if not model.graph.node or not model.graph.output:
    sys.exit({_REFUSED})
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
try:
    onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
except Exception:
    sys.exit({_REFUSED})  # in words it is said where the library meets it again
"""


def read_onnx(path: Path) -> onnx.ModelProto:
    """The graph of a file, without the weights that lie beside it.

    Raises:
        ValueError: it is no ONNX model, names weights outside its directory, or ends the process that tries it.
        OSError: it cannot be read.
    """
    facts = path.stat()
    _try_once(path.resolve(), facts.st_size, facts.st_mtime_ns)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} is not an ONNX model") from error
    if not model.graph.node or not model.graph.output:
        raise ValueError(f"{path} is not an ONNX model: it has no graph")
    for name in weight_files(model):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{path} keeps weights in {name!r}: they must lie in its own directory")
    return model


def weight_files(model: onnx.ModelProto) -> list[str]:
    """The files that hold weights of a graph, as it names them, sorted."""
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    return sorted({entry.value for entry in entries if entry.key == "location"})


@lru_cache(maxsize=64)
def _try_once(path: Path, size: int, modified: int) -> None:
    """What is in the file now is tried once, whoever asks for it."""
    del modified
    beside = sum(entry.stat().st_size for entry in os.scandir(path.parent) if entry.is_file())
    try:
        status = try_in_child(_TRY, str(path), memory_bytes=_ADDRESSES + 4 * (size + beside))
    except TimeoutError as error:
        raise ValueError(f"{path} is not an ONNX model that can be used: to load it, {error}") from None
    if status < 0:
        raise ValueError(f"{path} is not an ONNX model: it ends the process that loads it (signal {-status})")
