"""The export command: a file that scores as its checkpoint, here and in InsightFace, or one sentence and no file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import onnx
import onnxruntime
import pytest

from partial_fc import evaluate, export
from partial_fc.evaluation.model import load_model
from partial_fc.evaluation.onnx_model import OnnxModel
from partial_fc.evaluation.pixel_form import ModelOptions
from partial_fc.evaluation.verification_set import save_bin
from partial_fc.export import LARGEST_DIFFERENCE, export_model, main
from partial_fc.onnx_file.compare import check_images, file_difference
from partial_fc.testing_export import write_network
from symbol.iresnet import iresnet
from symbol.layers import Layers

SIZE, EMBEDDING = 112, 32  # InsightFace takes no smaller images


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    network = iresnet(Layers("float32"), EMBEDDING, (1, 1, 1, 1), (4, 4, 6, 6, 8), stem_stride=2)
    return write_network(tmp_path_factory.mktemp("model"), network, SIZE)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> Path:
    return export_model(checkpoint, tmp_path_factory.mktemp("onnx") / "model.onnx", fold_batch_norm=True).path


def unit(embeddings_BD: np.ndarray) -> np.ndarray:
    return embeddings_BD / np.linalg.norm(embeddings_BD, axis=1, keepdims=True)


def cosines(one_BD: np.ndarray, other_BD: np.ndarray) -> np.ndarray:
    return (unit(one_BD.astype(np.float64)) * unit(other_BD.astype(np.float64))).sum(axis=1)


@pytest.mark.parametrize("options", [[], ["--fold-batch-norm"], ["--fp16", "--fold-batch-norm"], ["--no-check"]])
def test_the_command_writes_and_says_what(checkpoint, tmp_path, capsys, options):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an older one")
    assert main([checkpoint, str(path), *options]) == 0
    said = capsys.readouterr().out
    precision = "float16" if "--fp16" in options else "float32"
    assert f"wrote {path}: {precision}, 32 numbers of 112×112 RGB, 0 to 255" in said
    assert ("15 of 19 BatchNorms folded" in said) == ("--fold-batch-norm" in options), said
    assert ("largest difference of unit embeddings from MXNet's: " in said) == ("--no-check" not in options)
    assert ("rounded to float16" in said) == (precision == "float16")
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]
    images_BHWC = check_images(SIZE)
    expected_BD = load_model(checkpoint, mx.cpu(), 3).embed(images_BHWC)
    for batch in (1, 3):
        found_BD = OnnxModel(path, batch, ModelOptions()).embed(images_BHWC[:batch])
        difference = np.abs(unit(found_BD) - unit(expected_BD[:batch])).max()
        assert difference <= LARGEST_DIFFERENCE[precision]


def test_evaluation_reads_what_the_file_says_and_scores_the_same(checkpoint, exported, tmp_path):
    model = OnnxModel(exported, 2, ModelOptions())
    assert (model.image_size, model.embedding_size) == (SIZE, EMBEDDING)
    assert model.form.is_plain and model.form.said_by == "the graph normalises"
    rng, images = np.random.default_rng(0), []
    for number in range(20):
        first = rng.integers(0, 256, (7, 7, 3))
        second = np.clip(first + rng.normal(size=first.shape) * 80, 0, 255) if number % 2 else 255 - first
        blocks = (cv2.resize(image.astype(np.uint8), (SIZE, SIZE)) for image in (first, second))
        images += [cv2.imencode(".png", image)[1].tobytes() for image in blocks]
    save_bin(tmp_path / "pairs.bin", images, np.arange(20) % 2 == 1)
    report = tmp_path / "report.json"
    command = [f"mxnet={checkpoint}", f"onnx={exported}", "--val", str(tmp_path / "pairs.bin"), "--json", str(report)]
    assert evaluate.main([*command, "--no-cache"]) == 0
    models = json.loads(report.read_text())["models"]
    first, second = (models[name]["targets"]["pairs"]["metrics"] for name in ("mxnet", "onnx"))
    assert first.keys() == second.keys() and first["accuracy"]["value"] > 0.6
    for name, metric in first.items():
        assert second[name]["value"] == pytest.approx(metric["value"], rel=1e-5), name


def insightface_model(path: Path):
    reason = "PyPI's insightface is not installed (requirements-test.txt)"
    zoo = pytest.importorskip("insightface.model_zoo", reason=reason)
    model = zoo.get_model(str(path), providers=["CPUExecutionProvider"])
    assert type(model) is zoo.ArcFaceONNX and model.taskname == "recognition"
    assert (model.input_mean, model.input_std) == (0.0, 1.0)
    assert (tuple(model.input_size), model.input_name, model.output_names) == ((112, 112), "data", ["fc1"])
    return model


@pytest.mark.parametrize("fp16", [False, True])
def test_insightface_gives_the_same_embedding(checkpoint, tmp_path, fp16):
    path = export_model(checkpoint, tmp_path / "model.onnx", fp16=fp16, check=False).path
    model = insightface_model(path)
    images_BHWC = check_images(SIZE)
    found_BD = model.get_feat([np.ascontiguousarray(image[..., ::-1]) for image in images_BHWC])  # as cv2.imread gives
    expected_BD = load_model(checkpoint, mx.cpu(), 3).embed(images_BHWC)
    tolerance = 1e-4 if fp16 else 1e-8
    assert cosines(found_BD, expected_BD).min() > 1 - tolerance
    assert cosines(model.get_feat(list(images_BHWC)), expected_BD).min() < 1 - 10 * tolerance  # the colours swapped


def test_a_published_model_on_real_faces(shared_data, tmp_path):
    files = sorted((shared_data / "align" / "aligned").glob("*"))[::40]
    faces = [cv2.imread(str(file)) for file in files]
    images_BHWC = np.stack([cv2.cvtColor(face, cv2.COLOR_BGR2RGB) for face in faces])
    published = str(shared_data / "models" / "mobilefacenet_y1" / "model") + ",0"
    expected_BD = load_model(published, mx.cpu(), len(faces)).embed(images_BHWC)
    path = tmp_path / "mobilefacenet.onnx"
    exported = export_model(published, path, fold_batch_norm=True)
    assert (exported.folded, exported.batch_norms, exported.embedding_size) == (50, 50, 128)
    for found_BD in (
        OnnxModel(path, len(faces), ModelOptions()).embed(images_BHWC),
        insightface_model(path).get_feat(faces),
    ):
        assert np.abs(unit(found_BD) - unit(expected_BD)).max() < 1e-5
    half = export_model(published, path, fold_batch_norm=True, fp16=True)
    assert 1e-5 < half.rounded_difference < LARGEST_DIFFERENCE["float16"]
    assert cosines(OnnxModel(path, len(faces), ModelOptions()).embed(images_BHWC), expected_BD).min() > 0.9995


def test_a_directory_is_its_newest_model(checkpoint, exported, tmp_path):
    run = Path(checkpoint).parent
    path = export_model(run, tmp_path / "model.onnx", fold_batch_norm=True, check=False).path
    assert path.read_bytes() == exported.read_bytes()


def test_the_check_computes_on_the_cpu(exported, monkeypatch):
    """A GPU's convolutions round to TF32, and differ from MXNet's by more than the check allows."""
    asked: list = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    session = onnxruntime.InferenceSession

    def open_session(*arguments, providers: list, **options):
        asked.append(providers)
        return session(*arguments, providers=["CPUExecutionProvider"], **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    images_BHWC = check_images(SIZE)
    file_difference(exported, images_BHWC, np.ones((len(images_BHWC), EMBEDDING)))
    assert asked == [["CPUExecutionProvider"]] * 2
    OnnxModel(exported, 1, ModelOptions())
    assert asked[-1] == [("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]


def test_options_say_what_the_model_does_not(tmp_path):
    body = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="conv0")
    network = mx.sym.FullyConnected(body, num_hidden=5, name="embedding")
    checkpoint = write_network(tmp_path, network, 24)
    path = tmp_path / "model.onnx"
    said = ["--image-size", "24", "--colour", "bgr", "--mean", "100,110,120", "--std", "64"]
    assert main([checkpoint, str(path), *said]) == 0
    options = ModelOptions(image_size=24, colour="bgr", mean=(100.0, 110.0, 120.0), std=(64.0,))
    images_BHWC = check_images(24)
    expected_BD = load_model(checkpoint, mx.cpu(), 3, options).embed(images_BHWC)
    found_BD = OnnxModel(path, 3, ModelOptions()).embed(images_BHWC)
    np.testing.assert_allclose(unit(found_BD), unit(expected_BD), atol=1e-5)


@pytest.fixture
def swapped_weights(monkeypatch):
    """A converter that is wrong: two rows of the dense layer change places."""
    from partial_fc.onnx_file import make

    def convert(*arguments):
        graph = right(*arguments)
        graph.weights["pre_fc1_weight"] = graph.weights["pre_fc1_weight"][[1, 0, *range(2, EMBEDDING)]]
        return graph

    right = make.convert
    monkeypatch.setattr(make, "convert", convert)


@pytest.mark.parametrize("older", [False, True])
def test_a_file_that_differs_is_not_written(checkpoint, tmp_path, capsys, swapped_weights, older):
    path = tmp_path / "model.onnx"
    if older:
        path.write_bytes(b"an older one")
    assert main([checkpoint, str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert f"error: {path} is not written: its unit embeddings differ from MXNet's by" in said.err
    assert "at most 1e-04 is allowed in float32" in said.err
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("model.onnx", b"an older one")] * older
    assert main([checkpoint, str(path), "--no-check"]) == 0
    assert onnx.load(str(path)).graph.name == "face_embedding"


def test_a_difference_that_is_no_number_is_one(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("partial_fc.onnx_file.compare.file_difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="is not written: its unit embeddings differ from MXNet's by nan"):
        export_model(checkpoint, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "output", "says"),
    [
        ("{model},0", "model.pb", "written to a name that ends in .onnx, not to '.*model.pb'"),
        ("{model},0", "directory.onnx", "directory.onnx is a directory"),
        ("{model},0", "missing/model.onnx", "missing, where model.onnx is to be written, is no directory"),
        ("{model},0", "/proc/model.onnx", "cannot write /proc/model.onnx: "),
        ("{model},7", "model.onnx", "model-0007.params, which the model .*,7 needs, is not there"),
        ("nothing,0", "model.onnx", "nothing-symbol.json, which the model nothing,0 needs, is not there"),
        ("{model}", "model.onnx", "a model is given as PREFIX,EPOCH"),
        ("{model}.onnx", "model.onnx", "model.onnx is an ONNX file already: what is exported is an MXNet checkpoint"),
        ("{broken},0", "model.onnx", "broken-symbol.json does not hold an MXNet symbol"),
        ("{unknown},0", "model.onnx", "the model .*unknown,0: .*operators that cannot be written as ONNX: erfinv"),
    ],
)
def test_one_sentence_says_what_is_wrong(checkpoint, tmp_path, capsys, model, output, says):
    (tmp_path / "directory.onnx").mkdir()
    (tmp_path / "broken-symbol.json").write_text('{"nodes": []}')
    (tmp_path / "broken-0000.params").write_bytes(b"")
    strange = mx.sym.FullyConnected(mx.sym.erfinv(mx.sym.Variable("data")), num_hidden=2, name="fc1")
    write_network(tmp_path, strange, 32, name="unknown")
    before = sorted(tmp_path.iterdir())
    names = {"model": checkpoint[:-2], "broken": tmp_path / "broken", "unknown": tmp_path / "unknown"}
    assert main([model.format(**names), str(tmp_path / output)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert said.err.startswith("error: ")
    assert re.search(says, said.err), said.err
    assert sorted(tmp_path.iterdir()) == before


def test_an_image_size_that_does_not_fit_names_the_model(checkpoint, tmp_path, capsys):
    assert main([checkpoint, str(tmp_path / "model.onnx"), "--image-size", "64"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: the model {checkpoint}: it does not take images of 64×64: ")
    assert len(said.splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_known_before_the_work(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export.os, "access", lambda path, how: False)
    with pytest.raises(PermissionError, match="does not let you write"):
        export_model("nothing,0", tmp_path / "model.onnx")


def test_a_stop_in_the_middle_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def stop(*_):
        assert [one.name.startswith(".model.onnx.") for one in tmp_path.iterdir()] == [True]
        raise KeyboardInterrupt

    monkeypatch.setattr("partial_fc.onnx_file.compare.file_difference", stop)
    with pytest.raises(KeyboardInterrupt):
        export_model(checkpoint, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_nothing_can_be_compared_with(tmp_path):
    network = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc1")
    checkpoint = write_network(tmp_path, network, 32)
    for value, says in ((np.nan, "the MXNet network gives an embedding that is not finite"), (1e6, "float16 ends at")):
        arrays = mx.nd.load(f"{checkpoint[:-2]}-0000.params")
        arrays["arg:fc1_weight"][0, 0] = value
        mx.nd.save(f"{checkpoint[:-2]}-0000.params", arrays)
        with pytest.raises(ValueError, match=says):
            export_model(checkpoint, tmp_path / "model.onnx", fp16=value == 1e6)
    assert not list(tmp_path.glob("*onnx*"))
