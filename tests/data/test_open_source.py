"""What a user names is opened by what it is."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from partial_fc.data.lmdb_source import Datum
from partial_fc.data.open_source import identity_names, open_source
from partial_fc.data.record_writer import RecordWriter


def write_rec(path: Path, labels: list[int]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with RecordWriter(path) as writer:
        for i, label in enumerate(labels):
            writer.add(f"{path.stem} {i}".encode(), label)
    return path


def write_folder(path: Path, **images: str) -> Path:
    for name, files in images.items():
        (path / name).mkdir(parents=True)
        for file in files.split():
            (path / name / f"{file}.jpg").write_bytes(f"{path.name} {name} {file}".encode())
    return path


def write_lmdb(path: Path, *keys: str) -> Path:
    with lmdb.open(str(path), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for key in keys:
            transaction.put(key.encode(), Datum(data=f"{path.name} {key}".encode()).SerializeToString())
    return path


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def contents(*paths: Path, **options: bool) -> tuple[list[tuple[str, int]], int]:
    source = open_source(paths, **options)
    try:
        images = [source.read(i) for i in range(len(source))]
        assert source.labels().tolist() == [label for _, label in images]
        return [(image.decode(), label) for image, label in images], source.num_identities
    finally:
        source.close()


def test_a_record_file_and_its_directory(tmp_path: Path) -> None:
    rec = write_rec(tmp_path / "a" / "train.rec", [0, 0, 1])
    other = write_rec(tmp_path / "b" / "other.rec", [0])
    expected = [("train 0", 0), ("train 1", 0), ("train 2", 1)], 2
    assert contents(rec) == contents(rec.parent) == expected
    assert contents(other.parent) == ([("other 0", 0)], 1)
    write_rec(other.with_name("another.rec"), [0])
    with pytest.raises(ValueError, match="b holds 2 record files and no train.rec: name one"):
        open_source(other.parent)
    write_rec(other.with_name("train.rec"), [0])
    assert contents(other.parent) == ([("train 0", 0)], 1)


def test_a_database_and_its_lists(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "d", "x y", "z")
    one, two = write_text(tmp_path / "1.txt", "x y 0\nz 2\n"), write_text(tmp_path / "2", "z 1\n")
    with pytest.raises(FileNotFoundError, match="database without keys.txt"):
        open_source(database)
    assert contents(database, one) == ([("d x y", 0), ("d z", 2)], 3)
    assert contents(database, one, two) == ([("d x y", 0), ("d z", 2), ("d z", 4)], 5)
    assert contents(database, one, two, shared_labels=True) == ([("d x y", 0), ("d z", 2), ("d z", 1)], 3)
    write_text(database / "keys.txt", "z 0\n")
    assert contents(database) == contents(database / "data.mdb") == ([("d z", 0)], 1)
    assert contents(database, database, one)[0] == [("d z", 0), ("d x y", 1), ("d z", 3)]


def test_a_folder_and_a_list(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", b="1 2", a="3")
    expected = [("f a 3", 0), ("f b 1", 1), ("f b 2", 1)], 2
    assert contents(folder) == expected
    lst = write_text(tmp_path / "f.lst", "0\t0.0\tf/a/3.jpg\n1\t1.0\tf/b/1.jpg\n2\t1.0\tf/b/2.jpg\n")
    assert contents(lst) == expected


def test_several_sets(tmp_path: Path) -> None:
    rec = write_rec(tmp_path / "a" / "train.rec", [0, 2])
    folder = write_folder(tmp_path / "f", n="1", m="2")
    database = write_lmdb(tmp_path / "d", "k")
    keys = write_text(tmp_path / "keys", "k 1\n")
    images = ["train 0", "train 1", "d k", "f m 2", "f n 1"]
    assert contents(rec, database, keys, folder) == (list(zip(images, [0, 2, 4, 5, 6], strict=True)), 7)
    assert contents(rec, database, keys, shared_labels=True)[0] == list(zip(images, [0, 2, 1], strict=False))


def test_folders_share_their_identities_by_name(tmp_path: Path) -> None:
    one, two = write_folder(tmp_path / "1", c="1", a="2"), write_folder(tmp_path / "2", b="3", c="4")
    assert contents(one, two) == ([("1 a 2", 0), ("1 c 1", 1), ("2 b 3", 2), ("2 c 4", 3)], 4)
    assert contents(one, two, shared_labels=True) == ([("1 a 2", 0), ("1 c 1", 2), ("2 b 3", 1), ("2 c 4", 2)], 3)
    assert identity_names(open_source([one, two], shared_labels=True)) == [b"a", b"b", b"c"]
    assert identity_names(open_source([one, two])) == [b"a", b"c", b"b", b"c"]
    rec = write_rec(tmp_path / "a" / "train.rec", [0])
    assert identity_names(open_source([one, rec])) is None
    with pytest.raises(ValueError, match="names its identities and the other sets number theirs"):
        open_source([one, rec], shared_labels=True)


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere: give a .rec, a directory"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="list.txt is no set of images: give"):
        open_source(write_text(tmp_path / "list.txt", "k 0\n"))
    with pytest.raises(ValueError, match="name a set or more"):
        open_source([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        open_source(tmp_path / "empty")


def test_sets_that_were_opened_are_closed_when_a_later_one_does_not_open(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "d", "k")
    keys = write_text(tmp_path / "keys", "k 1\n")
    broken = write_text(tmp_path / "broken", "k\n")
    with pytest.raises(ValueError, match="broken: line 1"):
        open_source([database, keys, broken])
    with lmdb.open(str(database)):  # LMDB opens a database once in a process
        pass
