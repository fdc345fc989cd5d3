import threading

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.data import lmdb_source
from partial_fc.data.lmdb_source import Datum, LmdbSource, unpack_datum

FACES = [(f"person {i // 2}/{i}.jpg".encode(), b"\xff\xd8" + bytes([i]) * (50 * i), i // 2) for i in range(7)]


def write_database(path, values, subdir=True):
    with (
        lmdb.open(str(path), subdir=subdir, map_size=1 << 20) as environment,
        environment.begin(write=True) as txn,
    ):
        for key, value in values.items():
            txn.put(key, value)


@pytest.fixture
def paths(tmp_path):
    write_database(
        tmp_path / "faces", {key: Datum(data=image).SerializeToString() for key, image, _ in FACES}
    )
    (tmp_path / "list.txt").write_bytes(b"".join(b"%s %d\r\n" % (key, label) for key, _, label in FACES))
    return tmp_path / "faces", tmp_path / "list.txt"


def test_images_come_in_the_order_of_the_list(paths):
    source = LmdbSource(*paths)
    assert [source.read(i) for i in range(len(source))] == [(image, label) for _, image, label in FACES]
    assert (source.num_identities, source.name) == (4, str(paths[0]))
    assert source.labels().tolist() == [label for _, _, label in FACES]
    assert source.where(3) == f"{paths[0]} key 'person 1/3.jpg'"
    source.close()


def test_a_database_in_one_file(tmp_path):
    write_database(tmp_path / "a.mdb", {b"k": Datum(data=b"image").SerializeToString()}, subdir=False)
    (tmp_path / "list.txt").write_text("k 0\n")
    source = LmdbSource(tmp_path / "a.mdb", tmp_path / "list.txt")
    assert source.read(0) == (b"image", 0)
    source.close()


def test_many_threads_read_at_once(paths):
    source = LmdbSource(*paths)
    wrong = []

    def read():
        for i in list(range(len(source))) * 50:
            if source.read(i) != FACES[i][1:]:
                wrong.append(i)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    source.close()


def test_nothing_is_written_beside_the_database(paths):
    before = sorted(path.name for path in paths[0].iterdir())
    (paths[0] / "lock.mdb").unlink()
    LmdbSource(*paths).close()
    assert sorted(path.name for path in paths[0].iterdir()) == [name for name in before if name != "lock.mdb"]


def test_what_is_missing_is_one_sentence(paths, tmp_path):
    database, keys = paths
    with pytest.raises(FileNotFoundError, match="there is no database .*nowhere"):
        LmdbSource(tmp_path / "nowhere", keys)
    with pytest.raises(FileNotFoundError, match="there is no list of keys .*nowhere"):
        LmdbSource(database, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty does not open as an LMDB database"):
        LmdbSource(tmp_path / "empty", keys)
    (tmp_path / "other.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match="other.mdb does not open as an LMDB database"):
        LmdbSource(tmp_path / "other.mdb", keys)


def test_keys_and_values_that_are_wrong_are_named(tmp_path):
    write_database(
        tmp_path / "faces", {b"good": b"\x0a\x01x", b"bad": b"\xff\xff\xff", b"none": b"\x12\x01x"}
    )
    (tmp_path / "list.txt").write_bytes(b"good 0\nbad 1\nnone 2\n\xffother 3\n")
    source = LmdbSource(tmp_path / "faces", tmp_path / "list.txt")
    assert source.read(0) == (b"x", 0)
    for index, reason in (
        (1, r"key 'bad' is no Datum message"),
        (2, r"key 'none' is a Datum message without data"),
        (3, r"key '\\\\xffother' is in the list and not in the database"),
    ):
        with pytest.raises(ValueError, match=rf"faces {reason}"):
            source.read(index)
    source.close()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3000), st.binary(max_size=4))
def test_a_datum_is_what_protobuf_says(data, zeros, other_field):
    data += bytes(zeros)
    value = Datum(data=data).SerializeToString()
    assert unpack_datum(value) == data
    # Fields that F²C does not write, before and after; the last of two counts.
    unknown = b"\x12" + bytes([len(other_field)]) + other_field
    assert unpack_datum(unknown + value + unknown) == data
    assert unpack_datum(b"\x0a\x01?" + value) == data
    for length in range(1, min(len(value), 5)):
        with pytest.raises(ValueError, match="is no Datum message"):
            unpack_datum(value[:-length])


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 2_097_152])
def test_messages_of_the_one_field_need_no_protobuf(monkeypatch, length):
    value = Datum(data=bytes(length)).SerializeToString()
    monkeypatch.delattr(lmdb_source, "Datum")
    assert unpack_datum(value) == bytes(length)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=12), st.binary(max_size=8).map(b"\x0a".__add__)))
def test_any_bytes_are_read_as_protobuf_does(value):
    try:
        expected = unpack_datum(b"\x12\x00" + value)  # the long way, by a field that does not count
    except ValueError:
        with pytest.raises(ValueError):
            unpack_datum(value)
    else:
        assert unpack_datum(value) == expected
