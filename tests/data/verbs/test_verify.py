"""verify: a sound set, and each fault by itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from partial_fc.data import known_sums
from partial_fc.data.findings import Check
from partial_fc.data.record_index import RecordIndex
from partial_fc.data.record_payload import pack_label, pack_range
from partial_fc.data.record_writer import RecordWriter
from partial_fc.data.recordio import RecordFile, frame
from partial_fc.data.verbs import verify
from partial_fc.data.verify_records import check_ranges

from .conftest import Run, jpeg


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    path = tmp_path / "train.rec"
    with RecordWriter(path, (24, 24)) as writer:
        for i, label in enumerate([0, 0, 1, 2, 2]):
            writer.add(jpeg(i), label)
    return path


def checks(run: Run, *arguments: object) -> tuple[int, dict[str, dict]]:
    path = Path(str(arguments[0])).parent / "found.json"
    status, _, err = run("verify", *arguments, "--json", path, "--overwrite")
    assert err == ""
    return status, {check["name"]: check for check in json.loads(path.read_text())["checks"]}


def faults(run: Run, *arguments: object) -> dict[str, list[str]]:
    status, found = checks(run, *arguments)
    wrong = {name: check["faults"] for name, check in found.items() if check["faults"]}
    assert status == (1 if wrong else 0)
    return wrong


def test_a_sound_set(rec: Path, run: Run) -> None:
    status, found = checks(run, rec)
    assert status == 0
    assert list(found) == ["md5", "index", "labels", "ranges", "records", "images", "duplicates"]
    assert hashlib.md5(rec.read_bytes()).hexdigest() in found["md5"]["remarks"][0]
    assert found["labels"]["remarks"] == ["1 identities have one image, which teaches little about them"]
    assert found["images"]["summary"] == "5 decoded; 24×24 (5)"
    assert found["duplicates"]["summary"].startswith("0 images are copies")
    assert run("verify", rec, "--no-md5")[1].endswith("sound\n")


def test_a_part_of_the_images(rec: Path, run: Run) -> None:
    assert checks(run, rec, "--sample", 0.4)[1]["records"]["summary"] == "2 of 5, drawn, read"
    status, _, err = run("verify", rec, "--sample", 0)
    assert (status, err) == (2, "error: --sample must lie in (0, 1], got 0.0\n")


def test_a_broken_record_and_a_broken_image(rec: Path, run: Run) -> None:
    offsets = [int(line.split("\t")[1]) for line in rec.with_suffix(".idx").read_text().splitlines()]
    data = bytearray(rec.read_bytes())
    data[offsets[2]] ^= 1
    data[offsets[4] + 32 : offsets[4] + 36] = b"none"
    rec.write_bytes(data)
    found = faults(run, rec)
    assert "train.rec record 2" in found["records"][0] and len(found["records"]) == 1
    assert "train.rec record 4 is neither JPEG nor PNG" in found["images"][0] and len(found["images"]) == 1
    assert f"no record starts at byte {offsets[2]}" in found["index"][0]
    assert "record 2" in found["labels"][0]


def test_copies_are_found_by_their_content(tmp_path: Path, run: Run) -> None:
    with RecordWriter(tmp_path / "train.rec") as writer:
        for image, label in ((1, 0), (2, 0), (1, 0), (3, 1), (2, 1)):
            writer.add(jpeg(image), label)
    status, found = checks(run, tmp_path / "train.rec")
    assert status == 0
    assert found["duplicates"]["summary"] == (
        "2 images are copies of others: 1 of their own identity, 1 of another"
    )
    assert {line.split("train.rec ")[1] for line in found["duplicates"]["remarks"]} == {
        f"record 3 is a copy of {tmp_path}/", f"record 5 is a copy of {tmp_path}/"
    }  # fmt: skip


def test_labels_with_gaps_and_outside(rec: Path, run: Run) -> None:
    rec.with_name("property").write_text("5,24,24\n")
    assert faults(run, rec)["labels"] == ["2 identities have no image (3, 4): the verb relabel closes the gaps"]
    rec.with_name("property").write_text("2,24,24\n")
    found = faults(run, rec)
    assert found["labels"] == ["2 labels lie outside [0, 2), the largest is 2"]
    assert len(found["records"]) == 2


def write_records(path: Path, payloads: list[bytes]) -> None:
    offset, lines = 0, []
    with path.open("wb") as file:
        for key, payload in enumerate(payloads):
            lines.append(f"{key}\t{offset}\n")
            offset += file.write(frame(payload))
    path.with_suffix(".idx").write_text("".join(lines))


def test_ranges_that_are_not_those_of_the_images(tmp_path: Path, run: Run) -> None:
    rec = tmp_path / "a.rec"
    images = [pack_label(label, key) + jpeg(key) for key, label in enumerate([7, 0, 0, 1, 1, 2])][1:]
    good = [(1, 3), (3, 5), (5, 6)]

    def with_ranges(ranges: list[tuple[int, int]]) -> list[str]:
        header = pack_range(6, 6 + len(ranges), 0)
        write_records(rec, [header, *images, *(pack_range(*ends, 6 + i) for i, ends in enumerate(ranges))])
        return faults(run, rec).get("ranges", [])

    assert with_ranges(good) == with_ranges(good[::-1]) == []
    assert with_ranges([(1, 3), (3, 4), (4, 6)]) == [
        "identity record 7 names images 3 to 4, not one's own",
        "identity record 8 names images 4 to 6, not one's own",
        "the images of 2 identities are in no identity record of theirs",
    ]
    assert with_ranges(good[:2]) == ["the images of 1 identities are in no identity record of theirs"]
    images[4], images[1] = images[1], images[4]
    assert "1 identities have images in several places" in with_ranges(good)[0]


def test_ranges_past_2_to_the_24_are_compared_as_they_are_rounded(tmp_path: Path) -> None:
    """A miniature: a few records whose keys lie past 2^24, as the last ones of the largest sets do."""
    path, first = tmp_path / "a.rec", (1 << 24) + 1
    labels_N = np.array([0, 0, 0, 1, 2, 2, 2, 3, 3, 3, 3])
    end = first + len(labels_N)
    ends = [(first, first + 3), (first + 3, first + 4), (first + 4, first + 7), (first + 7, end)]
    assert any(float(np.float32(number)) != number for pair in ends for number in pair)
    payloads = [pack_label(int(label), first + i) + jpeg(i) for i, label in enumerate(labels_N)]

    def check(ranges: list[tuple[int, int]]) -> Check:
        records = [frame(payload) for payload in [*payloads, *(pack_range(*pair, 0) for pair in ranges)]]
        path.write_bytes(b"".join(records))
        offsets_N = np.cumsum([0] + [len(record) for record in records[:-1]])
        index = RecordIndex(range(first, first + len(records)), offsets_N)
        source = SimpleNamespace(
            name=str(path), index=index, image_positions=range(len(labels_N)), file=RecordFile(path)
        )
        return check_ranges(source, labels_N)

    assert check(ends).faults == [] and "are rounded in the file" in check(ends).remarks[0]
    assert len(check([(start, stop + 8) for start, stop in ends]).faults) == 5


def test_bytes_that_the_index_does_not_know(rec: Path, run: Run) -> None:
    lines = rec.with_suffix(".idx").read_text().splitlines()
    rec.with_suffix(".idx").write_text("\n".join(lines[:-1]))
    assert "are not in the index" in faults(run, rec)["index"][0]


def test_published_sums(rec: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = {hashlib.md5(path.read_bytes()).hexdigest(): path.name for path in (rec, rec.with_suffix(".idx"))}
    for md5, name in sums.items():
        monkeypatch.setitem(known_sums.SUMS, md5, known_sums.Known(known_sums.FIRST, name))
    assert checks(run, rec)[1]["md5"]["summary"] == known_sums.FIRST
    rec.with_suffix(".idx").write_bytes(rec.with_suffix(".idx").read_bytes() + b"\n")
    assert "train.idx has the MD5 sum" in faults(run, rec)["md5"][0]
    monkeypatch.setattr(verify, "GLINT360K_IMAGES", 5)
    monkeypatch.setattr(verify, "GLINT360K_IDENTITIES", 3)
    monkeypatch.setattr(known_sums, "SUMS", {})
    monkeypatch.setattr(verify, "SUMS", {})
    assert len(faults(run, rec)["md5"]) == 2


def test_the_table_of_sums() -> None:
    assert len(known_sums.SUMS) == 18
    assert known_sums.SUMS["dcc2f021aa2a9463ff1b2a8021ef87b6"] == (known_sums.FIRST, "glint360k06")
    assert known_sums.SUMS["cf7433cbb915ac422230ba33176f4625"] == (known_sums.SECOND, "glint360k_00")
    assert known_sums.sums_of("train.rec") == ["2a74c71c4d20e770273f103eda97e878", "8483be5af6f9906e19f85dee49132f8e"]


def test_parts_of_an_archive(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glint360k_00").write_bytes(b"whole")
    (tmp_path / "glint360k_01").write_bytes(b"cut sho")
    md5 = hashlib.md5(b"whole").hexdigest()
    monkeypatch.setitem(known_sums.SUMS, md5, known_sums.Known(known_sums.SECOND, "glint360k_00"))
    status, out, _ = run("verify", tmp_path)
    assert status == 1 and out.count("FAULT") == 1 and "1 of 2 checks" in out
    assert "was published with 589a5ea3ab59f283d2b5dd3242bc027a" in out
    assert run("verify", tmp_path / "glint360k_00")[0] == 0


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda rec: rec.write_bytes(rec.read_bytes()[:-9]), "is cut short: the record at byte"),
        (lambda rec: rec.with_suffix(".idx").write_text("0\t0\n1\t64\n1\t99\n"), "the index names record 1 twice"),
        (lambda rec: rec.with_suffix(".idx").write_text("0\t0\n1\t999999\n"), "is cut short"),
        (lambda rec: rec.with_suffix(".idx").write_text("\n"), "the index is empty"),
        (lambda rec: rec.with_name("property").write_text("many"), "is not `identities,height,width`"),
    ],
)
def test_what_does_not_open_is_one_sentence(rec: Path, run: Run, break_it, message: str) -> None:
    break_it(rec)
    status, _, err = run("verify", rec)
    assert status == 2 and message in err and err.count("\n") == 1
