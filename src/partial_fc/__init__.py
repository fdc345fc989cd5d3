"""Partial FC: face recognition trained over millions of identities, on MXNet and Horovod (arXiv 2010.05222).

What other programs use is here by name, and imported, MXNet with it, when it is first asked for:

    FaceEmbedder     images to embeddings, by a trained model
    PartialFC, F2C   the classification layers
"""

import importlib
import os

# MXNet says at every binding of a network which fusion of layers it uses.
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")

_LIES_IN = {
    "FaceEmbedder": "partial_fc.face_embedder",
    "PartialFC": "partial_fc.head.partial_fc",
    "F2C": "partial_fc.head.f2c",
}

__all__ = [*_LIES_IN]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _LIES_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LIES_IN[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LIES_IN})
