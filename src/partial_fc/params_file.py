"""MXNet's ``.params`` files, read and written in plain Python: named arrays, one after another.

    header    uint64 0x112, uint64 0, uint64 number of arrays
    array     uint32 version, [int32 storage type], uint32 dimensions, int64 each, 2 int32 device, int32 type, numbers
    names     uint64 number of names, then uint64 length and bytes of each; no names: a list of arrays

MXNet's own reader trusts every length that a file gives. This one compares each with what the file holds before it
takes memory for it, runs nothing, and reads single rows of an array that does not fit into memory.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

_LIST_MAGIC = 0x112
_VERSION_1, _VERSION_2, _VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE = 0
_CPU = (1, 0)
_MOST_DIMENSIONS = 32
_LONGEST_NAME = 4096
_TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")


class Output(Protocol):
    """What arrays are written to."""

    def write(self, data: bytes | memoryview, /) -> object: ...


@dataclass(frozen=True)
class _Place:
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


class ParamsFile:
    """An open ``.params`` file: the names, shapes and types of its arrays, which are read when they are asked for.

    Arrays without names are called "0", "1", ….

    Attributes:
        path: of the file.

    Raises:
        ValueError: the file is not what it should be; the message names it.
        OSError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = self.path.open("rb")
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._places = self._read_index()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ParamsFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()

    def names(self) -> list[str]:
        """The arrays' names in the order of the file."""
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self._places[name].dtype

    def read(self, name: str) -> np.ndarray:
        """A whole array."""
        place = self._places[name]
        return self._numbers(place, 0, math.prod(place.shape)).reshape(place.shape)

    def read_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of an array of one dimension or more."""
        place = self._places[name]
        assert 0 <= start <= stop <= place.shape[0], (start, stop, place.shape)
        width = math.prod(place.shape[1:])
        return self._numbers(place, start * width, stop * width).reshape(stop - start, *place.shape[1:])

    def _numbers(self, place: _Place, start: int, stop: int) -> np.ndarray:
        numbers = np.empty(stop - start, place.dtype)
        self._file.seek(place.offset + start * place.dtype.itemsize)
        if self._file.readinto(memoryview(numbers).cast("B")) != numbers.nbytes:
            raise ValueError(f"{self.path} was cut short while it was read")
        return numbers

    def _read_index(self) -> dict[str, _Place]:
        magic, _, count = self._unpack("<QQQ")
        if magic != _LIST_MAGIC:
            raise ValueError(f"{self.path} does not hold MXNet parameters")
        if count > self._size // 16:
            raise self._broken(f"it cannot hold the {count} arrays that it says it has")
        places = [self._read_place() for _ in range(count)]
        (named,) = self._unpack("<Q")
        if named not in (0, count):
            raise self._broken(f"it has {count} arrays and {named} names")
        names = [self._read_name() for _ in range(named)] if named else [str(number) for number in range(count)]
        if len(set(names)) != len(names):
            raise self._broken("two of its arrays have the same name")
        return dict(zip(names, places, strict=True))

    def _read_place(self) -> _Place:
        (version,) = self._unpack("<I")
        if version in (_VERSION_2, _VERSION_3):
            (storage,) = self._unpack("<i")
            if storage != _DENSE:
                raise self._broken("a sparse array is not supported")
        if version in (_VERSION_1, _VERSION_2, _VERSION_3):
            (dimensions,) = self._unpack("<I")
            size = "q"
        else:  # files of MXNet before 0.12 begin with the number of dimensions
            dimensions, size = version, "I"
        if dimensions > _MOST_DIMENSIONS:
            raise self._broken("it holds something else than arrays")
        shape = self._unpack(f"<{dimensions}{size}")
        if dimensions == 0 and version != _VERSION_3:  # an array that holds nothing ends here
            return _Place((0,), np.dtype("float32"), self._file.tell())
        _, _, type_number = self._unpack("<iii")
        if not 0 <= type_number < len(_TYPES):
            raise self._broken(f"numbers of type {type_number} are not supported")
        if any(length < 0 for length in shape):
            raise self._broken(f"an array has the shape {shape}")
        place = _Place(tuple(shape), np.dtype(_TYPES[type_number]), self._file.tell())
        end = place.offset + math.prod(shape) * place.dtype.itemsize
        if end > self._size:
            raise self._broken("it is cut short")
        self._file.seek(end)
        return place

    def _read_name(self) -> str:
        (length,) = self._unpack("<Q")
        if length > min(_LONGEST_NAME, self._size):
            raise self._broken(f"a name of {length} bytes")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise self._broken("a name is no text") from None

    def _unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self._take(struct.calcsize(form)))

    def _take(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise self._broken("it is cut short")
        return data

    def _broken(self, what: str) -> ValueError:
        return ValueError(f"{self.path} does not hold MXNet parameters: {what}")


def read_params(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a file by name; see :class:`ParamsFile` for what is raised."""
    with ParamsFile(path) as file:
        return {name: file.read(name) for name in file.names()}


class ParamsWriter:
    """Writes arrays one after another, of which only their number must be known before.

    Args:
        output: a file, or what takes bytes as one does.
        count: how many arrays will follow.
    """

    def __init__(self, output: Output, count: int) -> None:
        self._output = output
        self._count = count
        self._names: list[str] = []
        output.write(struct.pack("<QQQ", _LIST_MAGIC, 0, count))

    def begin(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Announces an array, whose numbers the caller then writes to the output, in pieces where it is large."""
        self._names.append(name)
        form = f"<IiI{len(shape)}qiii"
        self._output.write(
            struct.pack(form, _VERSION_2, _DENSE, len(shape), *shape, *_CPU, _TYPES.index(np.dtype(dtype).name))
        )

    def add(self, name: str, array: np.ndarray) -> None:
        """Writes a whole array."""
        self.begin(name, array.shape, array.dtype)
        self._output.write(memoryview(np.ascontiguousarray(array)).cast("B"))

    def end(self) -> None:
        """Writes the names; the file is complete then."""
        assert len(self._names) == self._count, (len(self._names), self._count)
        names = [name.encode() for name in self._names]
        self._output.write(
            b"".join([struct.pack("<Q", len(names)), *(struct.pack("<Q", len(name)) + name for name in names)])
        )


def write_params(output: Output, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as ``mx.nd.save`` does."""
    writer = ParamsWriter(output, len(arrays))
    for name, array in arrays.items():
        writer.add(name, array)
    writer.end()


def model_files(model: str) -> tuple[Path, Path]:
    """The symbol's and the parameters' file of ``PREFIX,EPOCH``.

    Raises:
        ValueError: it is not of that form.
        FileNotFoundError: a file is not there.
    """
    prefix, comma, epoch = model.rpartition(",")
    if not (comma and prefix and epoch.isascii() and epoch.isdigit()):
        raise ValueError(f"a model is given as PREFIX,EPOCH (such as models/model,0), not as {model!r}")
    files = Path(f"{prefix}-symbol.json"), Path(f"{prefix}-{int(epoch):04d}.params")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}, which the model {model} needs, is not there")
    return files
