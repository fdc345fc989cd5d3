"""Pickles of plain values are read as `pickle` reads them; whatever could run is refused by its name."""

import collections
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.evaluation import plain_pickle
from partial_fc.evaluation.plain_pickle import read_plain_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read_bytes(tmp_path, content):
    path = tmp_path / "set.bin"
    path.write_bytes(content)
    return read_plain_pickle(path)


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.binary(max_size=300)
    | st.text(max_size=20)
)
plain_values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.lists(inner, max_size=5).map(tuple), max_leaves=20
)


@settings(max_examples=150, deadline=None)
@given(value=plain_values, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_come_back(tmp_path_factory, value, protocol):
    assert read_bytes(tmp_path_factory.mktemp("pickle"), pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["?", "u1", "<i4", ">i8", "<f4", ">f8", "S3"])
def test_arrays_and_scalars_come_back(tmp_path, protocol, dtype):
    array = np.array([[0, 1, 1], [1, 0, 7]]).astype(dtype)
    value = [array, array[0], np.asfortranarray(array), array[1, 1], np.zeros((0, 3), dtype)]
    restored = read_bytes(tmp_path, pickle.dumps(value, protocol))
    for expected, actual in zip(value, restored, strict=True):
        assert type(actual) is type(expected)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


def test_values_that_the_pickle_repeats_are_the_same_object(tmp_path):
    image, array = b"x" * 300, np.arange(5, dtype=np.uint8)
    first, second, third, fourth = read_bytes(tmp_path, pickle.dumps([image, image, array, array], 2))
    assert first is second
    assert third is fourth


def test_python_2_pickle(tmp_path):
    """What Python 2 writes for `(['\\xff\\xd8', np.array([255, 216], 'u1')], [True, False])`, protocol 2."""
    content = (
        b"\x80\x02]q\x00(U\x02\xff\xd8q\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03"
        b"K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02u1q\n"
        b"K\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01|q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x02\xff\xd8q\x0ftq\x10be]q\x11(\x88\x89e\x86q\x12."
    )
    (image, array), flags = read_bytes(tmp_path, content)
    assert image == b"\xff\xd8"
    assert array.tolist() == [255, 216] and array.dtype == np.uint8
    assert flags == [True, False]
    long_string = b"\x80\x02T\x04\x00\x00\x00\xff\x00\xd8\x01."
    assert read_bytes(tmp_path, long_string) == b"\xff\x00\xd8\x01"


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Plain:
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("hostile", "name"),
    [
        (lambda marker: Calls(os.system, f"touch {marker}"), "posix.system"),
        (lambda marker: Calls(subprocess.run, ["touch", marker]), "subprocess.run"),
        (lambda marker: Calls(eval, f"open({marker!r}, 'w')"), "builtins.eval"),
        (lambda marker: Calls(exec, f"open({marker!r}, 'w')"), "builtins.exec"),
        (lambda marker: Calls(open, marker, "w"), "io.open"),
        (lambda marker: Calls(np.save, marker, 1), "numpy.save"),
        (lambda marker: Calls(np.memmap, marker, np.uint8, "w+", 0, (5,)), "numpy.memmap"),
        (lambda marker: Calls(np.load, marker, None, True), "numpy.load"),
        (lambda marker: Calls(np.fromfile, marker), "fromfile"),
        (lambda marker: Calls(getattr, Plain, "mro"), "builtins.getattr"),
        (lambda marker: Calls(pickle.loads, b"."), "_pickle.loads"),
        (lambda marker: Calls(bytearray, 10**12), "builtins.bytearray"),
        (lambda marker: Plain(), r"(Plain|copyreg\._reconstructor)"),
        (lambda marker: collections.OrderedDict(), "collections.OrderedDict"),
        (lambda marker: complex(1, 2), "builtins.complex"),
    ],
)
def test_whatever_could_run_is_refused_by_name(tmp_path, hostile, name, protocol):
    marker = tmp_path / "marker"
    content = pickle.dumps(([b"image", hostile(str(marker))], [True]), protocol, fix_imports=False)
    with pytest.raises(ValueError, match=name + "'; nothing but plain values"):
        read_bytes(tmp_path, content)
    assert not marker.exists()


def test_the_marker_tells_what_pickle_itself_would_have_run(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {marker}")))
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({"images": []}), "EMPTY_DICT"),
        (pickle.dumps({1, 2}), "EMPTY_SET|builtins.set"),
        (b"(ios\nsystem\n.", "INST 'os system'"),
        (b"cos\nsystem\n(S'id'\ntR.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"Psomething\n.", "PERSID 'something'"),
        (b"\x80\x02\x82\x01.", "EXT1 1"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x03\x00\x00\x00rot\x86R.", "latin1"),
        (b"\x80\x02c_codecs\nencode\n}b.", "EMPTY_DICT"),
        (b"\x80\x02c_codecs\nencode\n]b.", "sets the state of a _Name"),
        (b"\x80\x02]\x85]\x85R.", "calls a tuple"),
        (pickle.dumps(np.array([b"a", None], dtype=object)), "'O8'"),
        (pickle.dumps(np.zeros(3, dtype=[("a", "i4")])), "'V4'"),
        (pickle.dumps(np.zeros(3, dtype="M8[s]")), "'M8'"),
        (b"\x80\x02}u.", "EMPTY_DICT"),
        (b"\x80\x02h\x05.", "recalls value 5"),
        (b"\x80\x02]a.", "not there|no list"),
        (b"\x80\x02e.", "never began"),
        (b"\x80\x02(.", "not there"),
        (b"\x80\x02K", None),
        (b"\x80\x02K\x01K\x02.", "left over"),
        (b"", None),
        (b"not a pickle", None),
        (b"\x89PNG\r\n\x1a\n", None),
    ],
)
def test_other_instructions_are_refused(tmp_path, content, reason):
    with pytest.raises(ValueError, match="set.bin is not a pickle of plain values: .*" + (reason or "")):
        read_bytes(tmp_path, content)


def array_pickle(shape, dtype_code=b"u1", raw=b"abc"):
    """A protocol-2 pickle of an array with any claims about itself."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("
        + b"".join(b"\x8a\x09" + size.to_bytes(9, "little", signed=True) for size in shape)
        + b"tcnumpy\ndtype\nU"
        + bytes([len(dtype_code)])
        + dtype_code
        + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)])
        + raw
        + b"tb."
    )


def test_an_array_may_claim_no_more_than_it_has(tmp_path):
    assert read_bytes(tmp_path, array_pickle((3,))).tolist() == [97, 98, 99]
    for shape, code in [
        ((2**40,), b"u1"),
        ((4,), b"u1"),
        ((2,), b"u1"),
        ((-1,), b"u1"),
        ((-3, -1), b"u1"),
        ((3,), b"f8"),
        ((2**63, 0, 3), b"u1"),
        ((3,), b"S0"),
        ((1,), b"S999999999"),
    ]:
        with pytest.raises(ValueError, match="numpy array of shape|shape of an unknown form"):
            read_bytes(tmp_path, array_pickle(shape, code))
    for code in [b"O", b"V3", b"U1", b"u3", b"(3,)u1", b"u1,u1", b"S", b"datetime64"]:
        with pytest.raises(ValueError, match="of dtype"):
            read_bytes(tmp_path, array_pickle((3,), code))


BOMBS = {
    "a string of 2 GiB": b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"abc",
    "bytes of 2^60": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc",
    "a bytearray of 2^40": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc",
    "a number of 2 GiB": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc",
    "a memo of 2^31 places": b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b"K\x01.",
    "one text encoded ten thousand times": (
        b"\x80\x02(X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x00"
        + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 10**4 + b"l."
    ),
    "a million lists, one in another": b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b"K.",
    "a million tuples, one in another": b"\x80\x02)" + b"\x85" * 10**6 + b"K.",
    "an array of 2^60": array_pickle((2**60,)),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_do_not_go_off(tmp_path, bomb):
    """Each is refused in a process that may not take much memory, and without a crash of its stack."""
    path = tmp_path / "bomb.bin"
    path.write_bytes(BOMBS[bomb])
    address_space = 3 << 30  # 2 GiB are what Python and numpy's threads reserve
    script = (
        "import resource, sys\n"
        "from partial_fc.evaluation.plain_pickle import read_plain_pickle\n"
        "resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))\n"
        "try: read_plain_pickle(sys.argv[1])\n"
        "except ValueError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, path, str(address_space)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-500:]
    assert "bomb.bin is not a pickle of plain values" in result.stdout


def test_deep_nesting_that_ends_is_read(tmp_path):
    value = read_bytes(tmp_path, b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
    depth = 1
    while value:
        (value,) = value
        depth += 1
    assert depth == 10**5


@settings(max_examples=100, deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True), protocol=st.sampled_from(PROTOCOLS))
def test_truncated_pickles_are_refused(tmp_path_factory, cut, protocol):
    content = pickle.dumps(([b"first", np.arange(9, dtype=np.uint8)], [True]), protocol)
    with pytest.raises(ValueError, match="is not a pickle of plain values"):
        read_bytes(tmp_path_factory.mktemp("pickle"), content[: int(cut * len(content))])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_pickles_give_a_value_or_a_value_error(tmp_path_factory, data):
    content = bytearray(pickle.dumps(([b"first", np.arange(9, dtype=np.uint8), 3.5], [True]), 2))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_bytes(tmp_path_factory.mktemp("pickle"), bytes(content))
    except ValueError as error:
        assert "is not a pickle of plain values" in str(error)


def test_a_file_above_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_pickle, "MAX_FILE_BYTES", 100)
    assert len(read_bytes(tmp_path, pickle.dumps(b"x" * 50))) == 50
    with pytest.raises(ValueError, match="larger than"):
        read_bytes(tmp_path, pickle.dumps(b"x" * 150))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_plain_pickle(tmp_path / "none.bin")
