"""pack and merge: formats to one another, what is left out, and nothing half-written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest

from partial_fc.data.align import align, read_landmarks
from partial_fc.data.decode import decode
from partial_fc.data.open_source import open_source

from .conftest import Run, contents, files_below, jpeg

PROJECT = Path(__file__).resolve().parents[3]


def test_round_trips_keep_every_byte(folder: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "1").mkdir(), (tmp_path / "2").mkdir()
    first, database, second = tmp_path / "1" / "train.rec", tmp_path / "faces.lmdb", tmp_path / "2" / "train.rec"
    assert run("pack", folder, first)[0] == 0
    assert run("pack", first, database)[0] == 0
    assert run("pack", database, second)[0] == 0
    assert run("unpack", second, tmp_path / "out")[0] == 0
    assert files_below(first.parent).keys() - files_below(second.parent) == {"train.rec.identities.txt"}  # names
    assert all((first.parent / name).read_bytes() == data for name, data in files_below(second.parent).items())
    images = [path.read_bytes() for path in sorted(folder.rglob("*.*"))]
    assert [image for image, _ in contents(database)] == images
    out = {name: data for name, data in files_below(tmp_path / "out").items() if name != "unpacked.json"}
    assert [out[name] for name in sorted(out)] == images
    assert sorted({os.path.dirname(name) for name in out}) == [f"2_{label:08d}" for label in range(5)]
    assert [name for name in out if name.endswith(".png")] == ["2_00000001/00000001.png"]


def test_mxnet_reads_a_packed_file_and_the_other_way_round(folder: Path, tmp_path: Path, run: Run) -> None:
    """im2rec's `.lst`, and a `.rec` written from it by MXNet as `tools/im2rec.py` does it."""
    lst, rec = tmp_path / "faces.lst", tmp_path / "faces.rec"
    paths = sorted(folder.rglob("*.*"))[::-1]  # a list in random order, as im2rec makes it
    labels = ["abcde".index(path.parent.name) for path in paths]
    lines = zip(labels, paths, strict=True)
    lst.write_text("".join(f"{i}\t{label:f}\t{path.relative_to(tmp_path)}\n" for i, (label, path) in enumerate(lines)))
    writer = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "w")
    for i, (label, path) in enumerate(zip(labels, paths, strict=True)):
        writer.write_idx(i, mx.recordio.pack(mx.recordio.IRHeader(0, float(label), i, 0), path.read_bytes()))
    writer.close()
    expected = [(path.read_bytes(), label) for path, label in zip(paths, labels, strict=True)]
    assert contents(lst) == contents(rec) == expected

    (tmp_path / "ours").mkdir()
    ours = tmp_path / "ours" / "train.rec"
    assert run("pack", rec, ours)[0] == 0
    reader = mx.recordio.MXIndexedRecordIO(str(ours.with_suffix(".idx")), str(ours), "r")
    header, _ = mx.recordio.unpack(reader.read_idx(0))
    assert header.label.tolist() == [16.0, 21.0]
    by_label = sorted(expected, key=lambda image: image[1])
    for key, (image, label) in enumerate(by_label, start=1):
        header, data = mx.recordio.unpack(reader.read_idx(key))
        assert (data, header.label, header.id) == (image, label, key)


def test_shuffled_is_in_another_order_that_the_seed_decides(folder: Path, tmp_path: Path, run: Run) -> None:
    orders = []
    for name, seed in (("1", 3), ("2", 3), ("3", 4)):
        (tmp_path / name).mkdir()
        assert run("pack", folder, tmp_path / name / "train.rec", "--shuffle", "--seed", seed)[0] == 0
        orders.append(contents(tmp_path / name))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(contents(folder)) and orders[0] != contents(folder)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_left_out_is_listed(folder: Path, tmp_path: Path, run: Run, workers: int) -> None:
    (folder / "a" / "0.jpg").write_bytes(jpeg(1)[:-40])
    (folder / "c" / "1.jpg").write_bytes(b"GIF89a")
    status, out, err = run("pack", folder, tmp_path / "x.rec", "--workers", workers)
    assert (status, err) == (0, "")
    assert "x.rec: 13 images of 5 identities" in out and "1 identities have no image" in out
    listed = (tmp_path / "x.rec.left_out.txt").read_text().splitlines()
    assert listed == [
        f"{folder}/a/0.jpg\tis a JPEG that is cut short",
        f"{folder}/c/1.jpg\tis neither JPEG nor PNG: 6 bytes that start with 47 49 46 38",
    ]
    assert [label for _, label in contents(tmp_path / "x.rec")] == [1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4]
    status, _, err = run("relabel", tmp_path / "x.rec", tmp_path / "x.lmdb")
    assert {label for _, label in contents(tmp_path / "x.lmdb")} == {0, 1, 2, 3}


def test_size_encodes_anew_what_is_of_another(folder: Path, tmp_path: Path, run: Run) -> None:
    large = jpeg(99, (40, 30))
    (folder / "a" / "0.jpg").write_bytes(large)
    before = contents(folder)
    status, out, _ = run("pack", folder, tmp_path / "x.rec")
    assert "images of 2 sizes: 24×24 (14), 30×40 (1)" in out
    status, out, _ = run("pack", folder, tmp_path / "x.rec", "--size", 24, "--overwrite")
    assert status == 0 and "sizes" not in out
    after = contents(tmp_path / "x.rec")
    assert after[1:] == before[1:]
    image_HWC = decode(after[0][0])
    assert image_HWC.shape == (24, 24, 3)
    assert np.abs(image_HWC.astype(int) - decode(large, (24, 24))).mean() < 4
    assert (tmp_path / "property").read_text() == "5,24,24\n"


def test_align_takes_the_landmarks_of_each_file(shared_data: Path, tmp_path: Path, run: Run) -> None:
    lines = (shared_data / "align" / "landmarks.txt").read_text().splitlines()[:7]
    folder = tmp_path / "faces" / "someone"
    folder.mkdir(parents=True)
    for line in lines:
        name = line.split()[0]
        (folder / name).write_bytes((shared_data / "align" / "images" / name).read_bytes())
    landmarks = tmp_path / "landmarks.txt"
    landmarks.write_text("\n".join(["someone/" + lines[0], *lines[1:6]]))
    status, out, err = run("pack", folder.parent, tmp_path / "x.rec", "--align", landmarks)
    assert (status, err) == (0, "")
    listed = (tmp_path / "x.rec.left_out.txt").read_text()
    assert listed == f"{folder}/{lines[6].split()[0]}\thas no landmarks in {landmarks}\n"
    names = sorted(line.split()[0] for line in lines[:6])
    points = read_landmarks(shared_data / "align" / "landmarks.txt")
    for name, (image, _) in zip(names, contents(tmp_path / "x.rec"), strict=True):
        expected = align(decode((folder / name).read_bytes()), points[name])
        assert np.abs(decode(image).astype(int) - expected).mean() < 2  # JPEG of quality 95
    status, _, err = run("pack", folder.parent, tmp_path / "y.lmdb", "--align", tmp_path / "nowhere")
    assert status == 2 and "nowhere" in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["x.rec", "x.lmdb"])
def test_what_is_there_is_not_overwritten_unasked(folder: Path, tmp_path: Path, run: Run, name: str) -> None:
    assert run("pack", folder, tmp_path / name)[0] == 0
    before = files_below(tmp_path)
    status, _, err = run("pack", folder / "..", tmp_path / name)
    assert (status, files_below(tmp_path)) == (2, before)
    status, _, err = run("pack", folder, tmp_path / name)
    assert (status, err) == (2, f"error: {tmp_path / name} is there already: give another name, or --overwrite\n")
    (folder / "a" / "0.jpg").unlink()
    assert run("pack", folder, tmp_path / name, "--overwrite")[0] == 0
    assert contents(tmp_path / name) == contents(folder)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_destinations_that_cannot_be(folder: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "d.lmdb").mkdir()
    (tmp_path / "d.lmdb" / "thesis.txt").touch()
    for arguments, message in (
        (("pack", folder, tmp_path / "x.txt"), "is written as NAME.rec or NAME.lmdb, got "),
        (("pack", folder, tmp_path / "no" / "x.rec"), "there is no directory "),
        (("pack", folder, tmp_path / "d.lmdb", "--overwrite"), "is there and is no LMDB directory"),
        (("pack", folder, tmp_path / "x.rec", "--size", "0"), "--size must lie in [1, 4096] pixels, got 0"),
        (("pack", folder, tmp_path / "x.rec", "--size", "4097"), "--size must lie in [1, 4096] pixels, got 4097"),
        (("pack", folder, tmp_path / "x.rec", "--quality", "101"), "--quality must lie in [1, 100], got 101"),
        (("pack", folder, tmp_path / "x.rec", "--workers", "0"), "--workers must be at least 1, got 0"),
        (("merge", folder, tmp_path / "x.rec"), "merge takes two sets or more"),
        (("pack", tmp_path / "no", tmp_path / "x.rec"), "there is no "),
    ):
        status, _, err = run(*arguments)
        assert status == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.lmdb", "faces"]
    assert run("pack", folder, tmp_path / "x.rec")[0] == 0
    status, _, err = run("pack", folder, tmp_path / "y.rec")
    assert status == 2 and "holds x.rec with its `property`, and a directory has one" in err


def test_a_set_of_which_nothing_is_left(tmp_path: Path, run: Run) -> None:
    (tmp_path / "faces" / "a").mkdir(parents=True)
    (tmp_path / "faces" / "a" / "1.jpg").write_bytes(b"")
    for name in ("x.rec", "x.lmdb"):
        status, _, err = run("pack", tmp_path / "faces", tmp_path / name)
        assert status == 2 and "would hold no image: all 1 were left out, the first, " in err
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


@pytest.mark.parametrize("name", ["x.rec", "x.lmdb"])
def test_a_full_disk_leaves_nothing_under_the_final_name(folder: Path, tmp_path: Path, name: str) -> None:
    """A limit on the size of files stands for the disk: the write fails in the same place, with another number."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    (folder / "d" / "3.jpg").write_bytes(cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes())
    done = subprocess.run(
        [sys.executable, "-m", "partial_fc.data", "pack", str(folder), str(tmp_path / name)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        env=os.environ | {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'src'}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and str(tmp_path / "x") in done.stderr
    assert ("File too large" if name == "x.rec" else "is the disk full?") in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_an_interruption_leaves_nothing(folder: Path, tmp_path: Path, run: Run, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("partial_fc.data.copy_images.read_size", fail)
    for name in ("x.rec", "x.lmdb"):
        with pytest.raises(KeyboardInterrupt):
            run("pack", folder, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_several_sets_become_one(folder: Path, tmp_path: Path, run: Run) -> None:
    assert run("pack", folder, tmp_path / "x.lmdb")[0] == 0
    other = tmp_path / "other"
    for name in "cz":
        (other / name).mkdir(parents=True)
        (other / name / "9.jpg").write_bytes(jpeg(ord(name)))
    images, more = contents(folder), contents(other)
    status, out, _ = run("merge", tmp_path / "x.lmdb", other, tmp_path / "y.rec")
    assert status == 0 and out.startswith("merge: 17 images in ")
    assert f"  labels 0 to 4: {tmp_path / 'x.lmdb'}\n  labels 5 to 6: {other}\n" in out
    assert contents(tmp_path / "y.rec") == images + [(image, label + 5) for image, label in more]
    assert run("merge", folder, other, "--shared-labels", tmp_path / "z.lmdb")[0] == 0
    shared = contents(tmp_path / "z.lmdb")
    assert len(shared) == 17 and (more[0][0], 2) in shared and (more[1][0], 5) in shared
    assert (tmp_path / "z.lmdb.identities.txt").read_text() == "0\t0\ta\n1\t1\tb\n2\t2\tc\n3\t3\td\n4\t4\te\n5\t5\tz\n"


def test_the_names_of_folders_are_kept_in_a_list(folder: Path, tmp_path: Path, run: Run) -> None:
    listed = tmp_path / "x.rec.identities.txt"
    assert run("pack", folder, tmp_path / "x.rec")[0] == 0
    assert listed.read_text() == "0\t0\ta\n1\t1\tb\n2\t2\tc\n3\t3\td\n4\t4\te\n"
    (tmp_path / "x.rec").unlink(), (tmp_path / "x.idx").unlink()
    status, _, err = run("pack", folder, tmp_path / "x.rec")
    assert status == 2 and "x.rec.identities.txt is there already" in err and not (tmp_path / "x.rec").exists()
    assert run("pack", folder, tmp_path / "y.lmdb")[0] == 0
    assert run("pack", tmp_path / "y.lmdb", tmp_path / "x.rec")[0] == 0
    assert not listed.exists()  # it was of the former x.rec, and this one's names are not known


def test_labels_past_2_to_the_24(tmp_path: Path, run: Run) -> None:
    """Exact through a list of keys, packing into a .rec and reading it, in bulk too."""
    labels = [3, (1 << 24) - 1, 1 << 24, (1 << 24) + 1, 20_000_001]
    for i, _ in enumerate(labels):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    lst = tmp_path / "a.lst"
    lst.write_text("".join(f"{i}\t{label}\t{i}.jpg\n" for i, label in enumerate(labels)))
    assert run("pack", lst, tmp_path / "x.lmdb")[0] == 0
    assert run("pack", tmp_path / "x.lmdb", tmp_path / "x.rec", "--shuffle")[0] == 0
    source = open_source(tmp_path / "x.rec")
    assert sorted(source.labels().tolist()) == labels
    assert {source.read(i)[1] for i in range(5)} == {*labels}
    assert source.num_identities == 20_000_002


def test_names_that_are_not_utf8(tmp_path: Path, run: Run) -> None:
    name = os.fsencode(tmp_path / "faces") + b"/caf\xe9"
    os.makedirs(name)
    with open(name + b"/\xff.jpg", "wb") as file:
        file.write(jpeg(1))
    with open(name + b"/\xfe.jpg", "wb") as file:
        file.write(b"none")
    assert run("pack", tmp_path / "faces", tmp_path / "x.rec")[0] == 0
    assert contents(tmp_path / "x.rec") == [(jpeg(1), 0)]
    assert "caf\\xe9/\\xfe.jpg\tis neither" in (tmp_path / "x.rec.left_out.txt").read_text()
