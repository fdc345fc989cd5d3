"""C functions as operations of MXNet's engine, over the memory of NDArrays.

An operation is pushed with the arrays that it reads and writes and returns at once, as MXNet's own do: the engine
runs it when those before it on the same arrays are done. Nothing waits in Python, and a step's blocks follow one
another without a gap. The call is MXEnginePushSyncND of MXNet's C API; Horovod's operations are pushed in the same way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import mxnet as mx
from mxnet.base import _LIB, check_call


class _Context(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int), ("device_id", ctypes.c_int)]


_CPU = _Context(1, 0)
# FnProperty::kCPUPrioritized of MXNet's engine: its own threads, beside the one that runs a network's layers.
_PRIORITIZED = ctypes.c_int(3)


def data_pointer(array: mx.nd.NDArray) -> int:
    """The address of the first element of an array in the CPU's memory.

    Args:
        array: one that has its memory, such as ``mx.nd.empty`` and ``mx.nd.array`` make. The result of an operation
            gets it when the operation runs, and an address taken meanwhile may be another one.
    """
    pointer = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    return pointer.value


class EngineFunctions:
    """Functions ``void f(void *engine, void *arguments)`` of a shared library, pushed to MXNet's engine.

    Args:
        library: the path of a library that also has ``copy_arguments``: the engine runs a function after its push
            has returned, and then calls ``free`` on the copy.

    Raises:
        OSError: the library does not load.
    """

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.copy_arguments.restype = ctypes.c_void_p
        self._library.copy_arguments.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        self._free = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        self._functions: dict[str, ctypes.c_void_p] = {}

    def push(
        self,
        name: str,
        arguments: ctypes.Structure,
        reads: Sequence[mx.nd.NDArray],
        writes: Sequence[mx.nd.NDArray],
        beside: bool = False,
    ) -> None:
        """Pushes one call.

        Args:
            name: the function's.
            arguments: what it gets; pointers in it must lie in the arrays named next.
            reads, writes: the arrays, no memory twice among them (the engine would wait for itself).
            beside: run on a thread of its own, at the same time as the network's layers.
        """
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = ctypes.cast(getattr(self._library, name), ctypes.c_void_p)
        copy = self._library.copy_arguments(ctypes.byref(arguments), ctypes.sizeof(arguments))
        if not copy:
            raise MemoryError(f"no memory is left for the {ctypes.sizeof(arguments)} bytes of a call")
        check_call(
            _LIB.MXEnginePushSyncND(
                function,
                ctypes.c_void_p(copy),
                self._free,
                ctypes.byref(_CPU),
                _handles(reads),
                len(reads),
                _handles(writes),
                len(writes),
                ctypes.byref(_PRIORITIZED) if beside else None,
                0,
                name.encode(),
            )
        )


def _handles(arrays: Sequence[mx.nd.NDArray]) -> ctypes.Array:
    return (ctypes.c_void_p * len(arrays))(*(array.handle.value for array in arrays))
