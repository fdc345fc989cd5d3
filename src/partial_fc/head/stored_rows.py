"""Rows that were saved, put into a store in the types that it keeps them in.

Legend: B rows, D embedding size.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np

from partial_fc.head.row_store import RowStore


def put_rows(store: RowStore, rows_B: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    """Gives rows of a store, (B,) ascending, the values of ``weight``, ``momentum``, ``scale`` and ``inverse_norm``.

    A store that keeps the rows' last updates gets ``last_update`` too, which must be there then. What is saved in the
    store's own types is put back to the last bit.
    """
    weight_BD = arrays["weight"]
    same = weight_BD.dtype == store.weight_RD.dtype
    stored_BD = weight_BD.astype(store.weight_RD.dtype, copy=False)
    if same and "inverse_norm" in arrays:
        inverse_norm_B = arrays["inverse_norm"]
    else:
        inverse_norm_B = inverse_norms(stored_BD)
    momentum_BD, scale_B1 = _momentum(store, arrays)
    _put(store.weight_RD, rows_B, stored_BD)
    _put(store.momentum_RD, rows_B, momentum_BD)
    _put(store.inverse_norm_R, rows_B, inverse_norm_B)
    if store.scale_R1 is not None:
        _put(store.scale_R1, rows_B, scale_B1)
    if store.last_R is not None:
        store.last_R[rows_B] = arrays["last_update"]
    store.first_touched(rows_B)


def inverse_norms(weight_BD: np.ndarray) -> np.ndarray:
    """1/|w_j|, (B,) float32; 0 for a row of zeros."""
    norm_B = np.linalg.norm(weight_BD.astype(np.float32, copy=False), axis=1)
    return np.where(norm_B > 0, 1.0 / np.where(norm_B > 0, norm_B, 1.0), 0.0).astype(np.float32)


def momentum_as_float32(momentum_BD: np.ndarray, scale_B1: np.ndarray | None) -> np.ndarray:
    """A saved momentum as numbers; int8 is saved as its bit pattern, with a scale a row."""
    if scale_B1 is None:
        return momentum_BD.astype(np.float32)
    return momentum_BD.view(np.int8).astype(np.float32) * scale_B1


def _momentum(store: RowStore, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The momentum and its scale in the store's types."""
    weight_BD = arrays["weight"]
    momentum_BD = arrays.get("momentum")
    if momentum_BD is None:
        momentum_BD = np.zeros(weight_BD.shape, np.float32)
    scale_B1 = arrays.get("scale")
    kept_as = store.momentum_RD.dtype
    if momentum_BD.dtype == kept_as and (scale_B1 is None) == (store.scale_R1 is None):
        return momentum_BD, scale_B1
    momentum_BD = momentum_as_float32(momentum_BD, scale_B1)
    if store.scale_R1 is None:
        return momentum_BD.astype(kept_as), None
    scale_B1 = np.abs(momentum_BD).max(axis=1, keepdims=True) / np.float32(127)
    units_BD = np.rint(momentum_BD / np.where(scale_B1 > 0, scale_B1, 1))
    return units_BD.astype(np.int8).view(np.uint8), scale_B1


def _put(stored: mx.nd.NDArray, rows_B: np.ndarray, values: np.ndarray) -> None:
    start, stop = int(rows_B[0]), int(rows_B[-1]) + 1
    values = mx.nd.array(values, ctx=stored.context, dtype=stored.dtype)
    if stop - start == len(rows_B):
        stored[start:stop] = values
    else:
        index = mx.nd.array(rows_B, ctx=stored.context, dtype="int64")
        mx.nd.contrib.index_copy(stored, index, values, out=stored)
