"""10,000 mutations of valid files: an error or an answer from every reader; and graphs that would do harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import symbol
from partial_fc.symbol_file import check_symbol, load_symbol
from partial_fc.testing_run import tiny_network, write_tiny_faces

PROGRAM = Path(__file__).parent / "hostile_reader.py"
COUNTS = {"rec": 1500, "idx": 1500, "list": 1500, "keys": 1500, "bin": 1500, "params": 1500, "symbol": 1000}


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("valid")
    write_tiny_faces(directory, identities=5, images_per_identity=3, pairs=10)
    (directory / "train.lst").write_text("".join(f"{i}\t{i % 3}.000\tfaces/{i}.jpg\n" for i in range(50)))
    (directory / "keys.txt").write_text("".join(f"person{i // 5}/{i}.jpg {i // 5}\n" for i in range(50)))
    mx.nd.save(str(directory / "model.params"), {"arg:a": mx.nd.ones((3, 5)), "aux:b": mx.nd.zeros((7,))})
    symbol.build_backbone("toy", 8).save(str(directory / "model-symbol.json"))
    return directory


FILES = {
    "rec": "train.rec", "idx": "train.idx", "list": "train.lst", "keys": "keys.txt", "bin": "val.bin",
    "params": "model.params", "symbol": "model-symbol.json",
}  # fmt: skip


@pytest.mark.parametrize("reader", COUNTS)
def test_mutations(reader: str, valid: Path, tmp_path: Path) -> None:
    for path in valid.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    run = subprocess.run(
        [sys.executable, PROGRAM, reader, tmp_path / FILES[reader], str(COUNTS[reader]), "0"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, f"status {run.returncode}; {FILES[reader]} in {tmp_path}\n{run.stderr[-3000:]}"
    assert f"{COUNTS[reader]} mutations" in run.stdout


def test_they_are_ten_thousand() -> None:
    assert sum(COUNTS.values()) == 10_000


def graph() -> dict[str, object]:
    return json.loads(tiny_network().tojson())


def with_operator(name: str, **attributes: str) -> dict[str, object]:
    changed = graph()
    changed["nodes"][-1] |= {"op": name, "attrs": attributes}
    return changed


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: with_operator("Custom", op_type="evil"), "operator 'Custom', which no network needs"),
        (lambda: with_operator("_Native", info="0xdeadbeef"), "operator '_Native'"),
        (lambda: with_operator("_CachedOp"), "operator '_CachedOp'"),
        (lambda: graph() | {"heads": [[999, 0, 0]]}, "heads are not among"),
        (lambda: graph() | {"heads": []}, "heads are not among"),
        (lambda: graph() | {"arg_nodes": [-1]}, "arg_nodes are not among"),
        (lambda: graph() | {"nodes": []}, "no nodes"),
        (lambda: graph() | {"more": 1}, "unknown part 'more'"),
        (lambda: {"nodes": [{"op": "null", "name": "x", "inputs": [[0, 0, 0]]}]}, "inputs that are not among the"),
        (lambda: {"nodes": [{"op": "null", "name": "x", "inputs": [], "subgraphs": []}]}, "unknown parts"),
        (lambda: [], "no nodes"),
    ],
)
def test_graphs_that_would_do_harm(make, says: str, tmp_path: Path) -> None:
    path = tmp_path / "model-symbol.json"
    path.write_text(json.dumps(make()))
    with pytest.raises(ValueError, match=says):
        check_symbol(path)


def test_deep_json_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "model-symbol.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="it is no JSON"):
        check_symbol(path)


def test_what_only_mxnet_can_refuse_is_refused_by_the_child(tmp_path: Path) -> None:
    path = tmp_path / "model-symbol.json"
    path.write_text(json.dumps(with_operator("NoSuchOperator")))
    with pytest.raises(ValueError, match="MXNet refuses it"):
        load_symbol(path)


@pytest.mark.parametrize("name", ["r18", "mobilefacenet", "resnet50", "toy"])
def test_the_projects_networks_pass(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model-symbol.json"
    symbol.build_backbone(name, 16).save(str(path))
    check_symbol(path)


def test_published_networks_pass(shared_data: Path) -> None:
    for path in sorted((shared_data / "models").rglob("*-symbol.json")):
        check_symbol(path)


KEYS = st.sampled_from(["nodes", "op", "name", "inputs", "heads", "arg_nodes", "attrs"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=60, deadline=None)
@given(content=JSON)
def test_any_json_is_refused_or_is_a_graph(content, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any-symbol.json"
    path.write_text(json.dumps(content))
    try:
        check_symbol(path)
    except ValueError as error:
        assert "does not hold an MXNet symbol" in str(error)
    else:
        assert np.ndim(content["nodes"]) >= 1
