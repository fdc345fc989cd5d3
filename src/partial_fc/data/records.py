"""InsightFace's `.rec`: images with their labels in a RecordIO file. `record_writer` writes it.

    train.rec    the records: a label, or two numbers, then the bytes of an image, or nothing
    train.idx    `key<tab>offset` of each record
    property     `identities,height,width`, one line

    record 0            the header record: (first identity record, one past the last)
    records 1 … N       label and image, those of an identity together
    records N+1 … N+C   one an identity: (its first image, one past its last)

The ranges of header and identity records are float32, rounded past 2²⁴: here they are written for other
readers and trusted by none; which images there are follows from the records, and whose an image is from its
own label.
"""

from __future__ import annotations

import bisect
import logging
import os
from array import array
from pathlib import Path

import numpy as np

from partial_fc.data.record_index import RecordIndex, make_index, read_index
from partial_fc.data.record_payload import (
    FIELD_LIMIT,
    LABEL_LIMIT,
    labels_at,
    unpack_fields,
    unpack_key,
    unpack_label,
    unpack_plain,
)
from partial_fc.data.recordio import RecordError, RecordFile

log = logging.getLogger("partial_fc")

_LABELS_AT_ONCE = 1 << 14


class RecordSource:
    """The images of a `.rec` with its `.idx`, with or without header record: an `ImageSource`.

    Image i is the one with the i-th smallest key. C is what `property` says; where there is none, the number
    of identity records; where there are none either, one more than the largest label, for which the file is
    read through once, as it is when the `.idx` is missing.

    Memory: 8 bytes an image. Raises FileNotFoundError when there is no `.rec`, ValueError when index and
    records do not belong together or one of them is cut short, and when the last label may be rounded.

    For tools that look at the file itself: `file`, its `index`, and `image_positions`, those of the index
    that are images; the header record, if there is one, comes before and identity records come after them.
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
        self.file, self.index, self.image_positions = self._file, index, range(first, end)
        self._keys, self._offsets = index.keys_N[first:end], index.offsets_N[first:end]
        if len(self) == 0:
            raise ValueError(f"{self.name} holds no image")
        # Half more than the mean image: nearly all come in one read, with little to throw away. (The records of
        # identities, short and many, do not count.)
        image_bytes = int(np.ptp(self._offsets)) // max(1, len(self) - 1) or self._file.size
        self._expected_bytes = min(3 * image_bytes // 2 + 64, 1 << 20)
        self.num_identities = self._find_num_identities(len(index.keys_N) - end)
        if self.num_identities > FIELD_LIMIT:
            self._read(len(self) - 1)  # labels ascend as a rule: one that a float32 cannot hold is found here

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, index: int) -> tuple[bytes, int]:
        # Between two images this is what keeps a decoding thread from decoding, so it takes a short way.
        data = os.pread(self._file.descriptor, self._expected_bytes, self._offsets.item(index))
        image_and_label = unpack_plain(data)
        if image_and_label is not None and image_and_label[1] < self.num_identities:
            return image_and_label
        payload, label, start = self._read(index)
        if label >= self.num_identities:
            raise ValueError(
                f"{self.where(index)} has the label {label}, and labels lie in [0, {self.num_identities}): "
                "correct `property` or write the file again"
            )
        return payload[start:], label

    def where(self, index: int) -> str:
        return f"{self.name} record {self._keys[index]}"

    def key(self, index: int) -> str:
        return str(self._keys[index])

    def close(self) -> None:
        self._file.close()

    def labels(self) -> np.ndarray:
        """The label of every image, int64 (N,), without reading the images. Not checked against C.

        Raises ValueError that names the record when one is broken or its label is not a whole number ≥ 0.
        """
        labels_N = np.empty(len(self), np.int64)
        for start in range(0, len(self), _LABELS_AT_ONCE):
            # Mapped anew each time: the pages that were looked at would stay in memory, millions of them.
            words = np.memmap(self.name, "<u4", "r", shape=(self._file.size // 4,))
            offsets = self._offsets[start : start + _LABELS_AT_ONCE]
            labels, known = labels_at(words, offsets // 4)
            for i in np.flatnonzero(~known | (offsets % 4 != 0)):
                labels[i] = self._read(start + int(i))[1]
            labels_N[start : start + len(offsets)] = labels
        return labels_N

    def _read(self, index: int) -> tuple[bytes, int, int]:
        """(payload, label, where the image starts in the payload)."""
        try:
            payload = self._file.read(self._offsets.item(index), self._expected_bytes)
            return payload, *unpack_label(payload)
        except RecordError as error:
            why = str(error).removeprefix(self.name)  # which `where` begins with, too
            raise ValueError(f"{self.where(index)}{'' if why.startswith(':') else ' '}{why.lstrip()}") from None

    def _load_index(self) -> RecordIndex:
        path = Path(self.name).with_suffix(".idx")
        if path.is_file():
            return read_index(path)
        log.warning("%s is missing: reading through %s once to find its records", path, self.name)
        offsets, keys = array("q"), array("q")
        for offset, payload in self._file.scan():
            offsets.append(offset)
            keys.append(unpack_key(payload))
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
        if not 1 <= fields[0] < LABEL_LIMIT:
            raise ValueError(
                f"{self.name} record 0 is broken: identity records cannot start at {fields[0]:g}"
            )
        first_identity, rounding = int(fields[0]), int(np.spacing(np.float32(fields[0])))
        end = bisect.bisect_left(keys, first_identity - rounding)
        # Exact below 2^24; past it the first identity record is the first record without an image.
        while end < count and keys[end] <= first_identity + rounding and self._fields_of(index, end)[1]:
            end += 1
        if end - 1 < first_identity - rounding - 1:
            raise ValueError(
                f"{self.name} says that it has {first_identity - 1} images and its index names {end - 1} of "
                "them: copy the .idx again, or delete it to have the records found anew"
            )
        return 1, end

    def _fields_of(self, index: RecordIndex, position: int) -> tuple[tuple[float, ...], bool]:
        """(label fields, whether an image follows them) of one record."""
        payload = self._file.read(int(index.offsets_N[position]))
        fields, _, start = unpack_fields(payload)
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
                path,
                words[0].strip(),
                self.name,
                identity_records,
            )
        return int(words[0])
