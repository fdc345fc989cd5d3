import os
import struct

import mxnet as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.data.recordio import MAGIC, RecordError, RecordFile, frame

MAGIC_BYTES = struct.pack("<I", MAGIC)

# Payloads that hold the magic number at multiples of 4, elsewhere, at the ends, and twice in a row.
payloads = st.lists(st.one_of(st.just(MAGIC_BYTES), st.binary(max_size=9)), max_size=8).map(b"".join)


def write_with_mxnet(path, payloads):
    writer = mx.recordio.MXRecordIO(str(path), "w")
    for payload in payloads:
        writer.write(payload)
    writer.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(payloads, min_size=1, max_size=5))
def test_bytes_are_those_of_mxnet_both_ways(tmp_path_factory, payloads):
    path = tmp_path_factory.mktemp("recordio") / "a.rec"
    write_with_mxnet(path, payloads)
    assert path.read_bytes() == b"".join(frame(payload) for payload in payloads)
    file = RecordFile(path)
    scanned = list(file.scan())
    assert [payload for _, payload in scanned] == payloads
    for offset, payload in scanned:
        for expected_bytes in (8, 11, 1000):
            assert file.read(offset, expected_bytes) == payload
    file.close()


def test_a_payload_that_holds_the_magic_number_is_cut_there():
    payload = b"abcd" + MAGIC_BYTES + b"xy"
    first = struct.pack("<II", MAGIC, 1 << 29 | 4) + b"abcd"
    last = struct.pack("<II", MAGIC, 3 << 29 | 2) + b"xy\0\0"
    assert frame(payload) == first + last
    assert len(frame(b"a" + payload)) == 8 + 12  # not at a multiple of 4: one part


class Huge(bytes):
    def __len__(self):
        return 1 << 29


def test_a_payload_too_long_for_the_format_is_refused():
    with pytest.raises(ValueError, match=r"less than 2\^29 bytes"):
        frame(Huge())


@pytest.mark.parametrize("payload", [b"x" * 21, b"x" * 8 + MAGIC_BYTES + b"y" * 9], ids=["whole", "parts"])
def test_a_file_cut_anywhere_inside_a_record_is_named(tmp_path, payload):
    path = tmp_path / "a.rec"
    good, record = frame(b"first"), frame(payload)
    for length in range(len(record)):
        path.write_bytes(good + record[:length])
        file = RecordFile(path)
        with pytest.raises(RecordError, match=rf"a\.rec is cut short: the record at byte {len(good)} "):
            file.end_of(len(good))
        if length < len(record) - 3:  # the last 3 bytes are padding
            with pytest.raises(RecordError, match="cut short"):
                file.read(len(good))
        file.close()
    path.write_bytes(good + record)
    assert RecordFile(path).end_of(len(good)) == len(good + record)


def test_an_offset_where_no_record_starts_is_named(tmp_path):
    path = tmp_path / "a.rec"
    path.write_bytes(frame(b"first") + frame(b"second"))
    file = RecordFile(path)
    for reading in (file.read, file.end_of):
        with pytest.raises(RecordError, match="no record starts at byte 4 .*0xced7230a"):
            reading(4)
        with pytest.raises(RecordError, match="cut short"):
            reading(1 << 40)


@pytest.mark.parametrize("flags", [(2, 3), (1, 1), (1, 0), (4,)])
def test_parts_in_a_wrong_order_are_refused(tmp_path, flags):
    path = tmp_path / "a.rec"
    path.write_bytes(b"".join(struct.pack("<II", MAGIC, flag << 29 | 4) + b"abcd" for flag in flags))
    with pytest.raises(RecordError, match="parts of the record at byte 0 do not follow"):
        RecordFile(path).read(0)


def test_a_damaged_length_asks_for_no_memory(tmp_path, monkeypatch):
    def read_little(descriptor, length, offset):
        assert length < 10_000
        return pread(descriptor, length, offset)

    pread = os.pread
    monkeypatch.setattr(os, "pread", read_little)
    path = tmp_path / "a.rec"
    path.write_bytes(struct.pack("<II", MAGIC, (1 << 29) - 1) + b"abcd")
    with pytest.raises(RecordError, match="goes to byte 536870919 or beyond and the file has 12 bytes"):
        RecordFile(path).read(0)


def test_reading_after_close_is_an_error(tmp_path):
    path = tmp_path / "a.rec"
    path.write_bytes(frame(b"first"))
    file = RecordFile(path)
    file.close()
    file.close()
    with pytest.raises(OSError):
        file.read(0)
