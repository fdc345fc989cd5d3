"""Which form of the kernels serves: C over a CPU's memory where it is compiled, NDArray operations otherwise."""

from __future__ import annotations

import logging
from functools import lru_cache

import mxnet as mx

from partial_fc.head.kernels import LogitKernels, RowKernels
from partial_fc.head.kernels.native import NativeLogitKernels, NativeRowKernels, load
from partial_fc.head.kernels.ndarray import NDArrayLogitKernels, NDArrayRowKernels

logger = logging.getLogger("partial_fc")

FORMS = ("auto", "C", "NDArray")


def select_kernels(form: str, computes_on: mx.Context, stored_on: mx.Context) -> tuple[LogitKernels, RowKernels]:
    """The kernels for logits on one device and rows on another.

    Args:
        form: ``auto`` takes C where it can be had; ``C`` insists on it; ``NDArray`` does without.

    Raises:
        ValueError: an unknown form, or C where it cannot be had.
    """
    if form not in FORMS:
        raise ValueError(f"the form of the kernels must be one of {', '.join(FORMS)}, but is {form!r}")
    native = None if form == "NDArray" else _native()
    if form == "C" and (native is None or computes_on.device_type != "cpu"):
        raise ValueError("the kernels' C form needs a CPU and its library: python -m partial_fc.head.kernels.build")
    on_cpu = [native is not None and context.device_type == "cpu" for context in (computes_on, stored_on)]
    return native[0] if on_cpu[0] else NDArrayLogitKernels(), native[1] if on_cpu[1] else NDArrayRowKernels()


@lru_cache(maxsize=1)
def _native() -> tuple[NativeLogitKernels, NativeRowKernels] | None:
    try:
        return load()
    except OSError as error:
        logger.warning("the kernels run as NDArray operations: their C form is not there (%s)", error)
        return None
