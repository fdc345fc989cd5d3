"""Checkpoints load when graph and parameters belong together, and say what is wrong when they do not."""

import json

import mxnet as mx
import numpy as np
import pytest

from partial_fc.evaluation.model import load_model
from partial_fc.evaluation.pixel_form import ModelOptions

SIZE = 32
EMBEDDING_SIZE = 7


def small_graph(output_name="fc1", normalise=True):
    data = mx.sym.Variable("data")
    if normalise:
        data = (data - 127.5) * 0.0078125
    conv = mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), stride=(2, 2), name="conv0")
    norm = mx.sym.BatchNorm(conv, fix_gamma=False, name="bn0")
    dense = mx.sym.FullyConnected(norm, num_hidden=EMBEDDING_SIZE, name="pre_fc1")
    return mx.sym.BatchNorm(dense, fix_gamma=True, eps=2e-5, name=output_name)


def random_parameters(graph, size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    arguments, _, auxiliary = graph.infer_shape(data=(1, 3, size, size))
    arrays = {}
    for kind, names, shapes in [
        ("arg", graph.list_arguments(), arguments),
        ("aux", graph.list_auxiliary_states(), auxiliary),
    ]:
        for name, shape in zip(names, shapes, strict=True):
            if name != "data":
                arrays[f"{kind}:{name}"] = mx.nd.array(rng.uniform(0.1, 1, shape))
    return arrays


def save(directory, graph, parameters, epoch=0):
    graph.save(str(directory / "model-symbol.json"))
    mx.nd.save(str(directory / f"model-{epoch:04d}.params"), parameters)
    return f"{directory}/model,{epoch}"


def forward(graph, parameters, images_BHWC):
    """By an executor, in inference, an image at a time."""
    rows = []
    for image_HWC in images_BHWC:
        executor = graph.simple_bind(mx.cpu(), data=(1, 3, *image_HWC.shape[:2]))  # gradients: no subgraphs
        for name, array in parameters.items():
            kind, name = name.split(":")
            (executor.arg_dict if kind == "arg" else executor.aux_dict)[name][:] = array
        executor.arg_dict["data"][:] = image_HWC.transpose(2, 0, 1)[None].astype(np.float32)
        rows.append(executor.forward(is_train=False)[0].asnumpy()[0])
    return np.array(rows)


@pytest.fixture
def images_BHWC():
    return np.random.default_rng(2).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("epoch", [0, 12, 12345])
def test_embeddings_are_the_graphs(tmp_path, images_BHWC, epoch):
    graph = small_graph()
    parameters = random_parameters(graph)
    model = load_model(save(tmp_path, graph, parameters, epoch), mx.cpu(), 3)
    assert (model.batch_size, model.image_size, model.embedding_size) == (3, SIZE, EMBEDDING_SIZE)
    expected_BD = forward(graph, parameters, images_BHWC)
    for order in (slice(None), slice(None, None, -1), slice(None)):  # a second batch runs like the first
        embeddings_BD = model.embed(np.ascontiguousarray(images_BHWC[order]))
        assert embeddings_BD.dtype == np.float32
        np.testing.assert_allclose(embeddings_BD, expected_BD[order], rtol=1e-4)


def test_the_embedding_is_found_below_a_classifier(tmp_path, images_BHWC):
    graph = small_graph()
    parameters = random_parameters(graph)
    classifier = mx.sym.FullyConnected(mx.sym.L2Normalization(graph), num_hidden=11, name="fc7")
    model = load_model(save(tmp_path, classifier, random_parameters(classifier) | parameters), mx.cpu(), 3)
    expected = forward(graph, parameters, images_BHWC)
    np.testing.assert_allclose(model.embed(images_BHWC), expected, rtol=1e-4)
    without_classifier = save(tmp_path, classifier, parameters)
    model = load_model(without_classifier, mx.cpu(), 3)
    np.testing.assert_allclose(model.embed(images_BHWC), expected, rtol=1e-4)


def test_a_single_output_of_another_name_is_the_embedding(tmp_path, images_BHWC):
    graph = small_graph("embedding")
    parameters = random_parameters(graph)
    model = load_model(save(tmp_path, graph, parameters), mx.cpu(), 3)
    np.testing.assert_allclose(model.embed(images_BHWC), forward(graph, parameters, images_BHWC), rtol=1e-4)


@pytest.mark.parametrize("size", [112, 56, 64])
def test_the_image_size_is_what_the_parameters_allow(tmp_path, size):
    graph = small_graph()
    checkpoint = save(tmp_path, graph, random_parameters(graph, size))
    assert load_model(checkpoint, mx.cpu(), 2).image_size == size
    assert load_model(checkpoint, mx.cpu(), 2, options=ModelOptions(image_size=size)).image_size == size
    with pytest.raises(ValueError, match="does not take images of 50×50"):
        load_model(checkpoint, mx.cpu(), 2, options=ModelOptions(image_size=50))


def test_a_usual_size_must_fit(tmp_path):
    graph = small_graph()
    checkpoint = save(tmp_path, graph, random_parameters(graph, 41))
    with pytest.raises(ValueError, match="does not take images of 112×112"):
        load_model(checkpoint, mx.cpu(), 2)
    assert load_model(checkpoint, mx.cpu(), 2, options=ModelOptions(image_size=41)).image_size == 41


def without(names):
    return lambda parameters: {name: array for name, array in parameters.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without(["arg:conv0_weight"]), r"lacks 1 of the graph's parameters \(conv0_weight\)"),
        (without(["aux:bn0_moving_var", "arg:bn0_beta"]), r"lacks 2 .*\(bn0_beta, bn0_moving_var\)"),
        (lambda p: p | {"arg:other": mx.nd.ones(3)}, r"has 1 that the graph does not know \(other\)"),
        (
            lambda p: without(["arg:conv0_bias"])(p) | {f"arg:x{i:02d}": mx.nd.ones(3) for i in range(12)},
            r"lacks 1 .*\(conv0_bias\) and has 12 .*\(x00, .*x09 and 2 more\)",
        ),
        (lambda p: p | {"arg:conv0_weight": mx.nd.ones((4, 3, 5, 5))}, "does not take images"),
        (lambda p: list(p.values()), "does not hold the named parameters"),
        (lambda p: {}, "does not hold the named parameters"),
    ],
)
def test_graph_and_parameters_must_belong_together(tmp_path, change, reason):
    graph = small_graph()
    with pytest.raises(ValueError, match=f"model.*{reason}"):
        load_model(save(tmp_path, graph, change(random_parameters(graph))), mx.cpu(), 2)


def test_the_output_must_be_an_embedding_an_image(tmp_path):
    data = mx.sym.Variable("data")
    feature_map = mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), name="fc1")
    with pytest.raises(ValueError, match=r"output must be \(N, D\), but for N = 2 it is \(2, 4, 110, 110\)"):
        load_model(save(tmp_path, feature_map, random_parameters(feature_map)), mx.cpu(), 2)
    both = mx.sym.Group([mx.sym.identity(feature_map, name="one"), mx.sym.identity(feature_map, name="two")])
    branches = mx.sym.Group([mx.sym.Pooling(data, kernel=(2, 2), name=name) for name in ("one", "two")])
    with pytest.raises(ValueError, match="one output, or fc1_output, but has one_output, two_output"):
        load_model(save(tmp_path, branches, {"arg:w": mx.nd.ones(1)}), mx.cpu(), 2)
    with pytest.raises(ValueError, match=r"it is \(2, 4, 110, 110\)"):
        load_model(save(tmp_path, both, random_parameters(feature_map)), mx.cpu(), 2)
    nothing = mx.sym.FullyConnected(mx.sym.Variable("picture"), num_hidden=3, name="fc1")
    with pytest.raises(ValueError, match="takes no input 'data', but picture, fc1_weight, fc1_bias"):
        load_model(save(tmp_path, nothing, {"arg:fc1_bias": mx.nd.ones(3)}), mx.cpu(), 2)


@pytest.mark.parametrize("checkpoint", ["model", "model,", ",0", "model,x", "model,-1", "model,²", ""])
def test_a_checkpoint_is_a_prefix_and_an_epoch(checkpoint):
    with pytest.raises(ValueError, match="given as PREFIX,EPOCH"):
        load_model(checkpoint, mx.cpu(), 2)


def test_files_must_be_there_and_be_what_they_should(tmp_path):
    graph = small_graph()
    checkpoint = save(tmp_path, graph, random_parameters(graph))
    with pytest.raises(FileNotFoundError, match="model-0001.params, which the model"):
        load_model(checkpoint.replace(",0", ",1"), mx.cpu(), 2)
    with pytest.raises(ValueError, match="batch size must be at least 1, but is 0"):
        load_model(checkpoint, mx.cpu(), 0)
    parameters = tmp_path / "model-0000.params"
    for content in (b"", b"not parameters", parameters.read_bytes()[:100]):
        parameters.write_bytes(content)
        with pytest.raises(ValueError, match="model-0000.params does not hold MXNet parameters"):
            load_model(checkpoint, mx.cpu(), 2)
    for content in (b"", b"{}", b"not a symbol"):
        (tmp_path / "model-symbol.json").write_bytes(content)
        with pytest.raises(ValueError, match="model-symbol.json does not hold an MXNet symbol"):
            load_model(checkpoint, mx.cpu(), 2)
    (tmp_path / "model-symbol.json").unlink()
    with pytest.raises(FileNotFoundError, match="model-symbol.json, which the model"):
        load_model(checkpoint, mx.cpu(), 2)


def test_the_form_of_pixels_comes_from_options(tmp_path, images_BHWC):
    graph = small_graph(normalise=False)
    parameters = random_parameters(graph)
    checkpoint = save(tmp_path, graph, parameters)
    plain = load_model(checkpoint, mx.cpu(), 3)
    assert "does not normalise" in str(plain.form)
    np.testing.assert_allclose(plain.embed(images_BHWC), forward(graph, parameters, images_BHWC), rtol=1e-4)
    options = ModelOptions(colour="bgr", mean=(100.0, 110.0, 120.0), std=(64.0,))
    pixels_BHWC = (images_BHWC[..., ::-1].astype(np.float32) - [100, 110, 120]) / 64
    told = load_model(checkpoint, mx.cpu(), 3, options)
    np.testing.assert_allclose(told.embed(images_BHWC), forward(graph, parameters, pixels_BHWC), rtol=1e-3, atol=1e-4)


def test_the_form_of_pixels_and_the_size_come_from_attributes(tmp_path, images_BHWC):
    graph = small_graph(normalise=False)
    parameters = random_parameters(graph)
    checkpoint = save(tmp_path, graph, parameters)
    path = tmp_path / "model-symbol.json"
    nodes = json.loads(path.read_text())
    (data,) = (node for node in nodes["nodes"] if node["name"] == "data")
    data["attrs"] = {"__mean__": "127.5", "__std__": "128", "__image_size__": str(SIZE)}
    path.write_text(json.dumps(nodes))
    told = load_model(checkpoint, mx.cpu(), 3)
    assert (told.image_size, told.form.said_by) == (SIZE, "the model's attributes")
    pixels_BHWC = (images_BHWC.astype(np.float32) - 127.5) / 128
    np.testing.assert_allclose(told.embed(images_BHWC), forward(graph, parameters, pixels_BHWC), rtol=1e-3, atol=1e-4)
    data["attrs"]["__mean__"] = "dark"
    path.write_text(json.dumps(nodes))
    with pytest.raises(ValueError, match="one number or three"):
        load_model(checkpoint, mx.cpu(), 3)


def test_a_graph_that_normalises_is_seen(tmp_path):
    graph = small_graph()
    assert "graph normalises" in str(load_model(save(tmp_path, graph, random_parameters(graph)), mx.cpu(), 1).form)
    data = mx.sym.BatchNorm(mx.sym.identity(mx.sym.Variable("data")), name="bn_data")
    graph = mx.sym.FullyConnected(data, num_hidden=3, name="fc1")
    assert "graph normalises" in str(load_model(save(tmp_path, graph, random_parameters(graph)), mx.cpu(), 1).form)


def test_another_output_can_be_named(tmp_path, images_BHWC):
    graph = small_graph()
    parameters = random_parameters(graph)
    checkpoint = save(tmp_path, graph, parameters)
    model = load_model(checkpoint, mx.cpu(), 3, ModelOptions(output="pre_fc1_output"))
    before = graph.get_internals()["pre_fc1_output"]
    kept = {name: value for name, value in parameters.items() if name.split(":")[1] in before.list_inputs()}
    np.testing.assert_allclose(model.embed(images_BHWC), forward(before, kept, images_BHWC), rtol=1e-4)
    with pytest.raises(ValueError, match="no output 'fc9': its last are .*fc1_output"):
        load_model(checkpoint, mx.cpu(), 3, ModelOptions(output="fc9"))


def test_a_published_model(shared_data, images_BHWC):
    prefix = shared_data / "models" / "mobilefacenet_y1" / "model"
    model = load_model(f"{prefix},0", mx.cpu(), 1)
    assert (model.image_size, model.embedding_size) == (112, 128)
    image_BHWC = np.random.default_rng(4).integers(0, 256, (1, 112, 112, 3), np.uint8)
    parameters = mx.nd.load(f"{prefix}-0000.params")
    expected = forward(mx.sym.load(f"{prefix}-symbol.json"), parameters, image_BHWC)
    for _ in range(2):
        np.testing.assert_allclose(model.embed(image_BHWC), expected, rtol=1e-3, atol=1e-4)
