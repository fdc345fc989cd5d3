"""Models by the names of the command line, and digests that change with all that an embedding depends on."""

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from partial_fc.evaluation.open_model import model_digest, open_model, parse_models
from partial_fc.evaluation.pixel_form import ModelOptions

SIZE = 8


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["models/r50/model,0"], ["model,0"]),
        (["models/r50/model,0", "models/r100/model,0"], ["r50/model,0", "r100/model,0"]),
        (["models/r50/model,0", "models/r50/model,1"], ["model,0", "model,1"]),
        (["ours=models/r50/model,0", "models/r100.onnx"], ["ours", "r100.onnx"]),
        (["a/b=c/model,0"], ["model,0"]),
    ],
)
def test_names(texts, names):
    assert [model.name for model in parse_models(texts)] == names


@pytest.mark.parametrize("texts", [["a/model,0", "a/model,0"], ["x=a,0", "x=b,0"]])
def test_two_models_of_one_name(texts):
    with pytest.raises(ValueError, match="each model must have a name of its own"):
        parse_models(texts)


def save(folder: Path, scale: float) -> str:
    folder.mkdir()
    graph = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, no_bias=True, name="fc1")
    graph.save(str(folder / "model-symbol.json"))
    weight = scale * np.random.default_rng(0).normal(size=(3, 3 * SIZE * SIZE))
    mx.nd.save(str(folder / "model-0000.params"), {"arg:fc1_weight": mx.nd.array(weight)})
    return f"{folder}/model,0"


def test_digests(tmp_path):
    one, same, other = save(tmp_path / "a", 1), save(tmp_path / "b", 1), save(tmp_path / "c", 2)

    def digest(text, batch_size=4, **options):
        said = ModelOptions(image_size=SIZE, **options)
        (model,) = parse_models([text])
        return model_digest(model, open_model(model, mx.cpu(), batch_size, said), said.output)

    plain = digest(one)
    assert plain == digest(same) == digest(one, batch_size=1)
    changed = [digest(other), digest(one, colour="bgr"), digest(one, mean=(127.5,)), digest(one, std=(128.0,))]
    assert len({plain, *changed, digest(one, output="fc1_output")}) == 6


def test_a_batch_must_hold_an_image(tmp_path):
    (model,) = parse_models([save(tmp_path / "a", 1)])
    with pytest.raises(ValueError, match="batch size must be at least 1, but is 0"):
        open_model(model, mx.cpu(), 0, ModelOptions(image_size=SIZE))
