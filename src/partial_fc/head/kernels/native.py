"""The element-wise work on a block of classes in C, for CPUs: operations of MXNet's engine over the arrays' memory."""

from __future__ import annotations

import ctypes
import os

import mxnet as mx

from partial_fc.head.kernels import MASKED_LOGIT, BlockTargets, SoftmaxState, UpdateRule
from partial_fc.head.kernels.build import library_path
from partial_fc.head.kernels.engine import EngineFunctions, data_pointer

_POINTER, _INT64, _INT32, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


def _structure(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


# Field for field the structures of block_kernels.c.
_Forward = _structure(
    "_Forward", logits=_POINTER, inverse_norm=_POINTER, target_column=_POINTER, max=_POINTER, sum=_POINTER,
    target_logit=_POINTER, samples=_INT64, classes=_INT64, first_column=_INT64, threads=_INT32,
)  # fmt: skip
_Backward = _structure(
    "_Backward", logits=_POINTER, inverse_norm=_POINTER, target_column=_POINTER, max=_POINTER, excess=_POINTER,
    target_gradient=_POINTER, target_logit=_POINTER, projection=_POINTER, samples=_INT64, classes=_INT64,
    first_column=_INT64, threads=_INT32, raw=_INT32,
)  # fmt: skip
_Update = _structure(
    "_Update", weight=_POINTER, momentum=_POINTER, inverse_norm=_POINTER, gradient=_POINTER, projection=_POINTER,
    rows=_POINTER, classes=_INT64, embedding_size=_INT64, gradient_factor=_FLOAT, projection_factor=_FLOAT,
    decay=_FLOAT, momentum_factor=_FLOAT, threads=_INT32,
)  # fmt: skip
