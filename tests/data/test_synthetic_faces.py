"""The data set on disk: its layout, what is kept, what is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest

from partial_fc.data import synthetic_faces
from partial_fc.data.faces.plan import FaceSetPlan
from partial_fc.data.faces.stream import draw_image
from partial_fc.data.record_writer import RecordWriter
from partial_fc.data.records import RecordSource
from partial_fc.data.synthetic_faces import FILES, ensure_synthetic_faces, main, write_synthetic_faces
from partial_fc.evaluation.verification_set import load_bin

NUMBERS = {
    "identities": 7,
    "images_per_identity": 5,
    "held_out_identities": 23,
    "pairs": 40,
    "seed": 3,
    "image_size": 48,
    "quality": 90,
}
ARGUMENTS = [word for name, value in NUMBERS.items() for word in ("--" + name.replace("_", "-"), str(value))]


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("faces") / "new" / "faces"
    write_synthetic_faces(directory, workers=1, **NUMBERS)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def left_over(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# ---- what is written ----


@pytest.mark.parametrize("workers", [2, 3])
def test_the_files_do_not_depend_on_the_workers(faces, tmp_path, workers):
    write_synthetic_faces(tmp_path / "faces", workers=workers, **NUMBERS)
    assert contents(tmp_path / "faces") == contents(faces)
    assert left_over(faces) == sorted([*FILES, "synthetic.json"])
    assert left_over(tmp_path) == ["faces"]


def test_mxnet_reads_the_records_as_insightface_does(faces):
    records = mx.recordio.MXIndexedRecordIO(str(faces / "train.idx"), str(faces / "train.rec"), "r")
    header, rest = mx.recordio.unpack(records.read_idx(0))
    assert header.flag == 2 and rest == b""
    first, end = map(int, header.label)
    assert (first, end) == (36, 43)
    seen = []
    for label, identity_key in enumerate(range(first, end)):
        identity, _ = mx.recordio.unpack(records.read_idx(identity_key))
        for key in range(*map(int, identity.label)):
            image, jpeg = mx.recordio.unpack(records.read_idx(key))
            assert image.label == label
            seen.append(key)
            assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (48, 48, 3)
    assert seen == list(range(1, 36))
    assert (faces / "property").read_text().strip() == "7,48,48"


def test_the_images_are_those_of_the_plan(faces):
    plan, source = FaceSetPlan(**NUMBERS), RecordSource(faces / "train.rec")
    assert [source.read(n) for n in range(len(source))] == [
        (draw_image(plan, n), n // 5) for n in range(plan.training_images)
    ]
    source.close()
    pairs = load_bin(faces / "val.bin")
    assert pairs.images == [draw_image(plan, n) for n in range(plan.training_images, len(plan))]
    np.testing.assert_array_equal(pairs.is_same, plan.is_same())
    assert [fold.sum() for fold in np.split(pairs.is_same, 10)] == [2] * 10


def test_pixels_are_sane_and_tell_no_identity(faces):
    """Two images of one person are about as far apart as two of different people: the task is not trivial."""
    pairs = load_bin(faces / "val.bin")
    images = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) for image in pairs.images]
    pixels = np.stack(images).astype(float)
    assert 70 < pixels.mean() < 160 and pixels.std(axis=(1, 2, 3)).min() > 10
    distances = np.abs(pixels[0::2] - pixels[1::2]).mean(axis=(1, 2, 3))
    same, different = distances[pairs.is_same], distances[~pairs.is_same]
    assert 0.7 < same.mean() / different.mean() < 1.1


# ---- what is kept and what is refused ----


def test_a_set_that_is_there_is_kept(faces, monkeypatch):
    monkeypatch.setattr(synthetic_faces, "stream_images", None)  # drawing would fail
    assert ensure_synthetic_faces(faces, workers=2, **NUMBERS) is False
    with pytest.raises(ValueError, match="already holds"):
        write_synthetic_faces(faces, **NUMBERS)


def test_an_empty_directory_is_filled_also_by_way_of_a_link(faces, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert ensure_synthetic_faces(tmp_path / "link", workers=1, **NUMBERS) is True
    assert contents(tmp_path / "empty") == contents(faces)


@pytest.mark.parametrize("other", [{"seed": 4}, {"identities": 8}, {"quality": 89}])
def test_another_set_is_refused_and_named(faces, other):
    (name, value), before = next(iter(other.items())), contents(faces)
    with pytest.raises(ValueError, match=f"other synthetic faces .{name} {NUMBERS[name]} instead of {value}"):
        ensure_synthetic_faces(faces, **{**NUMBERS, **other})
    assert contents(faces) == before


def test_faces_of_another_drawing_are_refused(faces, monkeypatch):
    monkeypatch.setattr(synthetic_faces, "DRAWING_VERSION", 0)
    with pytest.raises(ValueError, match="drawing_version"):
        ensure_synthetic_faces(faces, **NUMBERS)


def damage_size(directory: Path) -> None:
    with (directory / "train.rec").open("ab") as file:
        file.write(b"more")


def damage_manifest(directory: Path) -> None:
    (directory / "synthetic.json").write_text("{")


def lose_file(directory: Path) -> None:
    (directory / "val.bin").unlink()


def list_instead(directory: Path) -> None:
    (directory / "synthetic.json").write_text('{"set": [], "bytes": {}}')


@pytest.mark.parametrize("damage", [damage_size, damage_manifest, lose_file, list_instead])
def test_a_damaged_set_is_refused(faces, tmp_path, damage):
    for name, data in contents(faces).items():
        (tmp_path / name).write_bytes(data)
    assert ensure_synthetic_faces(tmp_path, **NUMBERS) is False
    damage(tmp_path)
    with pytest.raises(ValueError, match="damaged synthetic faces: delete it"):
        ensure_synthetic_faces(tmp_path, **NUMBERS)


def test_a_directory_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "train.rec").write_text("mine")
    with pytest.raises(ValueError, match="something other than synthetic faces"):
        ensure_synthetic_faces(tmp_path, **NUMBERS)
    assert contents(tmp_path) == {"train.rec": b"mine"}


# ---- what fails leaves nothing behind ----


def test_a_full_disk(tmp_path, monkeypatch):
    added = []

    def add(self, image, label):
        added.append(image)
        if len(added) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "add", add)
    with pytest.raises(
        OSError, match="cannot write .*faces: the disk is full: free about 1 MB"
    ):
        ensure_synthetic_faces(tmp_path / "faces", **NUMBERS)
    assert left_over(tmp_path) == []


def test_a_process_that_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_faces.sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError):
        ensure_synthetic_faces(tmp_path / "faces", **NUMBERS)
    assert left_over(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write synthetic faces to .*file/faces: File exists .*/file"):
        ensure_synthetic_faces(tmp_path / "file" / "faces", **NUMBERS)
    assert main([str(tmp_path / "file" / "faces"), *ARGUMENTS]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: cannot write synthetic faces to ") and error.count("\n") == 1
    with pytest.raises(ValueError, match="something other than synthetic faces"):
        ensure_synthetic_faces(tmp_path / "file", **NUMBERS)


@pytest.mark.parametrize("same", [True, False])
def test_when_two_write_at_once_one_wins(tmp_path, monkeypatch, same):
    directory, write_files = tmp_path / "faces", synthetic_faces._write_files
    other = NUMBERS if same else {**NUMBERS, "seed": 4}

    def write_both(temporary, plan, workers, progress):
        monkeypatch.setattr(synthetic_faces, "_write_files", write_files)
        ensure_synthetic_faces(directory, **other)
        write_files(temporary, plan, workers, progress)

    monkeypatch.setattr(synthetic_faces, "_write_files", write_both)
    if same:
        assert ensure_synthetic_faces(directory, **NUMBERS) is True
    else:
        with pytest.raises(ValueError, match="other synthetic faces"):
            ensure_synthetic_faces(directory, **NUMBERS)
    assert json.loads((directory / "synthetic.json").read_text())["set"]["seed"] == other["seed"]
    assert left_over(tmp_path) == ["faces"]


# ---- the command ----


def test_the_command_draws_once(faces, tmp_path, capsys):
    arguments = [str(tmp_path / "faces"), *ARGUMENTS, "--workers", "2"]
    assert main(arguments) == 0
    assert "35 images of 7 identities and 40 pairs" in capsys.readouterr().out
    assert contents(tmp_path / "faces") == contents(faces)
    assert main(arguments) == 0
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value"),
    [("--identities", "0"), ("--images-per-identity", "0"), ("--pairs", "7"), ("--workers", "0")],
)
def test_the_command_says_what_is_wrong_in_a_sentence(tmp_path, capsys, option, value):
    assert main([str(tmp_path / "faces"), *ARGUMENTS, option, value]) == 1
    error = capsys.readouterr().err
    assert option.strip("-").replace("-", "_") in error and value in error
    assert error.count("\n") == 1 and "Traceback" not in error
    assert left_over(tmp_path) == []


def test_progress_is_told_of_every_image(tmp_path):
    told = []
    ensure_synthetic_faces(tmp_path / "faces", progress=told.append, **NUMBERS)
    assert told == list(range(1, 35 + 80 + 1))
