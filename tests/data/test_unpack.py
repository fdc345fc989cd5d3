"""Record files to folders of images, by the function and by the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from partial_fc.data.record_writer import RecordWriter
from partial_fc.data.unpack import MANIFEST, unpack

PROJECT = Path(__file__).resolve().parents[2]
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG"


def write_set(directory: Path, images: list[tuple[bytes, int]]) -> Path:
    directory.mkdir()
    with RecordWriter(directory / "train.rec") as writer:
        for image, label in images:
            writer.add(image, label)
    return directory


@pytest.fixture
def two_sets(tmp_path: Path) -> list[Path]:
    return [
        write_set(tmp_path / "a", [(JPEG + b"a0", 0), (JPEG + b"a0 too", 0), (PNG + b"a1", 1)]),
        write_set(tmp_path / "b", [(JPEG + b"b0", 0)]),
    ]


def found(output: Path) -> dict[str, bytes]:
    files = [path for path in output.rglob("*") if path.is_file() and path.name != MANIFEST]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


EXPECTED = {
    "a_00000000/00000000.jpg": JPEG + b"a0",
    "a_00000000/00000001.jpg": JPEG + b"a0 too",
    "a_00000001/00000002.png": PNG + b"a1",
    "b_00000000/00000000.jpg": JPEG + b"b0",
}


def test_identities_of_two_sets_stay_apart_and_bytes_as_they_are(two_sets: list[Path], tmp_path: Path) -> None:
    progress = list(unpack(two_sets, tmp_path / "out"))
    assert found(tmp_path / "out") == EXPECTED
    assert progress == [("a", 0, 3), ("a", 1, 3), ("a", 2, 3), ("a", 3, 3), ("b", 0, 1), ("b", 1, 1)]


def test_it_goes_on_where_it_stopped(two_sets: list[Path], tmp_path: Path) -> None:
    started = unpack(two_sets, tmp_path / "out")
    next(started), next(started), next(started)
    started.close()
    first = tmp_path / "out" / "a_00000000" / "00000000.jpg"
    before = first.stat().st_mtime_ns
    assert next(unpack(two_sets, tmp_path / "out")) == ("a", 2, 3)
    (tmp_path / "out" / MANIFEST).unlink()  # then the files themselves tell what is there
    list(unpack(two_sets, tmp_path / "out", workers=3))
    assert found(tmp_path / "out") == EXPECTED
    assert first.stat().st_mtime_ns == before


def test_sets_of_one_name_are_refused(two_sets: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = write_set(tmp_path / "other" / "a", [(JPEG, 0)])
    with pytest.raises(ValueError, match="two data sets are called a"):
        list(unpack([two_sets[0], twin], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_command(two_sets: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "unpack_glint360k.py"), "--output", str(tmp_path / "out"), "--include"]
    done = subprocess.run([*command, ",".join(map(str, two_sets))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert found(tmp_path / "out") == EXPECTED
    failed = subprocess.run([*command, str(tmp_path / "nowhere")], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: there is no ") and failed.stderr.count("\n") == 1
    assert found(tmp_path / "out") == EXPECTED


def test_another_set_of_the_same_name_is_refused(two_sets: list[Path], tmp_path: Path) -> None:
    list(unpack(two_sets, tmp_path / "out"))
    (tmp_path / "other").mkdir()
    twin = write_set(tmp_path / "other" / "a", [(JPEG + b"another", 0)])
    with pytest.raises(ValueError, match=r"holds another set called a already \(3 images of 2 identities\): rename"):
        list(unpack([twin], tmp_path / "out"))
    assert found(tmp_path / "out") == EXPECTED


def test_what_is_not_a_file_of_progress_is_refused(two_sets: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for text in ("{", "[]", '{"a": 3}'):
        (tmp_path / "out" / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match="unpacked.json is damaged: delete it"):
            list(unpack(two_sets, tmp_path / "out"))


@pytest.mark.parametrize("stops", [False, True])
def test_a_broken_record_is_left_out_and_told_of(two_sets: list[Path], tmp_path: Path, stops: bool) -> None:
    rec = two_sets[0] / "train.rec"
    data = bytearray(rec.read_bytes())
    payload = data.index(JPEG + b"a0 too") - 24
    data[payload : payload + 4] = b"\xff\xff\xff\x00"  # more label fields than the record has bytes
    rec.write_bytes(data)
    if stops:
        started = unpack(two_sets, tmp_path / "out")
        next(started), next(started), next(started)
        started.close()
        assert next(unpack(two_sets, tmp_path / "out")) == ("a", 2, 3)
    *_, last = unpack(two_sets, tmp_path / "out")
    assert last == ("b", 1, 1)
    files = found(tmp_path / "out")
    where, why = files.pop("a.left_out.txt").decode().splitlines()[0].split("\t")
    assert where == f"{rec} record 2" and why.startswith("is broken")
    assert files == {name: image for name, image in EXPECTED.items() if name != "a_00000000/00000001.jpg"}


def test_a_set_of_broken_records_is_refused(tmp_path: Path) -> None:
    directory = write_set(tmp_path / "a", [(JPEG, 0)])
    data = (directory / "train.rec").read_bytes()
    payload = data.index(JPEG) - 24
    (directory / "train.rec").write_bytes(data[:payload] + b"\xff\xff\xff\x00" + data[payload + 4 :])
    with pytest.raises(ValueError, match="no image of .* can be read: .* record 1 is broken"):
        list(unpack([directory], tmp_path / "out"))
