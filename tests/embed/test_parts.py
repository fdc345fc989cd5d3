"""Parts outlast a kill, are refused where they are of another result, and mended where they are damaged."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.embed.job import Job
from partial_fc.embed.npz_file import NpzWriter, is_result_of, write_result
from partial_fc.embed.parts import JOB_FILE, Part, Parts

D = 3
JOB = Job(
    model_digest="m", source_content="s", source_modified_ns=5, images=11, embedding_size=D, batch_size=2, flip=False,
    normalize=True,
)  # fmt: skip
ROWS_ND = np.random.default_rng(0).normal(size=(11, D)).astype(np.float32)
KEYS = [f"{'x' * (3 * number)}.jpg" for number in range(10)] + ["\udcff ä.png"]


def part_of(first, stop, failed=()):
    failed_f = np.array([number for number in failed if first <= number < stop], np.int64)
    rows_nD = ROWS_ND[first:stop].copy()
    rows_nD[failed_f - first] = 0
    reasons_f = np.array([f"is wrong {number}" for number in failed_f], None if len(failed_f) else "U1")
    return Part(first, rows_nD, np.arange(first, stop), np.array(KEYS[first:stop]), failed_f, reasons_f)


def test_a_job_knows_its_batches_and_what_is_not_its_own():
    assert [JOB.batch(number) for number in range(JOB.batches)][-2:] == [range(8, 10), range(10, 11)]
    assert JOB.left(np.array([True, False, True, True, False, True])) == [range(2, 4), range(8, 10)]
    assert JOB.differences(JOB.to_json()) == []
    assert JOB.differences(replace(JOB, flip=True, batch_size=3).to_json()) == ["--batch-size", "--flip"]
    assert len({replace(JOB, **{name: 7}).digest for name in vars(JOB)} | {JOB.digest}) == 1 + len(vars(JOB))
    for text in ("", "[]", "{}", '{"format": 2}', "[" * 100_000):
        assert JOB.differences(text) == ["the format"]


def test_parts_are_found_again(tmp_path):
    parts = Parts(tmp_path / "parts", JOB)
    parts.add(part_of(8, 11, failed=[10]))
    parts.add(part_of(2, 4))
    (tmp_path / "parts" / ".images-4.npz.tmp").write_bytes(b"half")
    again = Parts(tmp_path / "parts", JOB)
    assert again.done().tolist() == [False, True, False, False, True, True]
    assert [part.images for part in again] == [range(2, 4), range(8, 11)]
    assert again.failed == 1 and again.name_failed(3) == [(KEYS[10], "is wrong 10")]
    assert not (tmp_path / "parts" / ".images-4.npz.tmp").exists()
    for part, kept in zip([part_of(2, 4), part_of(8, 11, failed=[10])], again, strict=True):
        for name in ("embeddings_nD", "labels_n", "keys_n", "failed_f", "reasons_f"):
            np.testing.assert_array_equal(kept.read(name), getattr(part, name))


def test_parts_of_another_result_are_refused(tmp_path):
    Parts(tmp_path / "parts", JOB).add(part_of(0, 4))
    other = replace(JOB, model_digest="n", flip=True)
    with pytest.raises(ValueError, match="of another result, which differs in the model, .*, --flip: give the command"):
        Parts(tmp_path / "parts", other)
    assert Parts(tmp_path / "parts", JOB).done().sum() == 2
    assert not Parts(tmp_path / "parts", other, overwrite=True).done().any()
    with pytest.raises(ValueError, match="of another result"):
        Parts(tmp_path / "parts", JOB)


@pytest.mark.parametrize("removed", range(4))
def test_a_kill_while_parts_are_removed(tmp_path, monkeypatch, removed):
    """At any of its deletions; what is left is known as parts, and goes by the next command."""
    for first in (0, 2, 4):
        Parts(tmp_path / "parts", JOB).add(part_of(first, first + 2))
    left = [True] * removed
    unlink, rmtree = Path.unlink, shutil.rmtree

    def stop(function, *arguments, **options):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        function(*arguments, **options)

    monkeypatch.setattr(Path, "unlink", lambda path, **options: stop(unlink, path, **options))
    monkeypatch.setattr(shutil, "rmtree", lambda path: stop(rmtree, path))
    with pytest.raises(KeyboardInterrupt):
        Parts(tmp_path / "parts", JOB).remove()
    monkeypatch.undo()
    assert Parts(tmp_path / "parts", JOB).done().sum() == max(0, 3 - removed)
    assert not Parts(tmp_path / "parts", replace(JOB, flip=True), overwrite=True).done().any()


def test_a_directory_of_somebody_else_is_left_alone(tmp_path):
    for name, make in (("file", lambda path: path.write_text("mine")), ("directory", lambda path: path.mkdir())):
        path = tmp_path / name
        make(path)
        if path.is_dir():
            (path / "letter.txt").write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="is in the way"):
                Parts(path, JOB, overwrite=overwrite)
    assert (tmp_path / "directory" / "letter.txt").read_text() == "mine"
    assert Parts(tmp_path / "parts", JOB).directory.is_dir()


def write_arrays(path, **changes):
    arrays = {name: value for name, value in vars(part_of(4, 8)).items() if name != "first"} | changes
    with path.open("wb") as file, NpzWriter(file) as writer:
        for name, array in arrays.items():
            writer.add(name, array)


@pytest.mark.parametrize(
    "changes",
    [
        {"embeddings_nD": np.zeros((4, 2), np.float32)},
        {"embeddings_nD": np.zeros((4, 3), np.float64)},
        {"embeddings_nD": np.zeros((10_000, D), np.float32)},
        {"labels_n": np.zeros(3, np.int64)},
        {"labels_n": np.zeros(4, np.int32)},
        {"keys_n": np.zeros(4)},
        {"reasons_f": np.array(["why"])},
        {"failed_f": np.zeros((1, 1), np.int64), "reasons_f": np.array([["why"]])},
        {"failed_f": np.array([2], np.int64), "reasons_f": np.array(["of another part"])},
    ],
)
def test_a_part_of_another_form_is_made_again(tmp_path, changes, caplog):
    Parts(tmp_path, JOB).add(part_of(0, 4))
    path = tmp_path / "images-000000000004-000000000008.npz"
    write_arrays(path)
    assert Parts(tmp_path, JOB).done().sum() == 4, "it is taken as it was"
    write_arrays(path, **changes)
    assert Parts(tmp_path, JOB).done().sum() == 2
    assert "is damaged, and its images are embedded again" in caplog.text
    assert not path.exists()


@pytest.mark.parametrize(("first", "stop"), [(3, 7), (4, 7), (4, 4), (8, 12), (2, 6)])
def test_a_part_of_no_whole_batches_or_of_others_batches_is_made_again(tmp_path, first, stop):
    Parts(tmp_path, JOB).add(part_of(0, 4))
    write_arrays(tmp_path / f"images-{first:012d}-{stop:012d}.npz")
    assert Parts(tmp_path, JOB).done().sum() == 2


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutations_are_made_again_or_are_the_same(tmp_path_factory, data):
    """Bytes changed, lost or added anywhere: what is taken is what was written, for a checksum is on every array."""
    directory = tmp_path_factory.mktemp("parts")
    Parts(directory, JOB).add(part_of(4, 8, failed=[5]))
    (path,) = directory.glob("images-*")
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content)))
    content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path.write_bytes(content)
    for part in Parts(directory, JOB):
        np.testing.assert_array_equal(part.read("embeddings_nD"), part_of(4, 8, failed=[5]).embeddings_nD)


# ---- the result ----


@pytest.mark.parametrize("cuts", [[0, 11], [0, 2, 11], [0, 8, 10, 11], [0, 2, 4, 6, 8, 10, 11]])
def test_the_result_does_not_depend_on_the_parts(tmp_path, cuts):
    whole = Parts(tmp_path / "whole", JOB)
    whole.add(part_of(0, 11, failed=[3, 10]))
    write_result(tmp_path / "whole.npz", whole, JOB, "r50")
    parts = Parts(tmp_path / "parts", JOB)
    for first, stop in reversed([*zip(cuts, cuts[1:], strict=False)]):
        parts.add(part_of(first, stop, failed=[3, 10]))
    write_result(tmp_path / "out.npz", parts, JOB, "r50")
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / "parts").exists()
    expected_ND = ROWS_ND.copy()
    expected_ND[[3, 10]] = 0
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_array_equal(file["embeddings"], expected_ND)
        assert file["embeddings"].dtype == np.float32 and file["embeddings"].flags.c_contiguous
        assert (file["labels"].tolist(), file["labels"].dtype) == (list(range(11)), np.int64)
        assert file["keys"].tolist() == KEYS
        assert file["failed"].tolist() == [3, 10] and file["reasons"].tolist() == ["is wrong 3", "is wrong 10"]
        assert (str(file["model"]), bool(file["flip"]), bool(file["normalized"])) == ("r50", False, True)
    assert is_result_of(tmp_path / "out.npz", JOB)
    assert not is_result_of(tmp_path / "out.npz", replace(JOB, flip=True))


def test_what_is_no_result(tmp_path):
    assert not is_result_of(tmp_path / "none.npz", JOB)
    for content in (b"", b"text", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00"):
        (tmp_path / "other.npz").write_bytes(content)
        assert not is_result_of(tmp_path / "other.npz", JOB)
    np.savez(tmp_path / "job.npz", job=np.array([JOB.digest], object))
    assert not is_result_of(tmp_path / "job.npz", JOB)
    np.save(tmp_path / "array.npy", np.arange(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    assert not is_result_of(tmp_path / "array.npz", JOB)


def test_a_full_disk_leaves_the_parts_and_no_result(tmp_path, monkeypatch):
    parts = Parts(tmp_path / "parts", JOB)
    parts.add(part_of(0, 11))

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(NpzWriter, "stream", full)
    with pytest.raises(OSError, match="No space left"):
        write_result(tmp_path / "out.npz", parts, JOB, "r50")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [
        "images-000000000000-000000000011.npz", JOB_FILE,
    ]  # fmt: skip
    write_result(tmp_path / "out.npz", Parts(tmp_path / "parts", JOB), JOB, "r50")
    assert is_result_of(tmp_path / "out.npz", JOB)


def test_a_part_damaged_meanwhile_is_named(tmp_path):
    parts = Parts(tmp_path / "parts", JOB)
    parts.add(part_of(0, 11))
    (path,) = (tmp_path / "parts").glob("images-*")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="images-.*.npz has been damaged .*: start again, which mends it"):
        write_result(tmp_path / "out.npz", parts, JOB, "r50")
    assert json.loads((tmp_path / "parts" / JOB_FILE).read_text())["images"] == 11
    assert not (tmp_path / "out.npz").exists()
