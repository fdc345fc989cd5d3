"""Memory that lives on from step to step: fresh pages cost more than the work done in them."""

from __future__ import annotations

import math

import mxnet as mx


class Buffers:
    """Float32 arrays by purpose and number, on one device; each grows to the largest that was asked for."""

    def __init__(self, context: mx.Context) -> None:
        self._context = context
        self._buffers: dict[tuple[str, int], mx.nd.NDArray] = {}
        # A view costs 50 µs of Python, and most steps ask for the shapes of the last one.
        self._last: dict[tuple[str, int], tuple[tuple[int, ...], mx.nd.NDArray]] = {}

    def get(self, purpose: str, number: int, shape: tuple[int, ...]) -> mx.nd.NDArray:
        """The buffer of that name as an array of that shape; it holds what was left in it."""
        key = (purpose, number)
        last_shape, last = self._last.get(key, (None, None))
        if last_shape == shape:
            return last
        size = math.prod(shape)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[key] = mx.nd.empty((size,), ctx=self._context)
        view = buffer[:size].reshape(shape)
        self._last[key] = shape, view
        return view

    def bytes(self) -> int:
        """The memory of all buffers."""
        return sum(4 * buffer.size for buffer in self._buffers.values())
