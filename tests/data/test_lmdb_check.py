from __future__ import annotations

import shutil
from pathlib import Path

import lmdb
import pytest

from partial_fc.data.lmdb_check import check_lmdb


@pytest.fixture
def database(tmp_path: Path) -> Path:
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for number in range(200):
            transaction.put(f"{number:03d}".encode(), bytes(300))
    return tmp_path / "db"


def test_a_database_passes_as_directory_as_file_and_when_it_is_empty(database: Path, tmp_path: Path) -> None:
    check_lmdb(database)
    check_lmdb(database / "data.mdb")
    lmdb.open(str(tmp_path / "empty")).close()
    check_lmdb(tmp_path / "empty")
    with lmdb.open(str(tmp_path / "two"), max_dbs=2) as environment:
        environment.open_db(b"named")
    check_lmdb(tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[: len(data) // 2], "is cut short"),
        (lambda data: data[:-1], "is cut short"),
        (lambda data: data[:100], "does not open as an LMDB database"),
        (lambda data: b"", "does not open as an LMDB database"),
        (lambda data: b"\0" * len(data), "its head is none"),
        (lambda data: data[:40] + bytes(4) + data[44:], "a page of 0 bytes"),
        (lambda data: data[:4136] + (512).to_bytes(4, "little") + data[4140:], "other page sizes"),
        (lambda data: data[:128] + (10**9).to_bytes(8, "little") + data[136:], "a tree begins at page 1000000000"),
    ],
)
def test_what_lmdb_would_crash_on_is_refused(database: Path, change, says: str) -> None:
    path = database / "data.mdb"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=says):
        check_lmdb(database)
    shutil.rmtree(database)
    with pytest.raises(ValueError, match="does not open as an LMDB database"):
        check_lmdb(database)
