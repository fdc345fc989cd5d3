import logging
import os
import struct

import mxnet as mx
import numpy as np
import pytest

from partial_fc.data import records
from partial_fc.data.record_index import make_index
from partial_fc.data.record_payload import pack_label, pack_range
from partial_fc.data.record_writer import RecordWriter
from partial_fc.data.recordio import frame
from partial_fc.data.records import RecordSource

# What these tests store need not be images: sources hand out bytes. The sizes leave every remainder mod 4.
FACES = [
    (b"\xff\xd8" + bytes([10 * label + i]) * (17 + 3 * label + i), label)
    for label in range(5)
    for i in range(3)
]


def write_faces(path, faces=FACES):
    with RecordWriter(path, image_size=(56, 48)) as writer:
        for image, label in faces:
            writer.add(image, label)


def write_records(path, payload_of_key, idx=True):
    """Any payloads under any keys, in the order given."""
    offset, lines, records = 0, [], []
    for key, payload in payload_of_key.items():
        lines.append(f"{key}\t{offset}\n")
        records.append(frame(payload))
        offset += len(records[-1])
    path.write_bytes(b"".join(records))
    if idx:
        path.with_suffix(".idx").write_text("".join(lines))


def contents(source):
    return [source.read(i) for i in range(len(source))]


@pytest.fixture
def rec(tmp_path):
    return tmp_path / "train.rec"


def test_what_is_written_is_read(rec):
    write_faces(rec)
    source = RecordSource(rec)
    assert contents(source) == FACES
    assert source.num_identities == 5
    assert source.labels().tolist() == [label for _, label in FACES]
    assert source.where(2) == f"{rec} record 3"
    assert sorted(os.listdir(rec.parent)) == ["property", "train.idx", "train.rec"]
    assert rec.with_name("property").read_text() == "5,56,48\n"
    source.close()


def test_mxnet_reads_what_is_written(rec):
    write_faces(rec)
    reader = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "r")
    header, image = mx.recordio.unpack(reader.read_idx(0))
    assert (header.flag, header.label.tolist(), image) == (2, [16, 21], b"")
    for key, (expected, label) in enumerate(FACES, start=1):
        header, image = mx.recordio.unpack(reader.read_idx(key))
        assert (header.flag, header.label, header.id, image) == (0, label, key, expected)
    for label in range(5):
        header, image = mx.recordio.unpack(reader.read_idx(16 + label))
        assert (header.label.tolist(), image) == ([1 + 3 * label, 4 + 3 * label], b"")


def test_what_mxnet_writes_is_read(rec):
    """Images with (label, aligned), then the header record, then identities, as `face2rec2` orders them."""
    writer = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "w")
    for key, (image, label) in enumerate(FACES, start=1):
        writer.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, [label, 1.0], key, 0), image))
    writer.write_idx(0, mx.recordio.pack(mx.recordio.IRHeader(0, [16.0, 21.0], 0, 0), b""))
    for key in range(16, 21):
        writer.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, [1.0, 4.0], key, 0), b""))
    writer.close()
    source = RecordSource(rec)
    assert contents(source) == FACES
    assert source.num_identities == 5


def test_without_header_every_key_is_an_image(rec):
    write_records(rec, {key: pack_label(label, key) + image for key, (image, label) in enumerate(FACES)})
    source = RecordSource(rec)
    assert contents(source) == FACES
    assert source.num_identities == 5
    rec.with_name("property").write_text("9,112,112")
    assert RecordSource(rec).num_identities == 9


def test_keys_need_not_follow_one_another(rec):
    keys = [30, 10, 20]
    write_records(rec, {key: pack_label(label, key) + FACES[label][0] for label, key in enumerate(keys)})
    source = RecordSource(rec)
    assert [label for _, label in contents(source)] == [1, 2, 0]
    assert source.where(2) == f"{rec} record 30"
    assert source.labels().tolist() == [1, 2, 0]


def test_real_faces_are_written_byte_for_byte(shared_data, rec):
    original = shared_data / "lfw" / "train.rec"
    source = RecordSource(original)
    assert (len(source), source.num_identities) == (9525, 4038)
    with RecordWriter(rec) as writer:
        for i in range(len(source)):
            writer.add(*source.read(i))
    for name in ("train.rec", "train.idx", "property"):
        assert (rec.parent / name).read_bytes() == (original.parent / name).read_bytes(), name


def test_the_number_of_identities_comes_from_property_then_from_the_identity_records(rec, caplog):
    write_faces(rec)
    rec.with_name("property").write_text("7,112,112\n")
    assert RecordSource(rec).num_identities == 7
    assert "says 7 identities" in caplog.text and "has 5 identity records" in caplog.text
    rec.with_name("property").unlink()
    assert RecordSource(rec).num_identities == 5
    for broken in ("", "many,112,112", "0,112,112", "-3"):
        rec.with_name("property").write_text(broken)
        with pytest.raises(ValueError, match="property is not `identities,height,width`"):
            RecordSource(rec)


def test_labels_outside_the_range_are_named(rec):
    write_faces(rec)
    rec.with_name("property").write_text("4,112,112\n")
    source = RecordSource(rec)
    assert source.read(11)[1] == 3
    with pytest.raises(ValueError, match=r"train\.rec record 13 has the label 4, and labels lie in \[0, 4\)"):
        source.read(12)


@pytest.mark.parametrize("label", [-1.0, 1.5, float("nan"), float("inf"), 16_777_216.0])
def test_labels_that_are_none_are_named(rec, label):
    payload = struct.pack("<IfQQ", 0, label, 1, 0) + b"image"
    write_records(rec, {1: pack_label(0, 1) + b"image", 2: payload})
    rec.with_name("property").write_text("16777216,112,112\n")
    source = RecordSource(rec)
    for reading in (lambda: source.read(1), source.labels):
        with pytest.raises(ValueError, match=r"train\.rec record 2 has the label"):
            reading()


def test_a_rounded_label_is_found_at_opening(rec):
    """20,000,001 is 20,000,000 in a float32: no reader can tell which it was."""
    write_records(rec, {1: pack_label(0, 1) + b"image", 2: struct.pack("<IfQQ", 0, 20_000_001, 2, 0) + b"image"})
    rec.with_name("property").write_text("20000002,112,112\n")
    with pytest.raises(ValueError, match="record 2 has the label 20000000 in one float32.* partial_fc.data pack"):
        RecordSource(rec)


def test_without_header_labels_come_in_any_order(rec):
    """As MXNet's `im2rec` writes them: keys from 0, no identity records."""
    faces = [(b"a", 3), (b"b", 0), (b"c", 20_000_000), (b"d", 0)]
    with RecordWriter(rec, in_order=False, num_identities=20_000_003) as writer:
        for image, label in faces:
            writer.add(image, label)
    source = RecordSource(rec)
    assert (contents(source), source.num_identities) == (faces, 20_000_003)
    assert [source.key(i) for i in range(4)] == ["0", "1", "2", "3"]
    with pytest.raises(ValueError, match="would hold no image"), RecordWriter(rec, in_order=False):
        pass


def test_identities_at_the_end_may_have_no_image(rec):
    with RecordWriter(rec, num_identities=4) as writer:
        writer.add(b"a", 1)
    source = RecordSource(rec)
    assert (contents(source), source.num_identities) == ([(b"a", 1)], 4)
    assert rec.with_name("property").read_text() == "4,112,112\n"


def test_labels_past_2_to_the_24_take_two_fields(rec):
    labels = [16_777_217, 99_999_999]
    write_records(rec, {key: pack_label(label, key) + b"image" for key, label in enumerate(labels)})
    source = RecordSource(rec)
    assert contents(source) == [(b"image", label) for label in labels]
    assert source.labels().tolist() == labels
    assert source.num_identities == 100_000_000


def test_an_identity_that_is_passed_over_keeps_the_labels(rec):
    write_faces(rec, [(b"a", 1), (b"b", 1), (b"c", 4)])
    source = RecordSource(rec)
    assert contents(source) == [(b"a", 1), (b"b", 1), (b"c", 4)]
    assert source.num_identities == 5


def test_a_missing_file_is_one_sentence(rec):
    with pytest.raises(FileNotFoundError, match=r"there is no record file .*train\.rec: give the path"):
        RecordSource(rec)


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "no ids"])
def test_a_missing_index_is_made_from_the_records(rec, caplog, ids):
    write_records(
        rec,
        {key: pack_label(label, key if ids else 0) + image for key, (image, label) in enumerate(FACES)},
        idx=False,
    )
    assert contents(RecordSource(rec)) == FACES
    assert "train.idx is missing: reading through" in caplog.text
    assert not rec.with_suffix(".idx").exists()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_found_at_opening(rec, kept):
    write_faces(rec)
    size = rec.stat().st_size
    os.truncate(rec, int(kept * size))
    with pytest.raises(ValueError, match=r"train\.rec is cut short: .*; copy or unpack it again"):
        RecordSource(rec)
    rec.with_suffix(".idx").unlink()
    if kept:
        with pytest.raises(ValueError, match=r"train\.rec is cut short"):
            RecordSource(rec)


def test_an_index_of_another_file_is_found_at_opening(rec):
    write_faces(rec)
    index = rec.with_suffix(".idx")
    lines = index.read_text().splitlines()
    index.write_text("\n".join([*lines[:-1], lines[-1][:-1] + "1"]))
    with pytest.raises(ValueError, match=r"no record starts at byte \d+1 "):
        RecordSource(rec)


def test_an_index_cut_short_is_found_at_opening(rec, caplog):
    write_faces(rec)
    index = rec.with_suffix(".idx")
    lines = index.read_text().splitlines()
    index.write_text("\n".join(lines[:10]))
    with pytest.raises(ValueError, match="says that it has 15 images and its index names 9 of them"):
        RecordSource(rec)
    index.write_text("\n".join(lines[1:10]))  # no header record: nothing says how many there should be
    caplog.set_level(logging.WARNING)
    assert len(RecordSource(rec)) == 9
    assert "bytes after record 9, the last in its index" in caplog.text


def test_a_broken_record_is_named_when_it_is_read(rec):
    write_faces(rec)
    offset = int(rec.with_suffix(".idx").read_text().splitlines()[7].split("\t")[1])
    data = bytearray(rec.read_bytes())
    data[offset] ^= 1
    rec.write_bytes(data)
    source = RecordSource(rec)
    assert source.read(5) == FACES[5]
    for reading in (lambda: source.read(6), source.labels):
        with pytest.raises(ValueError, match=rf"train\.rec record 7: no record starts at byte {offset}"):
            reading()


def test_a_set_without_images_is_refused(rec):
    write_records(rec, {0: pack_range(1, 2, 0), 1: pack_range(1, 1, 1)})
    with pytest.raises(ValueError, match="holds no image"):
        RecordSource(rec)
    with pytest.raises(ValueError, match=r"train\.rec would hold no image"), RecordWriter(rec):
        pass


def test_labels_are_written_in_order(rec):
    with RecordWriter(rec) as writer:
        writer.add(b"a", 3)
        for label in (2, -1):
            with pytest.raises(ValueError, match=rf"ascending order from 0 up, got {label} after 3"):
                writer.add(b"b", label)
        writer.add(b"c", 3)
    assert contents(RecordSource(rec)) == [(b"a", 3), (b"c", 3)]
    with pytest.raises(ValueError, match=r"ends in \.rec"):
        RecordWriter(rec.with_suffix(".txt"))


def test_an_exception_leaves_nothing_behind_and_an_older_set_whole(rec):
    write_faces(rec)
    before = {path.name: path.read_bytes() for path in rec.parent.iterdir()}
    with pytest.raises(KeyboardInterrupt), RecordWriter(rec) as writer:
        writer.add(b"other", 0)
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in rec.parent.iterdir()} == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("images", [1, 3], ids=["at close", "while adding"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, images):
    rec = tmp_path / "train.rec"
    writer = RecordWriter(rec)
    writer._records.close()
    writer._records = writer._open_files[0] = open("/dev/full", "wb", buffering=2048)
    with pytest.raises(OSError, match="No space left"):
        for _ in range(images):
            writer.add(bytes(1024), 0)
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_an_old_index_never_lies_beside_new_records(rec, monkeypatch):
    write_faces(rec)

    def fail(self, target):
        raise OSError("the machine went down")

    writer = RecordWriter(rec)
    writer.add(b"other", 0)
    monkeypatch.setattr(type(rec), "replace", fail)
    with pytest.raises(OSError, match="went down"):
        writer.close()
    assert not rec.with_suffix(".idx").exists()


def test_new_files_take_the_place_of_old_ones(rec):
    write_faces(rec)
    write_faces(rec, FACES[:4])
    assert contents(RecordSource(rec)) == FACES[:4]


@pytest.mark.parametrize("images", [17_091_657, 16_777_220, 16_777_222], ids=["exact", "down", "up"])
def test_header_ranges_rounded_past_2_to_the_24_are_not_trusted(rec, monkeypatch, images):
    """The first is the size of the largest public set; of the others, the first identity record is odd.

    Opening is bulk work: the index is made in memory, all records but those that opening looks at are a hole
    in the file.
    """
    identities, size, first_identity = 360_232, 4096, images + 1
    keys = np.arange(first_identity + identities)
    with rec.open("wb") as file:
        file.write(frame(pack_range(first_identity, first_identity + identities, 0)))
        for key in range(first_identity - 6, first_identity):
            file.seek(size * key)
            file.write(frame(pack_label(identities - 1, key) + b"image"))
        for key in (first_identity, first_identity + 1, int(keys[-1])):
            file.seek(size * key)
            file.write(frame(pack_range(1, 2, key)))
    rec.with_suffix(".idx").touch()
    monkeypatch.setattr(records, "read_index", lambda path: make_index(keys, size * keys, path))
    source = RecordSource(rec)
    assert (len(source), source.num_identities) == (images, identities)
    assert source.read(images - 1) == (b"image", identities - 1)
    assert source.where(images - 1) == f"{rec} record {images}"
    keys = keys[: images - 4]
    with pytest.raises(ValueError, match=rf"its index names {images - 5} of them"):
        RecordSource(rec)
