"""ONNX files as models: what they say of their input is heeded, and what they cannot give is refused."""

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from partial_fc import limited_child
from partial_fc.evaluation import onnx_check
from partial_fc.evaluation.onnx_model import OnnxModel, model_files
from partial_fc.evaluation.pixel_form import ModelOptions, PixelForm, form_from_attributes, parse_numbers

SIZE, EMBEDDING = 4, 5
WEIGHT = np.random.default_rng(0).normal(size=(3 * SIZE * SIZE, EMBEDDING)).astype(np.float32)


def save(
    path,
    normalises=False,
    rows_first=False,
    batch="N",
    side=SIZE,
    metadata=None,
    outputs=("fc1",),
    output_nodes=None,
    initialisers_are_inputs=False,
    inputs=None,
):
    shape = [batch, side, side, 3] if rows_first else [batch, 3, side, side]
    initialisers = [numpy_helper.from_array(WEIGHT, "weight")]
    nodes, last = [], "data"
    if normalises:
        initialisers += [numpy_helper.from_array(np.float32(v), n) for n, v in (("mean", 127.5), ("scale", 0.0078125))]
        nodes += [
            helper.make_node("Sub", ["data", "mean"], ["centred"]),
            helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        ]
        last = "scaled"
    nodes.append(helper.make_node("Flatten", [last], ["flat"]))
    nodes += output_nodes or [helper.make_node("MatMul", ["flat", "weight"], [outputs[0]])]
    infos = [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)]
    if initialisers_are_inputs:
        infos += [helper.make_tensor_value_info("weight", TensorProto.FLOAT, WEIGHT.shape)]
    out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "faces", inputs or infos, out, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, str(path))
    return path


@pytest.fixture
def images_BHWC():
    return np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def embed(path, images_BHWC, **options):
    model = OnnxModel(path, len(images_BHWC), ModelOptions(**options))
    assert (model.image_size, model.embedding_size) == (SIZE, EMBEDDING)
    return model.embed(images_BHWC), model


def expected(images_BHWC, mean, std, rows_first=False):
    data = (images_BHWC.astype(np.float64) - mean) / std
    return (data if rows_first else data.transpose(0, 3, 1, 2)).reshape(len(data), -1) @ WEIGHT


def test_a_graph_that_normalises_gets_raw_pixels(tmp_path, images_BHWC):
    embeddings_BD, model = embed(save(tmp_path / "m.onnx", normalises=True), images_BHWC)
    assert embeddings_BD.dtype == np.float32
    np.testing.assert_allclose(embeddings_BD, expected(images_BHWC, 127.5, 128), rtol=1e-4, atol=1e-4)
    assert "graph normalises" in str(model.form)


def test_a_graph_that_tells_nothing_gets_insightfaces_form(tmp_path, images_BHWC):
    embeddings_BD, model = embed(save(tmp_path / "m.onnx"), images_BHWC)
    np.testing.assert_allclose(embeddings_BD, expected(images_BHWC, 127.5, 127.5), rtol=1e-4, atol=1e-4)
    assert "(pixel − 127.5) / 127.5" in str(model.form)


def test_metadata_and_options(tmp_path, images_BHWC):
    told = {"mean": "120,110,100", "std": "60", "colour": "BGR", "image_size": str(SIZE)}
    path = save(tmp_path / "m.onnx", metadata=told, side="S")
    reversed_BHWC = images_BHWC[..., ::-1]
    embeddings_BD, _ = embed(path, images_BHWC)
    np.testing.assert_allclose(embeddings_BD, expected(reversed_BHWC, [120, 110, 100], 60), rtol=1e-4, atol=1e-4)
    embeddings_BD, model = embed(path, images_BHWC, colour="rgb", mean=(0.0,), std=(255.0,))
    np.testing.assert_allclose(embeddings_BD, expected(images_BHWC, 0, 255), rtol=1e-4, atol=1e-4)
    assert "colour, mean, std by option" in str(model.form)


def test_rows_first_and_initialisers_among_the_inputs(tmp_path, images_BHWC):
    path = save(tmp_path / "m.onnx", rows_first=True, initialisers_are_inputs=True)
    embeddings_BD, _ = embed(path, images_BHWC)
    np.testing.assert_allclose(embeddings_BD, expected(images_BHWC, 127.5, 127.5, True), rtol=1e-4, atol=1e-4)


def test_a_fixed_batch_is_kept(tmp_path):
    model = OnnxModel(save(tmp_path / "m.onnx", batch=1), 64, ModelOptions())
    assert model.batch_size == 1
    assert model.embed(np.zeros((1, SIZE, SIZE, 3), np.uint8)).shape == (1, EMBEDDING)


def test_outputs(tmp_path, images_BHWC):
    nodes = [helper.make_node("MatMul", ["flat", "weight"], ["fc1"]), helper.make_node("Relu", ["fc1"], ["other"])]
    path = save(tmp_path / "m.onnx", outputs=("fc1", "other"), output_nodes=nodes)
    with pytest.raises(ValueError, match="has the outputs fc1, other: name the embedding by --output"):
        OnnxModel(path, 2, ModelOptions())
    with pytest.raises(ValueError, match="no output 'third', but fc1, other"):
        OnnxModel(path, 2, ModelOptions(output="third"))
    assert (embed(path, images_BHWC, output="other")[0] >= 0).all()
    flat = save(tmp_path / "flat.onnx", output_nodes=[helper.make_node("ReduceSum", ["flat"], ["fc1"], keepdims=0)])
    with pytest.raises(ValueError, match=r"output of .*flat.onnx must be \(N, D\), but for N = 2 it is \(\)"):
        OnnxModel(flat, 2, ModelOptions())


def test_what_is_no_model_of_faces(tmp_path):
    text = tmp_path / "text.onnx"
    for content in (b"", b"not a model", save(tmp_path / "m.onnx").read_bytes()[:100]):
        text.write_bytes(content)
        with pytest.raises(ValueError, match="text.onnx"):
            OnnxModel(text, 2, ModelOptions())
    with pytest.raises(ValueError, match="takes images of 4×4, not of 8×8"):
        OnnxModel(tmp_path / "m.onnx", 2, ModelOptions(image_size=8))
    vector = [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 48])]
    with pytest.raises(ValueError, match=r"must take images \(N, 3, S, S\)"):
        OnnxModel(save(tmp_path / "v.onnx", inputs=vector), 2, ModelOptions())
    two = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 4, 4]) for name in ("data", "more")]
    with pytest.raises(ValueError, match="must have one input, but has data, more"):
        OnnxModel(save(tmp_path / "two.onnx", inputs=two), 2, ModelOptions())


def test_weights_apart_are_files_of_the_model(tmp_path):
    model = onnx.load(str(save(tmp_path / "m.onnx")))
    onnx.save(model, str(tmp_path / "large.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=1)
    assert model_files(tmp_path / "large.onnx") == [tmp_path / "large.onnx", tmp_path / "weights.bin"]


@pytest.mark.parametrize("name", ["../weights.bin", "/etc/passwd", "a/../../weights.bin"])
def test_weights_outside_the_directory_are_refused(tmp_path, name):
    model = onnx.load(str(save(tmp_path / "m.onnx")))
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], name)
    (tmp_path / "large.onnx").write_bytes(model.SerializeToString())
    for read in (model_files, lambda path: OnnxModel(path, 2, ModelOptions())):
        with pytest.raises(ValueError, match=r"keeps weights in .*: they must lie in its own directory"):
            read(tmp_path / "large.onnx")


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"ends the process that loads it \(signal 11\)"),
        ("import signal; signal.pause()", "to load it, it takes more than"),
    ],
)
def test_a_file_that_ends_its_process_is_refused(tmp_path, monkeypatch, program, says):
    monkeypatch.setattr(onnx_check, "_TRY", program)
    monkeypatch.setattr(limited_child, "_SECONDS", 1)
    with pytest.raises(ValueError, match=f"m.onnx is not an ONNX model.*{says}"):
        OnnxModel(save(tmp_path / "m.onnx"), 2, ModelOptions())


def test_mutations_are_an_error_or_an_answer(tmp_path):
    content, path = save(tmp_path / "m.onnx").read_bytes(), tmp_path / "changed.onnx"
    for seed in range(10):
        rng, changed = np.random.default_rng(seed), bytearray(content)
        for at in rng.integers(len(content), size=3):
            changed[at] = rng.integers(256)
        path.write_bytes(changed[: rng.integers(len(content) // 2, 2 * len(content))])
        with contextlib.suppress(ValueError):
            OnnxModel(path, 2, ModelOptions())


def test_forms_of_pixels():
    assert form_from_attributes({"anything": "1"}) is None
    form = form_from_attributes({"__mean__": "127.5", "__std__": "[128, 128, 128]"})
    assert (form.mean, form.std, form.colour) == ((127.5,), (128.0, 128.0, 128.0), "rgb")
    pixels = np.array([[[[0, 127.5, 255]]]])
    np.testing.assert_array_equal(form.apply(pixels), (pixels - 127.5) / 128)
    for broken, reason in (
        ({"colour": "hsv"}, "must be rgb or bgr, not 'hsv'"),
        ({"std": (0.0,)}, "must not be 0"),
        ({"mean": (1.0, 2.0)}, "one number or three"),
        ({"mean": (float("nan"),)}, "one number or three"),
    ):
        with pytest.raises(ValueError, match=reason):
            PixelForm(**broken)
    with pytest.raises(ValueError, match="not 'many'"):
        parse_numbers("many")
