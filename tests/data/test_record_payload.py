import struct

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.data.record_payload import (
    labels_at,
    pack_label,
    pack_range,
    unpack_fields,
    unpack_key,
    unpack_label,
    unpack_plain,
)
from partial_fc.data.recordio import MAGIC, RecordError, frame

IMAGE = b"\xff\xd8\xff image"


def mxnet_payload(label, key=5, id2=0):
    return mx.recordio.pack(mx.recordio.IRHeader(0, label, key, id2), IMAGE)


def test_a_small_label_is_packed_as_by_mxnet():
    assert pack_label(16_777_215, key=5) + IMAGE == mxnet_payload(16_777_215.0)
    assert pack_range(9526, 13564, key=9530) == mx.recordio.pack(
        mx.recordio.IRHeader(2, [9526, 13564], 9530, 0), b""
    )


@pytest.mark.parametrize("label", [0, 1, 16_777_215, 16_777_216, 16_777_217, 100_000_001, (1 << 48) - 1])
def test_labels_are_exact(label):
    payload = pack_label(label, key=123) + IMAGE
    unpacked, start = unpack_label(payload)
    assert unpacked == label and payload[start:] == IMAGE
    assert unpack_key(payload) == 123


@pytest.mark.parametrize("label", [-1, 1 << 48])
def test_labels_out_of_range_are_not_packed(label):
    with pytest.raises(ValueError, match=r"whole number in \[0, 2\^48\), got"):
        pack_label(label, key=1)


def test_the_second_field_of_insightface_says_aligned_and_is_no_part_of_the_label():
    payload = mxnet_payload([7.0, 1.0])
    assert unpack_label(payload) == (7, len(payload) - len(IMAGE))


def test_more_fields_than_two():
    payload = mxnet_payload([7.0, 1.0, 0.5, 0.5])
    assert unpack_label(payload) == (7, len(payload) - len(IMAGE))
    assert unpack_fields(payload)[0] == (7.0, 1.0)


@pytest.mark.parametrize("label", [16_777_216.0, [16_777_216.0, 1.0], 20_000_000.0])
def test_a_label_that_may_be_rounded_is_refused(label):
    with pytest.raises(RecordError, match=r"has the label \d+ in one float32 field.*python -m partial_fc.data pack"):
        unpack_label(mxnet_payload(label))


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf"), float("-inf"), [3.5, 0.0]])
def test_a_label_that_is_no_whole_number_is_refused(label):
    with pytest.raises(RecordError, match="has the label"):
        unpack_label(mxnet_payload(label))


def test_a_payload_that_ends_before_its_image_is_refused():
    for payload in (pack_label(5, key=1), pack_label(1 << 30, key=1)):
        for length in range(len(payload)):
            with pytest.raises(RecordError, match=f"its {length} bytes end before its image"):
                unpack_label(payload[:length])
    with pytest.raises(RecordError, match="end before its image"):
        unpack_label(struct.pack("<IfQQ", 1 << 31, 0, 1, 0))


any_label = st.one_of(
    st.integers(0, 1 << 40).map(lambda label: pack_label(label, 1)),
    st.lists(st.floats(width=32), min_size=1, max_size=3).map(mxnet_payload),
    st.floats(width=32).map(mxnet_payload),
    st.binary(max_size=40),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(any_label, min_size=1, max_size=6))
def test_labels_in_bulk_are_those_of_single_records(payloads):
    records = [frame(payload) for payload in payloads]
    offsets = np.cumsum([0] + [len(record) for record in records[:-1]])
    labels, known = labels_at(np.frombuffer(b"".join(records), np.uint32), offsets // 4)
    for payload, label, is_known in zip(payloads, labels, known, strict=True):
        try:
            expected, _ = unpack_label(payload)
        except RecordError:
            assert not is_known
        else:
            assert is_known or expected >= 1 << 24  # in two fields that are not as `pack_label` writes them
            assert not is_known or label == expected


def test_labels_in_two_fields_are_read_in_bulk():
    expected = [(1 << 24) - 1, 1 << 24, (1 << 24) + 1, 99_999_999, (1 << 48) - 1]
    records = [frame(pack_label(label, 7) + b"image") for label in expected]
    offsets = np.cumsum([0] + [len(record) for record in records[:-1]])
    labels, known = labels_at(np.frombuffer(b"".join(records), np.uint32), offsets // 4)
    assert known.all() and labels.tolist() == expected


@settings(max_examples=100, deadline=None)
@given(any_label, st.binary(max_size=9), st.integers(0, 3))
def test_the_short_way_says_what_the_long_one_does_or_nothing(payload, follows, missing):
    record = frame(payload)
    data = record[: len(record) - missing] + (b"" if missing else follows)
    plain = unpack_plain(data)
    try:
        label, start = unpack_label(payload)
    except RecordError:
        assert plain is None
    else:
        usual = payload[:4] == bytes(4) and missing <= -len(payload) % 4
        assert plain == ((payload[start:], label) if usual else None)


def test_a_part_is_no_plain_record():
    assert unpack_plain(frame(pack_label(5, key=1) + struct.pack("<I", MAGIC))) is None
    assert unpack_plain(frame(bytes(20)) + bytes(20)) is None  # ends before its image
    record = frame(pack_label(5, key=1))
    assert unpack_plain(record) == (b"", 5)
    for length in range(len(record)):
        assert unpack_plain(record[:length]) is None
