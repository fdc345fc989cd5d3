"""Read a pickle of plain values without the power to run anything.

The verification sets that face-recognition projects publish are pickles, and `pickle.load` runs whatever its
file asks for. `read_plain_pickle` is a small machine for the part of the pickle language that describes
values: bytes, str, lists, tuples, bools, numbers, None, and numpy arrays and scalars of those. It has no
instruction that looks a name up or calls a function: the few names that numpy and Python write for arrays and
bytes stand for instructions of its own, and every other name is refused.

What it builds is bounded by the file's size: a read never passes the end of the file, arrays are views of
bytes that the file holds, the memo is a dict, and the one instruction that copies (`_codecs.encode`) may make
no more bytes than the file has. Deep nesting costs no recursion.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_FILE_BYTES = 2 << 30
"""A file above this is refused before it is read: the largest published verification set has 0.2 GiB."""


class _Mark:
    """Where a list or tuple of values begins on the stack."""


class _NdarrayClass:
    """Stands for `numpy.ndarray`, which only `_reconstruct` may be given."""


@dataclass
class _Dtype:
    """A `numpy.dtype` being built: its code, then by BUILD its byte order."""

    code: str
    order: str = "|"

    def resolve(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


class _Ndarray:
    """A `numpy.ndarray` being built: `_reconstruct` makes it empty, BUILD gives it its values."""

    value: np.ndarray | None = None


_MARK = _Mark()
_NDARRAY = _NdarrayClass()
_DTYPE_CODE = re.compile(r"\|?(b1|[iu][1248]|f[248]|S[0-9]{1,9})")
_BYTE_ORDERS = ("<", ">", "=", "|")


def read_plain_pickle(path: str | Path) -> Any:
    """The value that the pickle at `path` describes; numpy arrays come read-only.

    Pickles of Python 3 (protocols 0 to 5) and of Python 2 (1 and 2; its `str` comes as bytes).

    Raises ValueError, naming the file and what it found, for anything but plain values, for a truncated file
    and for one above `MAX_FILE_BYTES`, and OSError when the file cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # No more is asked for than is there: Python takes the memory before it reads.
        content = file.read(size) if size <= MAX_FILE_BYTES else b""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FILE_BYTES >> 30} GiB: it is not read as a pickle")
    try:
        return _Machine(content).run()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a pickle of plain values: {error}") from error


class _Machine:
    """The stack, the memo and one method for each kind of instruction."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.bytes_left_to_encode = len(content)

    def run(self) -> Any:
        for opcode, argument, position in pickletools.genops(io.BytesIO(self.content)):
            name = opcode.name
            if name == "STOP":
                break
            act = _INSTRUCTIONS.get(name)
            if act is None:
                shown = f" {argument!r:.80}" if argument is not None else ""
                raise ValueError(f"the instruction {name}{shown} at byte {position} is refused")
            act(self, argument)
        value = self.pop()
        if self.stack:
            raise ValueError("values are left over at its end")
        return value

    # -- the stack ------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        """The topmost finished value: arrays and dtypes that were built leave as numpy's."""
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("it takes a value that is not there")
        return _finished(self.stack.pop())

    def pop_to_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                values = [_finished(value) for value in self.stack[start + 1 :]]
                del self.stack[start:]
                return values
        raise ValueError("it ends a list that it never began")

    def push_string(self, text: str) -> None:
        """A Python-2 str holds bytes; pickletools shows them as Latin-1."""
        self.push(text.encode("latin-1"))

    def push_bytearray(self, value: bytearray) -> None:
        self.push(bytes(value))

    def push_tuple(self, length: int) -> None:
        values = [self.pop() for _ in range(length)]
        self.push(tuple(reversed(values)))

    def append(self, values: list[Any]) -> None:
        if not self.stack or not isinstance(self.stack[-1], list):
            raise ValueError("it appends to something that is no list")
        self.stack[-1].extend(values)

    # -- the memo -------------------------------------------------------------------------------------------

    def put(self, index: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("it remembers a value that is not there")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"it recalls value {index}, which it never stored")
        self.push(self.memo[index])

    # -- names and what stands for calls --------------------------------------------------------------------

    def push_global(self, dotted: str) -> None:
        """`dotted` is "module name", as pickletools writes it."""
        name = ".".join(dotted.split(" "))
        if name not in _GLOBALS:
            raise ValueError(f"it asks for {name[:200]!r}; nothing but plain values and numpy arrays is read")
        self.push(_GLOBALS[name])

    def push_stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("it asks for something whose name is no text")
        self.push_global(f"{module} {name}")

    def reduce(self) -> None:
        arguments, target = self.pop(), self.pop()
        if not isinstance(target, _Name) or not isinstance(arguments, tuple):
            raise ValueError(f"it calls a {type(target).__name__}")
        try:
            self.push(target.build(self, *arguments))
        except TypeError as error:
            raise ValueError(f"{target.dotted} has arguments of an unknown form") from error

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        if isinstance(target, _Dtype):
            _set_dtype_state(target, state)
        elif isinstance(target, _Ndarray):
            _set_array_state(target, state)
        else:
            raise ValueError(f"it sets the state of a {type(target).__name__}")

    def encode(self, text: Any, codec: Any = None) -> bytes:
        """What Python 3 writes for bytes up to protocol 2: `_codecs.encode(text, "latin1")`."""
        if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
            raise ValueError("_codecs.encode is given something else than text and 'latin1'")
        self.bytes_left_to_encode -= len(text)
        if self.bytes_left_to_encode < 0:
            raise ValueError("it unfolds to more bytes than it has")
        return text.encode("latin-1")


def _finished(value: Any) -> Any:
    if isinstance(value, _Ndarray):
        if value.value is None:
            raise ValueError("a numpy array has no values")
        return value.value
    return value


def _set_dtype_state(dtype: _Dtype, state: Any) -> None:
    """numpy writes `(version, byte order, None, None, None, -1, -1, flags)` for a dtype without fields."""
    plain = isinstance(state, tuple) and len(state) >= 5 and all(part is None for part in state[2:5])
    order = state[1] if plain else None
    if isinstance(order, bytes):
        order = order.decode("latin-1")
    if order not in _BYTE_ORDERS:
        raise ValueError("a numpy dtype has a state of an unknown form")
    dtype.order = order


def _set_array_state(array: _Ndarray, state: Any) -> None:
    """numpy writes `(version, shape, dtype, is_fortran, bytes)` for an array."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("a numpy array has a state of an unknown form")
    _, shape, dtype, is_fortran, raw = state
    array.value = _view(raw, dtype, shape, "F" if is_fortran else "C")


def _view(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """`raw` seen as an array; nothing is copied, so a shape can claim no more than the file holds."""
    if not isinstance(raw, bytes) or not isinstance(dtype, _Dtype):
        raise ValueError("a numpy array holds something else than numbers, bools or bytes")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("a numpy array has a shape of an unknown form")
    resolved = dtype.resolve()
    if resolved.itemsize == 0 or math.prod(shape) * resolved.itemsize != len(raw):
        raise ValueError(f"a numpy array of shape {shape[:8]} and dtype {resolved} has {len(raw)} bytes")
    return np.frombuffer(raw, resolved).reshape(shape, order=order)


# -- the names that numpy and Python write for arrays and bytes ---------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A name that a pickle may call, and the instruction of this machine that it stands for."""

    dotted: str
    build: Callable[..., Any]


def _new_array(machine: _Machine, subtype: Any, shape: Any = None, code: Any = None) -> _Ndarray:
    if subtype is not _NDARRAY:
        raise ValueError("_reconstruct is given something else than numpy.ndarray")
    return _Ndarray()


def _new_dtype(machine: _Machine, code: Any, align: Any = None, copy: Any = None) -> _Dtype:
    if isinstance(code, bytes):
        code = code.decode("latin-1")
    if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
        raise ValueError(f"a numpy array of dtype {code!r:.40} is refused (not numbers, bools or bytes)")
    return _Dtype(code)


def _array_from_buffer(machine: _Machine, raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if order not in ("C", "F"):
        raise ValueError("a numpy array has an unknown order of its axes")
    return _view(raw, dtype, shape, order)


def _scalar(machine: _Machine, dtype: Any, raw: Any) -> Any:
    return _view(raw, dtype, (1,), "C")[0]


def _empty_bytes(machine: _Machine) -> bytes:
    return b""


def _global_table() -> dict[str, Any]:
    table: dict[str, Any] = {"numpy.ndarray": _NDARRAY}
    calls: dict[str, Callable[..., Any]] = {
        "_codecs.encode": _Machine.encode,
        "builtins.bytes": _empty_bytes,
        "__builtin__.bytes": _empty_bytes,
        "numpy.dtype": _new_dtype,
    }
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
        calls[f"{core}.multiarray._reconstruct"] = _new_array
        calls[f"{core}.multiarray.scalar"] = _scalar
        calls[f"{core}.numeric._frombuffer"] = _array_from_buffer
    table.update({dotted: _Name(dotted, build) for dotted, build in calls.items()})
    return table


_GLOBALS = _global_table()

_PUSHED_AS_READ = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8"
).split()

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    **{name: _Machine.push for name in _PUSHED_AS_READ},
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BINSTRING": _Machine.push_string,
    "SHORT_BINSTRING": _Machine.push_string,
    "BYTEARRAY8": _Machine.push_bytearray,
    "MARK": lambda machine, _: machine.push(_MARK),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": lambda machine, _: machine.push_stack_global(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
