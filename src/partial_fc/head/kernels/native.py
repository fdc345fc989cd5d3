"""The element-wise work on a block of classes in C, for CPUs: operations of MXNet's engine over the arrays' memory."""

from __future__ import annotations

import ctypes
import os

import mxnet as mx
import numpy as np

from partial_fc.head.initialization import initial_step, stream_key
from partial_fc.head.kernels import MASKED_LOGIT, BlockTargets, NegativeRule, SoftmaxState, UpdateRule
from partial_fc.head.kernels.build import library_path
from partial_fc.head.kernels.engine import EngineFunctions, data_pointer
from partial_fc.head.row_store import RowStore

_POINTER, _INT64, _INT32, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


def _structure(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


# Field for field the structures of block_kernels.c.
_Negatives = _structure(
    "_Negatives", threshold=_POINTER, linear=_FLOAT, quadratic=_FLOAT, constant=_FLOAT, filter=_FLOAT
)
_Forward = _structure(
    "_Forward", logits=_POINTER, inverse_norm=_POINTER, target_column=_POINTER, max=_POINTER, sum=_POINTER,
    target_logit=_POINTER, negatives=_Negatives, samples=_INT64, classes=_INT64, first_column=_INT64, threads=_INT32,
)  # fmt: skip
_Backward = _structure(
    "_Backward", logits=_POINTER, inverse_norm=_POINTER, target_column=_POINTER, max=_POINTER, excess=_POINTER,
    target_gradient=_POINTER, target_logit=_POINTER, projection=_POINTER, negatives=_Negatives,
    samples=_INT64, classes=_INT64, first_column=_INT64, threads=_INT32, raw=_INT32,
)  # fmt: skip
_Update = _structure(
    "_Update", weight=_POINTER, momentum=_POINTER, momentum_scale=_POINTER, inverse_norm=_POINTER, current=_POINTER,
    gradient=_POINTER, projection=_POINTER, factors=_POINTER, rows=_POINTER, classes=_INT64, embedding_size=_INT64,
    gradient_factor=_FLOAT, projection_factor=_FLOAT, decay=_FLOAT, momentum_factor=_FLOAT, weight_type=_INT32,
    momentum_type=_INT32, threads=_INT32, random_key=ctypes.c_uint32,
)  # fmt: skip
_Gather = _structure(
    "_Gather", weight=_POINTER, momentum=_POINTER, momentum_scale=_POINTER, inverse_norm=_POINTER, factors=_POINTER,
    rows=_POINTER, out_weight=_POINTER, out_inverse_norm=_POINTER, classes=_INT64, embedding_size=_INT64,
    weight_type=_INT32, momentum_type=_INT32, threads=_INT32,
)  # fmt: skip
_Initialize = _structure(
    "_Initialize", weight=_POINTER, inverse_norm=_POINTER, rows=_POINTER, classes=_INT64, embedding_size=_INT64,
    first_class=_INT64, key=ctypes.c_uint64, step=_FLOAT, weight_type=_INT32, threads=_INT32,
)  # fmt: skip

# How block_kernels.c numbers the types; uint8 holds the bit patterns of int8.
_TYPES = {"float32": 0, "float16": 2, "uint8": 5}


def load() -> tuple[NativeLogitKernels, NativeRowKernels]:
    """The C form, for arrays in the CPU's memory.

    Raises:
        OSError: the library has not been built for this machine, or does not load.
    """
    functions = EngineFunctions(str(library_path()))
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    return NativeLogitKernels(functions, threads), NativeRowKernels(functions, threads)


class NativeLogitKernels:
    """The C form of :class:`partial_fc.head.kernels.LogitKernels`, on so many threads."""

    name = "C"

    def __init__(self, functions: EngineFunctions, threads: int) -> None:
        self._functions = functions
        self._threads = threads

    def start(self, state: SoftmaxState) -> None:
        state.max_N[:] = MASKED_LOGIT
        state.sum_N[:] = 0
        state.target_logit_N[:] = 0

    def forward(
        self,
        logits_NB: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        targets: BlockTargets,
        state: SoftmaxState,
        negatives: NegativeRule | None = None,
    ) -> None:
        columns_N = targets.columns.array_N
        arguments = _Forward(
            logits=data_pointer(logits_NB),
            inverse_norm=data_pointer(inverse_norm_B),
            target_column=data_pointer(columns_N),
            max=data_pointer(state.max_N),
            sum=data_pointer(state.sum_N),
            target_logit=data_pointer(state.target_logit_N),
            negatives=_negatives(negatives),
            samples=logits_NB.shape[0],
            classes=logits_NB.shape[1],
            first_column=targets.first,
            threads=self._threads,
        )
        reads = [inverse_norm_B, columns_N] + ([negatives.threshold_N] if negatives else [])
        writes = [logits_NB, state.max_N, state.sum_N, state.target_logit_N]
        self._functions.push("block_forward", arguments, reads=reads, writes=writes)

    def backward(
        self,
        logits_NB: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        targets: BlockTargets,
        state: SoftmaxState,
        excess_N: mx.nd.NDArray,
        target_gradient_N: mx.nd.NDArray,
        projection_B: mx.nd.NDArray,
        raw: bool = False,
        negatives: NegativeRule | None = None,
    ) -> None:
        columns_N = targets.columns.array_N
        arguments = _Backward(
            logits=data_pointer(logits_NB),
            inverse_norm=data_pointer(inverse_norm_B),
            target_column=data_pointer(columns_N),
            max=data_pointer(state.max_N),
            excess=data_pointer(excess_N),
            target_gradient=data_pointer(target_gradient_N),
            target_logit=data_pointer(state.target_logit_N),
            projection=data_pointer(projection_B),
            negatives=_negatives(negatives),
            samples=logits_NB.shape[0],
            classes=logits_NB.shape[1],
            first_column=targets.first,
            threads=self._threads,
            raw=raw,
        )
        reads = [inverse_norm_B, columns_N, state.max_N, excess_N, target_gradient_N, state.target_logit_N]
        reads += [negatives.threshold_N] if negatives else []
        self._functions.push("block_backward", arguments, reads=reads, writes=[logits_NB, projection_B])


class NativeRowKernels:
    """The C form of :class:`partial_fc.head.kernels.RowKernels`, on so many threads."""

    name = "C"

    def __init__(self, functions: EngineFunctions, threads: int) -> None:
        self._functions = functions
        self._threads = threads

    def initialize(self, store: RowStore, rows: np.ndarray) -> None:
        rows_B = mx.nd.array(rows, dtype="int64")
        arguments = _Initialize(
            weight=data_pointer(store.weight_RD),
            inverse_norm=data_pointer(store.inverse_norm_R),
            rows=data_pointer(rows_B),
            classes=len(rows),
            embedding_size=store.weight_RD.shape[1],
            first_class=store.first_class,
            key=stream_key(store.seed),
            step=initial_step(),
            weight_type=_type_of(store.weight_RD),
            threads=self._threads,
        )
        writes = [store.weight_RD, store.inverse_norm_R]
        self._functions.push("block_initialize", arguments, reads=[rows_B], writes=writes, beside=True)

    def gather(
        self,
        store: RowStore,
        rows_B: mx.nd.NDArray,
        weight_BD: mx.nd.NDArray,
        inverse_norm_B: mx.nd.NDArray,
        factors_B4: mx.nd.NDArray | None = None,
    ) -> None:
        arguments = _Gather(
            weight=data_pointer(store.weight_RD),
            momentum=data_pointer(store.momentum_RD),
            momentum_scale=_optional(store.scale_R1),
            inverse_norm=data_pointer(store.inverse_norm_R),
            factors=_optional(factors_B4),
            rows=data_pointer(rows_B),
            out_weight=data_pointer(weight_BD),
            out_inverse_norm=data_pointer(inverse_norm_B),
            classes=rows_B.shape[0],
            embedding_size=store.weight_RD.shape[1],
            weight_type=_type_of(store.weight_RD),
            momentum_type=_type_of(store.momentum_RD),
            threads=self._threads,
        )
        reads = [store.weight_RD, store.inverse_norm_R, rows_B]
        if factors_B4 is not None:
            reads += [factors_B4, store.momentum_RD]
            reads += [] if store.scale_R1 is None else [store.scale_R1]
        writes = [weight_BD, inverse_norm_B]
        self._functions.push("block_gather", arguments, reads=reads, writes=writes, beside=True)

    def update(
        self,
        store: RowStore,
        rows_B: mx.nd.NDArray | slice,
        current_BD: mx.nd.NDArray,
        gradient_BD: mx.nd.NDArray,
        projection_B: mx.nd.NDArray,
        rule: UpdateRule,
        factors_B4: mx.nd.NDArray | None = None,
    ) -> None:
        in_place = isinstance(rows_B, slice)
        assert not (in_place and factors_B4 is not None)
        part = store.part(rows_B) if in_place else store
        weight_RD, momentum_RD, inverse_norm_R = part.weight_RD, part.momentum_RD, part.inverse_norm_R
        arguments = _Update(
            weight=data_pointer(weight_RD),
            momentum=data_pointer(momentum_RD),
            momentum_scale=_optional(store.scale_R1),
            inverse_norm=data_pointer(inverse_norm_R),
            current=data_pointer(current_BD),
            gradient=data_pointer(gradient_BD),
            projection=data_pointer(projection_B),
            factors=_optional(factors_B4),
            rows=None if in_place else data_pointer(rows_B),
            classes=gradient_BD.shape[0],
            embedding_size=gradient_BD.shape[1],
            gradient_factor=rule.gradient_factor,
            projection_factor=rule.projection_factor,
            decay=rule.decay,
            momentum_factor=rule.momentum,
            weight_type=_type_of(store.weight_RD),
            momentum_type=_type_of(store.momentum_RD),
            threads=self._threads,
            random_key=rule.random_key,
        )
        writes = [weight_RD, momentum_RD, inverse_norm_R]
        if store.scale_R1 is not None:
            writes.append(store.scale_R1)
        reads = [gradient_BD, projection_B]
        if not in_place:
            reads += [rows_B, current_BD]
        if factors_B4 is not None:
            reads.append(factors_B4)
        self._functions.push("block_update", arguments, reads=reads, writes=writes)


def _negatives(rule: NegativeRule | None) -> ctypes.Structure:
    if rule is None:
        return _Negatives(threshold=None)
    return _Negatives(data_pointer(rule.threshold_N), rule.linear, rule.quadratic, rule.constant, rule.filter)


def _optional(array: mx.nd.NDArray | None) -> int | None:
    return None if array is None else data_pointer(array)


def _type_of(array: mx.nd.NDArray) -> int:
    return _TYPES[np.dtype(array.dtype).name]
