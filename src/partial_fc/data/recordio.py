"""The RecordIO container of MXNet (dmlc-core `recordio.h`): payloads framed in a file.

    record  = part+                       one part as a rule
    part    = magic u32 · (flag << 29 | length) u32 · length bytes · zeros up to a multiple of 4
    flag    = 0 the whole payload · 1 its first part · 2 a middle part · 3 its last part

A payload is cut where the magic number occurs in it at a multiple of 4 bytes; the magic itself is left out
there and put back by the reader. All numbers are little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

MAGIC = 0xCED7230A
MAX_PAYLOAD_BYTES = (1 << 29) - 1

_MAGIC_BYTES = struct.pack("<I", MAGIC)
_PART_HEADER = struct.Struct("<II")
_LENGTH_MASK = (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = 0, 1, 2, 3


class RecordError(ValueError):
    """A record that is not what the container says; the message names file and byte offset."""


def frame(payload: bytes) -> bytes:
    """The bytes of `payload` as one record, equal to those dmlc-core writes.

    Raises ValueError when the payload is 2²⁹ bytes or longer, which the format cannot say.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a record holds less than 2^29 bytes, got {len(payload)}; store a smaller image")
    cuts = list(_magic_positions(payload))
    padding = bytes(-len(payload) % 4)
    if not cuts:
        return b"".join((_part_header(_WHOLE, len(payload)), payload, padding))
    pieces, start = [], 0
    for cut in cuts:
        pieces += (_part_header(_FIRST if start == 0 else _MIDDLE, cut - start), payload[start:cut])
        start = cut + len(_MAGIC_BYTES)
    pieces += (_part_header(_LAST, len(payload) - start), payload[start:], padding)
    return b"".join(pieces)


def _magic_positions(payload: bytes) -> Iterator[int]:
    position = payload.find(_MAGIC_BYTES)
    while position >= 0:
        if position % 4 == 0:
            yield position
        position = payload.find(_MAGIC_BYTES, position + 1)


def _part_header(flag: int, length: int) -> bytes:
    return _PART_HEADER.pack(MAGIC, flag << 29 | length)


class RecordFile:
    """A RecordIO file, open for reading at any offset from any thread (positioned reads, no seek)."""

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.descriptor).st_size

    def close(self) -> None:
        """Closes the file; reading after it raises OSError."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def read(self, offset: int, expected_bytes: int = 8192) -> bytes:
        """The payload of the record at `offset`, in one system call when it fits in `expected_bytes`.

        Raises RecordError when no record starts there or the file ends inside it.
        """
        data = os.pread(self.descriptor, expected_bytes, offset)
        flag, length = self._parse_part_header(data, offset)
        if flag != _WHOLE:
            return self._read_parts(offset)
        end = _PART_HEADER.size + length
        if len(data) < end:
            data += self._read_exactly(offset + len(data), end - len(data), offset)
        return data[_PART_HEADER.size : end]

    def end_of(self, offset: int) -> int:
        """The offset at which the record that starts at `offset` ends, its padding included.

        Reads the headers of its parts alone. Raises RecordError as `read` does.
        """
        for start, length in self._parts(offset):
            end = start + length + -length % 4
        return end

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """(offset, payload) of every record, from the start of the file to its end."""
        offset = 0
        while offset < self.size:
            yield offset, self.read(offset)
            offset = self.end_of(offset)

    def _read_parts(self, offset: int) -> bytes:
        return _MAGIC_BYTES.join(
            self._read_exactly(start, length, offset) for start, length in self._parts(offset)
        )

    def _parts(self, offset: int) -> Iterator[tuple[int, int]]:
        """(start, length) of the bytes of each part; the whole of a part is known to lie in the file."""
        at, expected_flags = offset, (_WHOLE, _FIRST)
        while True:
            header = os.pread(self.descriptor, _PART_HEADER.size, at)
            flag, length = self._parse_part_header(header, offset)
            if flag not in expected_flags:
                raise RecordError(f"{self.path}: the parts of the record at byte {offset} do not follow")
            start = at + _PART_HEADER.size
            at = start + length + -length % 4
            if at > self.size:
                raise self._cut_short(offset, at)
            yield start, length
            if flag in (_WHOLE, _LAST):
                return
            expected_flags = (_MIDDLE, _LAST)

    def _parse_part_header(self, data: bytes, record_offset: int) -> tuple[int, int]:
        if len(data) < _PART_HEADER.size:
            raise self._cut_short(record_offset, record_offset + _PART_HEADER.size)
        magic, flag_and_length = _PART_HEADER.unpack_from(data)
        if magic != MAGIC:
            raise RecordError(
                f"{self.path}: no record starts at byte {record_offset} (the magic number there is "
                f"{magic:#010x}, not {MAGIC:#010x}): file and index do not belong together, or one is damaged"
            )
        return flag_and_length >> 29, flag_and_length & _LENGTH_MASK

    def _read_exactly(self, start: int, length: int, record_offset: int) -> bytes:
        # Compared before reading, so that a damaged length never makes a large allocation.
        if start + length > self.size:
            raise self._cut_short(record_offset, start + length)
        data = os.pread(self.descriptor, length, start)
        if len(data) < length:
            raise self._cut_short(record_offset, start + length)
        return data

    def _cut_short(self, record_offset: int, needed: int) -> RecordError:
        return RecordError(
            f"{self.path} is cut short: the record at byte {record_offset} goes to byte {needed} or beyond "
            f"and the file has {self.size} bytes; copy or unpack it again"
        )
