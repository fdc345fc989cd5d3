"""Writes `.rec`, `.idx` and `property` in the layout that `records` describes."""

from __future__ import annotations

import contextlib
import os
from array import array
from pathlib import Path
from typing import IO

from partial_fc.data.record_payload import pack_label, pack_range
from partial_fc.data.recordio import frame


class RecordWriter:
    """Writes images into `rec_path`, with `.idx` and `property` beside it, in the layout of this file.

        with RecordWriter("faces/train.rec") as writer:
            for image_bytes, label in ...:      # labels ascending from 0
                writer.add(image_bytes, label)

    The files stand under temporary names until `close` (the end of the `with`) has everything on disk, and
    an exception removes them. `image_size`, (height, width), goes into `property`. An identity that is passed
    over gets an empty range, so that labels are kept. Memory: 8 bytes an identity.

    in_order = False: labels in any order, without header and identity records, as MXNet's `im2rec` writes
    them. num_identities: C, where it is more than the largest label says.
    """

    def __init__(
        self,
        rec_path: str | os.PathLike[str],
        image_size: tuple[int, int] = (112, 112),
        *,
        in_order: bool = True,
        num_identities: int = 0,
    ):
        path = Path(rec_path)
        if path.suffix != ".rec":
            raise ValueError(f"the name of a record file ends in .rec, got {path}")
        self.image_size = image_size
        self._in_order, self._num_identities = in_order, num_identities
        self._finals = [path, path.with_name("property"), path.with_suffix(".idx")]
        self._temporaries = [final.with_name(f".{final.name}.{os.getpid()}.tmp") for final in self._finals]
        self._first_keys = array("q")  # of each identity so far
        self._offset = 0
        self._key = 0
        self._open_files: list[IO[bytes]] = []
        try:
            for temporary in self._temporaries:
                self._open_files.append(temporary.open("wb", buffering=1 << 20))
            self._records, self._property, self._index = self._open_files
            if in_order:
                self._write(pack_range(0, 0, key=0))
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()

    def add(self, image_bytes: bytes, label: int) -> None:
        """Appends an encoded image of identity `label`.

        Raises ValueError for a label below 0 or, in order, below the last one, or for an image of 2²⁹ bytes;
        nothing was added then. Raises OSError when the disk is full; the files are removed then.
        """
        last_label = len(self._first_keys) - 1
        if self._in_order and label < max(last_label, 0):
            raise ValueError(f"labels are added in ascending order from 0 up, got {label} after {last_label}")
        payload = pack_label(label, self._key) + image_bytes
        try:
            self._write(payload)
        except OSError as error:
            self._discard()
            raise self._named(error) from None
        self._num_identities = max(self._num_identities, label + 1)
        if self._in_order:
            self._first_keys.extend([self._key - 1] * (label - last_label))

    def close(self) -> None:
        """Writes the identity records and gives the files their names; a second call does nothing.

        Raises ValueError when there is no image, OSError when the disk is full; nothing is left behind then.
        """
        if not self._open_files:
            return
        try:
            if self._key == int(self._in_order):
                raise ValueError(f"{self._finals[0]} would hold no image: add at least one")
            self._finish()
        except OSError as error:
            self._discard()
            raise self._named(error) from None
        except BaseException:
            self._discard()
            raise

    def _write(self, payload: bytes) -> None:
        record = frame(payload)
        self._records.write(record)
        self._index.write(b"%d\t%d\n" % (self._key, self._offset))
        self._offset += len(record)
        self._key += 1

    def _finish(self) -> None:
        if self._in_order:
            self._write_ranges()
        self._property.write(b"%d,%d,%d\n" % (self._num_identities, *self.image_size))
        for file in self._open_files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        # An old index goes first and the new one comes last: none ever lies beside records of another file.
        self._finals[-1].unlink(missing_ok=True)
        for temporary, final in zip(self._temporaries, self._finals, strict=True):
            temporary.replace(final)
        self._open_files = []

    def _named(self, error: OSError) -> OSError:
        """The error with the file that it is about, which a full disk's has not."""
        if error.strerror is None or error.filename is not None:
            return error
        return OSError(error.errno, error.strerror, str(self._finals[0]))

    def _write_ranges(self) -> None:
        first_identity, identities = self._key, self._num_identities
        starts = self._first_keys
        starts.extend([first_identity] * (identities + 1 - len(starts)))
        for first, end in zip(starts[:-1], starts[1:], strict=True):
            self._write(pack_range(first, end, self._key))
        self._records.seek(0)
        self._records.write(frame(pack_range(first_identity, first_identity + identities, key=0)))

    def _discard(self) -> None:
        for file in self._open_files:
            # Closing flushes, which fails again where the disk is full; the file goes away all the same.
            with contextlib.suppress(OSError):
                file.close()
        self._open_files = []
        for temporary in self._temporaries:
            temporary.unlink(missing_ok=True)
