"""Writes images into an LMDB directory as `lmdb_source` reads it, its list of keys and labels in it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import IO

import lmdb

from partial_fc.data.lmdb_source import KEY_LIST_NAME, pack_datum
from partial_fc.data.whole_file import exchange_directory

_MAP_BYTES = 1 << 40  # of addresses: the file grows as it is filled
_IMAGES_A_TRANSACTION = 4096


class LmdbWriter:
    """Writes images into the new directory `path`: `data.mdb`, and `keys.txt` with a line an image.

        with LmdbWriter("faces.lmdb") as writer:
            for image_bytes, label in ...:      # labels in any order
                writer.add(image_bytes, label)

    Keys number the images: `000000000`, `000000001`, …, which is the order of the database, too. The directory
    stands under a temporary name until `close` (the end of the `with`) has everything on disk, and an exception
    removes it; a directory of that name that is there already is then exchanged for it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        self._transaction: lmdb.Transaction | None = None
        self._keys: IO[bytes] | None = None
        self._environment: lmdb.Environment | None = None
        self._count = 0
        self.image_size = (112, 112)  # what a .rec says of its images: a database does not
        try:
            self._temporary.mkdir()
            self._keys = (self._temporary / KEY_LIST_NAME).open("wb", buffering=1 << 20)
            with _as_os_errors(self._path):
                self._environment = lmdb.open(str(self._temporary), map_size=_MAP_BYTES, lock=False, sync=False)
                self._transaction = self._environment.begin(write=True)
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> LmdbWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()

    def add(self, image_bytes: bytes, label: int) -> None:
        """Appends an encoded image of identity `label`.

        Raises ValueError for a label outside [0, 10⁹), which lists of keys hold. Raises OSError when the disk
        is full; the directory is removed then.
        """
        if not 0 <= label < 10**9:
            raise ValueError(f"a label in a list of keys lies in [0, 10^9), got {label}")
        assert self._keys and self._environment and self._transaction
        key = b"%09d" % self._count
        try:
            with _as_os_errors(self._path):
                self._transaction.put(key, pack_datum(image_bytes), append=True)
                self._keys.write(b"%s %d\n" % (key, label))
                self._count += 1
                if self._count % _IMAGES_A_TRANSACTION == 0:
                    self._transaction.commit()
                    self._transaction = self._environment.begin(write=True)
        except OSError:
            self._discard()
            raise

    def close(self) -> None:
        """Gives the directory its name; a second call does nothing.

        Raises ValueError when there is no image, OSError when the disk is full; nothing is left behind then.
        """
        if self._keys is None:
            return
        try:
            if self._count == 0:
                raise ValueError(f"{self._path} would hold no image: add at least one")
            assert self._environment and self._transaction
            with _as_os_errors(self._path):
                self._transaction.commit()
                self._transaction = None
                self._environment.sync(True)
                self._environment.close()
            self._keys.flush()
            os.fsync(self._keys.fileno())
            self._keys.close()
            self._keys = None
            exchange_directory(self._temporary, self._path)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._transaction is not None:
            with contextlib.suppress(lmdb.Error):
                self._transaction.abort()
            self._transaction = None
        if self._environment is not None:
            self._environment.close()
        if self._keys is not None:
            # Closing flushes, which fails again where the disk is full; the file goes away all the same.
            with contextlib.suppress(OSError):
                self._keys.close()
            self._keys = None
        shutil.rmtree(self._temporary, ignore_errors=True)


class _as_os_errors(contextlib.AbstractContextManager):
    """LMDB's errors that are the system's, as the OSError that other writers raise."""

    def __init__(self, path: Path):
        self._path = path

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, lmdb.Error):
            return
        text = str(error)
        number = next((n for n in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) if os.strerror(n) in text), None)
        if number is None:  # LMDB says EIO of a write that was cut short, which a full disk does
            raise OSError(errno.EIO, f"cannot be written to the end, is the disk full? ({text})", str(self._path))
        raise OSError(number, os.strerror(number), str(self._path)) from error
