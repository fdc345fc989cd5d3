import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.data import text_lines
from partial_fc.data.key_list import KeyList


@pytest.fixture
def path(tmp_path):
    return tmp_path / "list.txt"


def parsed(path, text):
    path.write_bytes(text)
    keys = KeyList(path)
    lines = [(keys.key(i), int(label)) for i, label in enumerate(keys.labels_N)]
    keys.close()
    assert len(keys) == len(lines)
    return lines


LINES = [(b"a/1.jpg", 0), (b"b 2.jpg", 12), (b"\xff\xfe", 999_999_999)]


@pytest.mark.parametrize(
    "text",
    [
        b"a/1.jpg 0\nb 2.jpg 12\n\xff\xfe 999999999\n",
        b"a/1.jpg 0\nb 2.jpg 12\n\xff\xfe 999999999",
        b"a/1.jpg\t0\nb 2.jpg\t12\n\xff\xfe\t999999999\n",
        b"a/1.jpg 0\r\nb 2.jpg 12\r\n\xff\xfe 999999999\r\n",
        b"\n\na/1.jpg 0\n\r\nb 2.jpg 12\n\n\xff\xfe 999999999\n\n",
        b"  a/1.jpg   0\n\tb 2.jpg \t 12  \n  \n\xff\xfe 999999999 \r\n",
    ],
    ids=["blanks", "no last newline", "tabs", "Windows", "blank lines", "more blanks"],
)
def test_lines_are_read(path, text):
    assert parsed(path, text) == LINES


keys = st.binary(min_size=1, max_size=12).filter(
    lambda key: key.strip() == key
    and not any(separator in key for separator in b"\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85")
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(keys, st.integers(0, 10**9 - 1)), min_size=1, max_size=20), st.data())
def test_any_list_is_read(tmp_path_factory, lines, data):
    text = b""
    for key, label in lines:
        separator = data.draw(st.sampled_from([b" ", b"\t", b"  "]))
        text += (
            key + separator + b"%d" % label + data.draw(st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n"]))
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_lines, "CHUNK_BYTES", data.draw(st.integers(1, 80)))
        assert parsed(tmp_path_factory.mktemp("keys") / "list.txt", text) == lines


@pytest.mark.parametrize(
    "bad",
    [
        b"key",
        b"17",
        b" 17",
        b"key -1",
        b"key 1.5",
        b"key 1000000000",
        b"key x7",
        b"k" * 512 + b" 1",
        b"k\xb2",
        b"1 a5",
    ],
)
def test_a_line_that_is_no_key_and_label_is_named(path, bad):
    with pytest.raises(ValueError, match=r"list\.txt: line 3 is not a key of 1 to 511 bytes"):
        parsed(path, b"a 1\n\n" + bad + b"\nb 2\n")


@pytest.mark.parametrize("text", [b"", b"\n \r\n"])
def test_an_empty_list_is_refused(path, text):
    with pytest.raises(ValueError, match="names no image"):
        parsed(path, text)


def test_a_missing_list_is_one_sentence(path):
    with pytest.raises(FileNotFoundError, match="there is no list of keys"):
        KeyList(path)


OPEN_MILLIONS = """
import resource, sys, time
from partial_fc.data.key_list import KeyList
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
keys = KeyList(sys.argv[1])
seconds = time.process_time() - start
last = len(keys) - 1
assert keys.key(last) == b"%08d/%010d.jpg" % (last // 50, last) and keys.labels_N[last] == last // 50
print(len(keys), seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_millions_of_lines_in_seconds_and_little_memory(path):
    """A tenth of what the largest public set has, held to a tenth of 10 s and of 600 MiB."""
    count = 1_700_000
    with path.open("w") as file:
        file.writelines(f"{i // 50:08d}/{i:010d}.jpg {i // 50}\n" for i in range(count))
    output = subprocess.run(
        [sys.executable, "-c", OPEN_MILLIONS, path], check=True, capture_output=True, text=True
    ).stdout
    lines, seconds, mebibytes = map(float, output.split())
    assert lines == count
    assert seconds < 1.0
    assert mebibytes < 60
