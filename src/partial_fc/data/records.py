"""InsightFace's `.rec`: images with their labels in a RecordIO file, read and written.

    train.rec    the records; a record's payload is  flag u32 · label f32 · id u64 · id2 u64 ·
                 `flag` further label fields f32 · the bytes of the image
    train.idx    `key<tab>offset` of each record
    property     `identities,height,width`, one line

    record 0            label fields [first identity record, one past the last], no image: the header record
    records 1 … N       the images, those of an identity together, their label its number
    records N+1 … N+C   one an identity, label fields [first image, one past its last], no image

The ranges of header and identity records are float32, rounded past 2²⁴: here they are written for other
readers and trusted by none; which images there are follows from the records, and whose an image is from its
own label.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import os
import struct
from array import array
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from partial_fc.data.record_index import RecordIndex, make_index, read_index
from partial_fc.data.recordio import MAGIC, RecordError, RecordFile, frame

log = logging.getLogger("partial_fc")

_LABEL_HEADER = struct.Struct("<IfQQ")
_FIELDS = {1: struct.Struct("<f"), 2: struct.Struct("<ff")}
# float32 holds every whole number below 2^24. A larger label takes two fields, label = field[1]·2^24 + field[0],
# and says so in id2, which every other writer leaves 0: InsightFace also writes two fields, (label, aligned).
_FIELD_LIMIT = 1 << 24
_MAX_KEY = (1 << 63) - 1
_LABELS_AT_ONCE = 1 << 18
_LABEL_IN_TWO_FIELDS = 0x6C6162656C32


def pack_label(label: int, key: int) -> bytes:
    """What precedes the image in the payload of record `key`; exact for labels in [0, 2⁴⁸)."""
    if not 0 <= label < _FIELD_LIMIT**2:
        raise ValueError(f"a label is a whole number in [0, 2^48), got {label}")
    if label < _FIELD_LIMIT:
        return _LABEL_HEADER.pack(0, label, key, 0)
    high, low = divmod(label, _FIELD_LIMIT)
    return _LABEL_HEADER.pack(2, 0, key, _LABEL_IN_TWO_FIELDS) + _FIELDS[2].pack(low, high)


def _pack_range(first: int, end: int, key: int) -> bytes:
    """The payload of the header record or of an identity record; `first` and `end` rounded to float32."""
    return _LABEL_HEADER.pack(2, 0, key, 0) + _FIELDS[2].pack(first, end)


def _split(payload: bytes) -> tuple[tuple[float, ...], int, int]:
    """(the first two label fields or the only one, the mark in id2, where the image starts).

    Raises RecordError when the payload ends before that.
    """
    try:
        count, label, _, mark = _LABEL_HEADER.unpack_from(payload)
        start = _LABEL_HEADER.size + 4 * count
        if start > len(payload):
            raise struct.error
        fields = _FIELDS[min(count, 2)].unpack_from(payload, _LABEL_HEADER.size) if count else (label,)
    except struct.error:
        raise RecordError(f"the record is broken: its {len(payload)} bytes end before its image") from None
    return fields, mark, start


def _label(fields: tuple[float, ...], mark: int) -> float:
    """The label as it stands in the record. Raises RecordError when it may have been rounded."""
    if mark == _LABEL_IN_TWO_FIELDS and len(fields) == 2:
        return fields[0] + fields[1] * _FIELD_LIMIT
    if fields[0] >= _FIELD_LIMIT:
        raise RecordError(
            f"the label {fields[0]:.0f} is in one float32 field, which holds whole numbers below 2^24 alone, so it "
            "may be rounded: write the file again from its images with partial_fc, which uses two fields"
        )
    return fields[0]


class RecordSource:
    """The images of a `.rec` with its `.idx`, with or without header record: an `ImageSource`.

    Image i is the one with the i-th smallest key. C is what `property` says; where there is none, the number of
    identity records; where there are none either, one more than the largest label, for which the file is read
    through once, as it is when the `.idx` is missing.

    Memory: 8 bytes an image. Raises FileNotFoundError when there is no `.rec`, ValueError when index and
    records do not belong together or one of them is cut short.
    """

    def __init__(self, rec_path: str | os.PathLike[str]):
        path = Path(rec_path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no record file {path}: give the path of a .rec")
        self.name = str(path)
        self._file = RecordFile(path)
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        index = self._load_index()
        self._check_end(index)
        first, end = self._image_positions(index)
        self._keys, self._offsets = index.keys_N[first:end], index.offsets_N[first:end]
        if len(self) == 0:
            raise ValueError(f"{self.name} holds no image")
        # Twice the mean record: nearly every record comes in one read, with little to throw away.
        self._expected_bytes = min(max(2 * self._file.size // len(index.offsets_N), 4096), 1 << 20)
        self.num_identities = self._find_num_identities(len(index.keys_N) - end)

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, index: int) -> tuple[bytes, int]:
        payload, label, start = self._read(index)
        if label >= self.num_identities:
            raise ValueError(
                f"{self.where(index)} has the label {label}, and labels lie in [0, {self.num_identities}): "
                "correct `property` or write the file again"
            )
        return payload[start:], label

    def where(self, index: int) -> str:
        return f"{self.name} record {self._keys[index]}"

    def close(self) -> None:
        self._file.close()

    def labels(self) -> np.ndarray:
        """The label of every image, int64 (N,), without reading the images. Not checked against C.

        Raises ValueError that names the record when one is broken or its label is not a whole number ≥ 0.
        """
        words = np.memmap(self.name, "<u4", "r", shape=(self._file.size // 4,))
        labels_N = np.empty(len(self), np.int64)
        for start in range(0, len(self), _LABELS_AT_ONCE):
            offsets = self._offsets[start : start + _LABELS_AT_ONCE]
            labels, known = _labels_at(words, offsets // 4)
            for i in np.flatnonzero(~known | (offsets % 4 != 0)):
                labels[i] = self._read(start + int(i))[1]
            labels_N[start : start + len(offsets)] = labels
        return labels_N

    def _read(self, index: int) -> tuple[bytes, int, int]:
        """(payload, label, where the image starts in the payload)."""
        try:
            payload = self._file.read(int(self._offsets[index]), self._expected_bytes)
            fields, mark, start = _split(payload)
            label = _label(fields, mark)
            if not 0 <= label < _FIELD_LIMIT**2 or label != int(label):
                raise RecordError(f"has the label {label:g}, and a label is a whole number from 0 up")
        except RecordError as error:
            raise ValueError(f"{self.where(index)} {error}") from None
        return payload, int(label), start

    def _load_index(self) -> RecordIndex:
        path = Path(self.name).with_suffix(".idx")
        if path.is_file():
            return read_index(path)
        log.warning("%s is missing: reading through %s once to find its records", path, self.name)
        offsets, keys = array("q"), array("q")
        for offset, payload in self._file.scan():
            offsets.append(offset)
            keys.append(_LABEL_HEADER.unpack_from(payload.ljust(_LABEL_HEADER.size, b"\0"))[2] & _MAX_KEY)
        keys_N, offsets_N = np.array(keys, np.int64), np.array(offsets, np.int64)
        if len(np.unique(keys_N)) < len(keys_N):  # from a writer that gives none
            keys_N = np.arange(len(keys_N))
        return make_index(keys_N, offsets_N, path)

    def _check_end(self, index: RecordIndex) -> None:
        """Finds an index and a file that do not belong together by the last record of the file alone."""
        last = int(np.argmax(index.offsets_N))
        end = self._file.end_of(int(index.offsets_N[last]))
        if end < self._file.size:
            log.warning(
                "%s goes on for %d bytes after record %d, the last in its index: these are not read",
                self.name,
                self._file.size - end,
                index.keys_N[last],
            )

    def _image_positions(self, index: RecordIndex) -> tuple[int, int]:
        """Which positions of the index are images: all, or those between header and identity records."""
        keys, count = index.keys_N, len(index.keys_N)
        if keys[0] != 0:
            return 0, count
        fields, has_image = self._fields_of(index, 0)
        if has_image or len(fields) < 2:
            return 0, count
        if not 1 <= fields[0] < _MAX_KEY:
            raise ValueError(f"{self.name} record 0: the identity records cannot start at record {fields[0]:g}")
        first_identity, rounding = int(fields[0]), int(np.spacing(np.float32(fields[0])))
        end = bisect.bisect_left(keys, first_identity - rounding)
        # Exact below 2^24; past it the first identity record is the first record without an image.
        while end < count and keys[end] <= first_identity + rounding and self._fields_of(index, end)[1]:
            end += 1
        if end - 1 < first_identity - rounding - 1:
            raise ValueError(
                f"{self.name} says that it has {first_identity - 1} images and its index names {end - 1} of them: "
                "copy the .idx again, or delete it to have the records found anew"
            )
        return 1, end

    def _fields_of(self, index: RecordIndex, position: int) -> tuple[tuple[float, ...], bool]:
        """(label fields, whether an image follows them) of one record."""
        payload = self._file.read(int(index.offsets_N[position]))
        fields, _, start = _split(payload)
        return fields, start < len(payload)

    def _find_num_identities(self, identity_records: int) -> int:
        path = Path(self.name).with_name("property")
        if not path.is_file():
            return identity_records or int(self.labels().max()) + 1
        words = path.read_text(errors="replace").split(",")
        if not words[0].strip().isdigit() or int(words[0]) < 1:
            raise ValueError(f"{path} is not `identities,height,width`: correct or delete it")
        if identity_records not in (0, int(words[0])):
            log.warning(
                "%s says %s identities and %s has %d identity records: the former is used",
                path, words[0].strip(), self.name, identity_records,
            )
        return int(words[0])


def _labels_at(words: np.ndarray, at_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(labels int64, whether each is known) of the records at word offsets `at_N` of the file, in bulk.

    Known are those of sound records of one part with a whole label below 2²⁴; the others are left to the reader
    of single records. Words of a record: magic, length, fields, label, id ×2, id2 ×2, first further label field.
    """
    words_NK = words[np.minimum(at_N[:, None] + np.arange(9), len(words) - 1)]
    count_N, has_fields_N = words_NK[:, 2], words_NK[:, 2] > 0
    label_N = np.where(has_fields_N, words_NK[:, 8], words_NK[:, 3]).view(np.float32)
    with np.errstate(invalid="ignore"):
        whole_N = label_N.astype(np.int64)
    known_N = (words_NK[:, 0] == MAGIC) & (words_NK[:, 6] == 0) & (words_NK[:, 7] == 0)
    known_N &= (words_NK[:, 1] >= _LABEL_HEADER.size + 4 * count_N.astype(np.int64)) & (words_NK[:, 1] < 1 << 29)
    known_N &= (whole_N == label_N) & (label_N >= 0) & (label_N < _FIELD_LIMIT)
    return whole_N, known_N


class RecordWriter:
    """Writes images into `rec_path`, with `.idx` and `property` beside it, in the layout of this file.

        with RecordWriter("faces/train.rec") as writer:
            for image_bytes, label in ...:      # labels ascending from 0
                writer.add(image_bytes, label)

    The files stand under temporary names until `close` (the end of the `with`) has everything on disk, and an
    exception removes them. `image_size`, (height, width), goes into `property`. An identity that is passed over
    gets an empty range, so that labels are kept. Memory: 8 bytes an identity.
    """

    def __init__(self, rec_path: str | os.PathLike[str], image_size: tuple[int, int] = (112, 112)):
        path = Path(rec_path)
        if path.suffix != ".rec":
            raise ValueError(f"the name of a record file ends in .rec, got {path}")
        self._image_size = image_size
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
            self._write(_pack_range(0, 0, key=0))
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._discard()

    def add(self, image_bytes: bytes, label: int) -> None:
        """Appends an encoded image of identity `label`.

        Raises ValueError for a label below 0 or below the last one, or for an image of 2²⁹ bytes, after
        which the writer is still good.
        """
        last_label = len(self._first_keys) - 1
        if label < max(last_label, 0):
            raise ValueError(f"labels are added in ascending order from 0 up, got {label} after {last_label}")
        self._write(pack_label(label, self._key) + image_bytes)
        while len(self._first_keys) <= label:
            self._first_keys.append(self._key - 1)

    def close(self) -> None:
        """Writes the identity records and gives the files their names; a second call does nothing.

        Raises ValueError when there is no image, OSError when the disk is full; nothing is left behind then.
        """
        if not self._open_files:
            return
        try:
            if not self._first_keys:
                raise ValueError(f"{self._finals[0]}: a record file needs at least one image, and none was added")
            self._finish()
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
        first_identity, identities = self._key, len(self._first_keys)
        self._first_keys.append(first_identity)
        for first, end in zip(self._first_keys[:-1], self._first_keys[1:], strict=True):
            self._write(_pack_range(first, end, self._key))
        self._records.seek(0)
        self._records.write(frame(_pack_range(first_identity, first_identity + identities, key=0)))
        height, width = self._image_size
        self._property.write(b"%d,%d,%d\n" % (identities, height, width))
        for file in self._open_files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        # The index comes last and an old one goes first: no index ever lies beside records that are not its own.
        self._finals[-1].unlink(missing_ok=True)
        for temporary, final in zip(self._temporaries, self._finals, strict=True):
            temporary.replace(final)
        self._open_files = []

    def _discard(self) -> None:
        for file in self._open_files:
            # Closing flushes, which fails again where the disk is full; the file goes away all the same.
            with contextlib.suppress(OSError):
                file.close()
        self._open_files = []
        for temporary in self._temporaries:
            temporary.unlink(missing_ok=True)
