"""What InsightFace's `.rec` puts before the image in a record: the label.

    payload = fields u32 · label f32 · id u64 · id2 u64 · `fields` further label fields f32 · image

The label is the first further field where there are any. Records of InsightFace have none, or two: (label,
aligned). float32 holds every whole number below 2²⁴; a larger label takes two fields here,

    label = field[0] + 2²⁴·field[1]

and says so by a mark in id2, which other writers leave 0.
"""

from __future__ import annotations

import struct

import numpy as np

from partial_fc.data.recordio import MAGIC, RecordError

LABEL_LIMIT = 1 << 48  # what two fields hold

FIELD_LIMIT = 1 << 24  # what one field holds exactly, and below
_LABEL_IN_TWO_FIELDS = 0x6C6162656C32
_HEADER = struct.Struct("<IfQQ")
_PLAIN = struct.Struct("<IIIfQQ")  # magic and length before it
_FIELDS = {1: struct.Struct("<f"), 2: struct.Struct("<ff")}
_MAX_KEY = (1 << 63) - 1
_HEADER_WORDS = 10  # of 4 bytes: magic, length, fields, label, id ×2, id2 ×2, two further fields


def pack_label(label: int, key: int) -> bytes:
    """What precedes the image in record `key`. Raises ValueError for a label outside [0, 2⁴⁸)."""
    if not 0 <= label < LABEL_LIMIT:
        raise ValueError(f"a label is a whole number in [0, 2^48), got {label}")
    if label < FIELD_LIMIT:
        return _HEADER.pack(0, label, key, 0)
    high, low = divmod(label, FIELD_LIMIT)
    return _HEADER.pack(2, 0, key, _LABEL_IN_TWO_FIELDS) + _FIELDS[2].pack(low, high)


def pack_range(first: int, end: int, key: int) -> bytes:
    """The header record or an identity record, its range of keys rounded to float32."""
    return _HEADER.pack(2, 0, key, 0) + _FIELDS[2].pack(first, end)


def unpack_key(payload: bytes) -> int:
    """The id that the record carries, its key as a rule. Raises RecordError when the payload is too short."""
    if len(payload) < _HEADER.size:
        raise _too_short(payload)
    return _HEADER.unpack_from(payload)[2] & _MAX_KEY


def unpack_fields(payload: bytes) -> tuple[tuple[float, ...], int, int]:
    """(the first two label fields or the only one, id2, where the image starts in the payload).

    Raises RecordError when the payload ends before that.
    """
    try:
        count, label, _, mark = _HEADER.unpack_from(payload)
        start = _HEADER.size + 4 * count
        if start > len(payload):
            raise _too_short(payload)
        return _FIELDS[min(count, 2)].unpack_from(payload, _HEADER.size) if count else (label,), mark, start
    except struct.error:
        raise _too_short(payload) from None


def unpack_label(payload: bytes) -> tuple[int, int]:
    """(label, where the image starts in the payload).

    Raises RecordError when the payload is too short, or the label is not a whole number or may be rounded.
    """
    fields, mark, start = unpack_fields(payload)
    label = fields[0]
    if mark == _LABEL_IN_TWO_FIELDS and len(fields) == 2:
        label += fields[1] * FIELD_LIMIT
    elif label >= FIELD_LIMIT:
        raise RecordError(
            f"has the label {label:.0f} in one float32 field, which is exact below 2^24 alone, so it may be "
            "rounded: pack the images it was made of again, by `python -m partial_fc.data pack`, which writes "
            "such labels in two fields"
        )
    if not 0 <= label < LABEL_LIMIT or label != int(label):
        raise RecordError(f"has the label {label:g}, and a label is a whole number from 0 up")
    return int(label), start


def unpack_plain(data: bytes) -> tuple[bytes, int] | None:
    """(image, label) of the record at the start of `data`, if it is one like nearly all.

    That is: of one part, all of it in `data`, its label a whole number below 2²⁴ without further fields. None
    is the answer for others, broken ones among them: these go the long way.
    """
    if len(data) < _PLAIN.size:
        return None
    magic, length, fields, label, _, _ = _PLAIN.unpack_from(data)
    end = length + 8
    if magic != MAGIC or fields or not _PLAIN.size <= end <= len(data):
        return None
    if not 0 <= label < FIELD_LIMIT or label != int(label):
        return None
    return data[_PLAIN.size : end], int(label)


def labels_at(words: np.ndarray, at_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(labels int64, whether each is known) of the records at `at_N` of a file's words, uint32, in bulk.

    Known are those of sound records of one part with a whole label below 2²⁴, or one in two fields. The others
    are left to `unpack_label`.
    """
    words_NK = words[np.minimum(at_N[:, None] + np.arange(_HEADER_WORDS), len(words) - 1)]
    length_N, fields_N = words_NK[:, 1].astype(np.int64), words_NK[:, 2].astype(np.int64)
    label_N = np.where(fields_N > 0, words_NK[:, 8], words_NK[:, 3]).view(np.float32)
    in_range_N = (label_N >= 0) & (label_N < FIELD_LIMIT)
    whole_N = np.where(in_range_N, label_N, 0).astype(np.int64)
    id2_N = words_NK[:, 6] + (words_NK[:, 7].astype(np.uint64) << np.uint64(32))
    in_two_N = (id2_N == _LABEL_IN_TWO_FIELDS) & (fields_N == 2)
    high_N = np.where(in_two_N, words_NK[:, 9], 0).astype(np.uint32).view(np.float32)
    in_range_N &= (high_N >= 0) & (high_N < FIELD_LIMIT) & (high_N == np.floor(high_N))
    known_N = (words_NK[:, 0] == MAGIC) & ((id2_N == 0) | in_two_N)
    known_N &= (length_N >= _HEADER.size + 4 * fields_N) & (length_N < 1 << 29)
    known_N &= in_range_N & (whole_N == label_N)
    return whole_N + np.where(known_N, high_N, 0).astype(np.int64) * FIELD_LIMIT, known_N


def _too_short(payload: bytes) -> RecordError:
    return RecordError(f"is broken: its {len(payload)} bytes end before its image")
