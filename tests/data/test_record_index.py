import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.data import text_lines
from partial_fc.data.record_index import make_index, read_index
from partial_fc.data.record_writer import RecordWriter
from partial_fc.data.records import RecordSource


def parsed(path, text):
    path.write_bytes(text)
    index = read_index(path)
    return list(index.keys_N), index.offsets_N.tolist()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.idx"


@pytest.mark.parametrize(
    "text",
    [
        b"3\t0\n4\t40\n5\t1234567890123\n",
        b"3\t0\n4\t40\n5\t1234567890123",
        b"3\t0\r\n4\t40\r\n5\t1234567890123\r\n",
        b"\n3\t0\n\n4 40\n  5\t\t1234567890123\n\n",
        b"5\t1234567890123\n3\t0\n4\t40\n",
    ],
    ids=["as MXNet writes it", "no last newline", "Windows", "blanks", "not in order"],
)
def test_lines_are_read(path, text):
    assert parsed(path, text) == ([3, 4, 5], [0, 40, 1234567890123])


def test_keys_that_follow_one_another_take_no_memory(path):
    path.write_bytes(b"7\t80\n5\t0\n6\t40\n")
    assert read_index(path).keys_N == range(5, 8)


def test_keys_with_gaps(path):
    assert parsed(path, b"10\t0\n30\t40\n20\t80\n") == ([10, 20, 30], [0, 80, 40])


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(0, 10**9), st.integers(0, 10**15), min_size=1, max_size=30), st.data())
def test_any_index_is_read_as_by_the_naive_parser(tmp_path_factory, offset_of_key, data):
    offset_of_key = {key: offset + (10**15 + 1) * i for i, (key, offset) in enumerate(offset_of_key.items())}
    chunk_bytes = data.draw(st.integers(1, 60))
    path = tmp_path_factory.mktemp("index") / "a.idx"
    text = "".join(f"{key}\t{offset}\n" for key, offset in offset_of_key.items()).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_lines, "CHUNK_BYTES", chunk_bytes)
        keys, offsets = parsed(path, text)
    assert dict(zip(keys, offsets, strict=True)) == offset_of_key
    assert keys == sorted(offset_of_key)


TOO_LONG = b"5\t" + b"9" * 19


@pytest.mark.parametrize(
    "bad",
    [b"5", b"5\t6\t7", b"-5\t6", b"5\t6.0", b"a\tb", TOO_LONG, TOO_LONG + b"9" * 19, b"5\n6", b"5\t"],
)
def test_a_line_that_is_not_two_whole_numbers_is_named(path, bad):
    with pytest.raises(ValueError, match=r"a\.idx: line 3 is not `key<tab>offset`"):
        parsed(path, b"1\t0\n2\t40\n" + bad + b"\n6\t80\n")


def test_a_long_line_is_not_read_into_memory(path):
    path.write_bytes(b"1" * (text_lines.CHUNK_BYTES + 5000))
    with pytest.raises(ValueError, match="line 1 is not"):
        read_index(path)


def test_what_is_there_twice_is_named(path):
    with pytest.raises(ValueError, match=r"a\.idx: the index names record 2 twice"):
        parsed(path, b"1\t0\n2\t40\n2\t80\n")
    with pytest.raises(ValueError, match=r"a\.idx: the index names record 1 twice"):
        parsed(path, b"3\t0\n1\t40\n1\t80\n")
    with pytest.raises(ValueError, match=r"a\.idx: the index gives offset 40 to two records"):
        parsed(path, b"1\t0\n2\t40\n3\t80\n4\t40\n")


@pytest.mark.parametrize("text", [b"", b"\n\n"])
def test_an_empty_index_is_refused(path, text):
    with pytest.raises(ValueError, match="the index is empty"):
        parsed(path, text)


def test_unsorted_keys_cost_no_copy_of_the_keys(path):
    keys_N = np.random.default_rng(3).permutation(1000)
    index = make_index(keys_N, keys_N * 44, path)
    assert index.keys_N == range(1000)
    assert (index.offsets_N == np.arange(1000) * 44).all()


OPEN_MILLIONS = """
import resource, sys, time
from pathlib import Path
import numpy as np
from partial_fc.data.record_index import read_index
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
index = read_index(Path(sys.argv[1]))
seconds = time.process_time() - start
assert (index.offsets_N == 40 + 4096 * np.arange(len(index.offsets_N))).all()
assert index.keys_N[0] == 10_000_000
print(len(index.keys_N), seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_millions_of_lines_in_seconds_and_little_memory(tmp_path):
    """A tenth of what the largest public set has, held to a tenth of 10 s and of 600 MiB."""
    path, count = tmp_path / "a.idx", 1_700_000
    numbers = np.stack([10_000_000 + np.arange(count), 40 + 4096 * np.arange(count)], 1)
    with path.open("w") as file:
        file.writelines(f"{key}\t{offset}\n" for key, offset in numbers.tolist())
    output = subprocess.run(
        [sys.executable, "-c", OPEN_MILLIONS, path], check=True, capture_output=True, text=True
    ).stdout
    lines, seconds, mebibytes = map(float, output.split())
    assert lines == count
    assert seconds < 1.0
    assert mebibytes < 60


@pytest.mark.parametrize("place", [0, 3, 7])
def test_an_index_that_points_past_the_end_is_found_at_opening(tmp_path, place):
    """Whichever line it is: the record is looked for before a run begins."""
    with RecordWriter(tmp_path / "a.rec") as writer:
        for label in range(8):
            writer.add(b"image" * (label + 1), label)
    path = tmp_path / "a.idx"
    lines = path.read_bytes().splitlines()
    key = lines[1 + place].split(b"\t")[0]
    lines[1 + place] = key + b"\t123456789000"
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ValueError, match="cut short: the record at byte 123456789000 .* the file has [0-9]+ bytes"):
        RecordSource(tmp_path / "a.rec")


def test_a_set_whose_index_names_a_record_twice_does_not_open(tmp_path):
    with RecordWriter(tmp_path / "a.rec") as writer:
        for label in range(8):
            writer.add(b"image", label)
    path = tmp_path / "a.idx"
    text = path.read_bytes()
    path.write_bytes(text + text.splitlines(keepends=True)[3])
    with pytest.raises(ValueError, match=r"a\.idx: the index names record 3 twice"):
        RecordSource(tmp_path / "a.rec")
