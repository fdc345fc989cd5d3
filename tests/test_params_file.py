"""MXNet's `.params`, both ways, and from whoever sends them."""

from __future__ import annotations

import io
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.params_file import ParamsFile, ParamsWriter, read_params, write_params

ARRAYS = {
    "arg:weight": np.arange(15, dtype=np.float32).reshape(3, 5),
    "half": np.array([[1.5], [-2], [65504]], np.float16),
    "numbers": np.array([2**62, -1], np.int64),
    "bytes": np.arange(251, dtype=np.uint8),
    "signed": np.array([-128, 127], np.int8),
    "int": np.array([[[7]]], np.int32),
    "double": np.array([np.pi, np.inf]),
}


def written(arrays: dict[str, np.ndarray]) -> bytes:
    output = io.BytesIO()
    write_params(output, arrays)
    return output.getvalue()


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found[name], array)


def test_mxnet_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "ours").write_bytes(written(ARRAYS))
    by_mxnet = {name: array.asnumpy() for name, array in mx.nd.load(str(tmp_path / "ours")).items()}
    check(by_mxnet, ARRAYS)
    mx.nd.save(str(tmp_path / "theirs"), {n: mx.nd.array(a, dtype=a.dtype) for n, a in ARRAYS.items()})
    assert (tmp_path / "theirs").read_bytes() == (tmp_path / "ours").read_bytes()
    check(read_params(tmp_path / "theirs"), ARRAYS)


def test_a_list_without_names(tmp_path: Path) -> None:
    mx.nd.save(str(tmp_path / "list"), [mx.nd.ones((2, 3)), mx.nd.zeros((1,))])
    found = read_params(tmp_path / "list")
    check(found, {"0": np.ones((2, 3), np.float32), "1": np.zeros(1, np.float32)})


def test_rows_are_read_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(written(ARRAYS))
    with ParamsFile(tmp_path / "file") as file:
        np.testing.assert_array_equal(file.read_rows("arg:weight", 1, 3), ARRAYS["arg:weight"][1:3])
        assert file.read_rows("half", 2, 2).shape == (0, 1)


def test_an_array_is_written_in_pieces(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as output:
        writer = ParamsWriter(output, 1)
        writer.begin("weight", (2, 2), np.dtype("float32"))
        for row in ([1.0, 2.0], [3.0, 4.0]):
            output.write(np.array(row, np.float32).tobytes())
        writer.end()
    check(read_params(tmp_path / "file"), {"weight": np.array([[1, 2], [3, 4]], np.float32)})


def test_a_published_model(shared_data: Path) -> None:
    path = shared_data / "models" / "mobilefacenet_y1" / "model-0000.params"
    theirs = {name: array.asnumpy() for name, array in mx.nd.load(str(path)).items()}
    check(read_params(path), theirs)


@pytest.mark.parametrize("content", [b"", b"\x12\x01", b"not parameters, but a text of some length", b"\x00" * 100])
def test_another_file_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.params").write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.params does not hold MXNet parameters"):
        read_params(tmp_path / "some.params")


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_changed_file_is_an_error_or_an_answer(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(written(ARRAYS))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + 8] = data.draw(st.binary(min_size=1, max_size=9))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    path = tmp_path_factory.getbasetemp() / "mutated.params"
    path.write_bytes(bytes(content))
    try:
        found = read_params(path)
    except ValueError as error:
        assert "mutated.params" in str(error)
    else:
        assert sum(array.nbytes for array in found.values()) <= len(content)
