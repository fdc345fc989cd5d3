"""Images in an LMDB database, as F²C (arXiv 2105.10375) writes it.

A value is a protobuf message `Datum { optional bytes data = 1; }` whose data is a JPEG or PNG; a text list of
`key label` lines beside the database says which images there are, and whose. Several databases together are a
`CombinedSource`.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import lmdb
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from partial_fc.data.key_list import KeyList
from partial_fc.data.lmdb_check import check_lmdb


def _make_datum_class() -> type[message.Message]:
    file = descriptor_pb2.FileDescriptorProto(
        name="partial_fc/datum.proto", package="partial_fc", syntax="proto2"
    )
    file.message_type.add(name="Datum").field.add(
        name="data",
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName("partial_fc.Datum"))


KEY_LIST_NAME = "keys.txt"
"""What the list of a database is called where it lies in the directory of the database."""

Datum = _make_datum_class()
_DATA_TAG = b"\x0a"  # field 1, length-delimited


def unpack_datum(value: bytes) -> bytes:
    """The image bytes of a serialised `Datum`. Raises ValueError when it is none or holds no data."""
    # A message of that one field, as all are, is cut by hand: protobuf in pure Python takes ten times longer.
    if value[:1] == _DATA_TAG:
        length, start = _varint(value, 1)
        if start + length == len(value):
            return value[start:]
    try:
        datum = Datum.FromString(value)
    except message.DecodeError as error:
        raise ValueError(f"is no Datum message ({error})") from None
    if not datum.HasField("data"):
        raise ValueError("is a Datum message without data")
    return datum.data


def pack_datum(image_bytes: bytes) -> bytes:
    """The serialised `Datum` of an image."""
    return Datum(data=image_bytes).SerializeToString()


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """(the number at `start`, where it ends); a number that has no end runs past that of `data`."""
    number = 0
    for i, byte in enumerate(data[start : start + 5]):
        number |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return number, start + i + 1
    return len(data), start


class _SharedEnvironments:
    """The databases that this process has open. LMDB forbids to open one twice; sources of several lists share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, tuple[lmdb.Environment, int]] = {}

    def open(self, path: Path) -> lmdb.Environment:
        """Raises ValueError when it is no database."""
        real = os.path.realpath(path)
        with self._lock:
            environment, users = self._open.get(real, (None, 0))
            if environment is None:
                check_lmdb(path)
                try:
                    # No lock file: the set may lie where nothing can be written. No read-ahead: the order is random.
                    environment = lmdb.open(
                        real, subdir=path.is_dir(), readonly=True, create=False, lock=False, readahead=False
                    )
                except lmdb.Error as error:
                    raise ValueError(f"{path} does not open as an LMDB database ({error})") from None
            self._open[real] = environment, users + 1
            return environment

    def close(self, path: Path) -> None:
        real = os.path.realpath(path)
        with self._lock:
            environment, users = self._open.pop(real)
            if users > 1:
                self._open[real] = environment, users - 1
            else:
                environment.close()


_environments = _SharedEnvironments()


class LmdbSource:
    """The images of one database in the order of its list: an `ImageSource`.

    database_path: the directory with `data.mdb`, or a database in one file. list_path: the text list; C is
    one more than its largest label. Memory: 14 bytes an image. Several sources may be of one database.

    Raises FileNotFoundError when one of them is missing, ValueError when it cannot be read.
    """

    def __init__(self, database_path: str | os.PathLike[str], list_path: str | os.PathLike[str]):
        path = Path(database_path)
        self.name = str(path)
        if not path.exists():
            raise FileNotFoundError(f"there is no database {path}: give the directory of an LMDB")
        self._list = KeyList(list_path)
        self.list_path = self._list.path
        try:
            self._environment = _environments.open(path)
        except BaseException:
            self._list.close()
            raise
        self._path: Path | None = path
        self._of_thread = threading.local()  # LMDB's transactions are not shared between threads
        self.num_identities = int(self._list.labels_N.max()) + 1

    def __len__(self) -> int:
        return len(self._list)

    def read(self, index: int) -> tuple[bytes, int]:
        try:
            value = self._transaction().get(self._list.key(index))
            if value is None:
                raise ValueError("is in the list and not in the database: make the list anew")
            return unpack_datum(value), self._list.labels_N.item(index)
        except (ValueError, lmdb.Error) as error:
            raise ValueError(f"{self.where(index)} {error}") from None

    def where(self, index: int) -> str:
        return f"{self.name} key {self._list.key(index).decode(errors='backslashreplace')!r}"

    def key(self, index: int) -> str:
        return os.fsdecode(self._list.key(index))

    def labels(self) -> np.ndarray:
        return self._list.labels_N.astype(np.int64)

    def close(self) -> None:
        path, self._path = self._path, None
        if path is not None:
            # LMDB ends the transactions of an environment that is closed, and this drops those of a shared one.
            self._of_thread = threading.local()
            _environments.close(path)
            self._list.close()

    def _transaction(self) -> lmdb.Transaction:
        try:
            return self._of_thread.transaction
        except AttributeError:
            self._of_thread.transaction = self._environment.begin()
            return self._of_thread.transaction
