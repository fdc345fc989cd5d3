"""The evaluation command: what it prints and writes, and one sentence for what it cannot use."""

import json
import os
import re
import subprocess
import sys

import cv2
import mxnet as mx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from partial_fc.evaluate import main
from partial_fc.evaluation.verification_set import save_bin

SIZE = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model whose embedding is a random projection of the pixels."""
    directory = tmp_path_factory.mktemp("model")
    data = (mx.sym.Variable("data") - 127.5) * 0.0078125
    graph = mx.sym.FullyConnected(data, num_hidden=16, no_bias=True, name="fc1")
    graph.save(str(directory / "model-symbol.json"))
    weight = np.random.default_rng(0).normal(size=(16, 3 * SIZE * SIZE))
    mx.nd.save(str(directory / "model-0000.params"), {"arg:fc1_weight": mx.nd.array(weight)})
    return f"{directory}/model,0"


@pytest.fixture
def bins(tmp_path):
    """Two sets of 20 pairs, and the noise of their second images alone tells them apart."""
    paths = []
    for name, noise in (("easy", 5), ("hard", 130)):
        rng = np.random.default_rng(noise)
        images, is_same = [], np.arange(20) % 2 == 0
        for same in is_same:
            first = rng.integers(0, 256, (SIZE, SIZE, 3))
            second = first if same else rng.integers(0, 256, (SIZE, SIZE, 3))
            noisy = np.clip(second + rng.normal(size=second.shape) * noise, 0, 255)
            images += [cv2.imencode(".png", image.astype(np.uint8))[1].tobytes() for image in (first, noisy)]
        paths.append(tmp_path / f"{name}.bin")
        save_bin(paths[-1], images, is_same)
    return paths


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where embeddings are kept when nothing is said."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "partial_fc" / "embeddings"


def metrics_of(path, target, model=None):
    models = json.loads(path.read_text())["models"]
    return models[model or next(iter(models))]["targets"][target]["metrics"]


def test_the_table_and_the_numbers(checkpoint, bins, tmp_path, capsys):
    easy, hard = map(str, bins)
    path = tmp_path / "numbers.json"
    assert main([checkpoint, "--val", easy, "--val", hard, "--batch-size", "7", "--json", str(path)]) == 0
    heading, *rows, note = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["target", "pairs", "accuracy", "TAR@FAR=1e-01"]
    assert heading.split()[-4:] == ["AUC", "EER", "threshold", "XNorm"]
    assert [row.split()[:2] for row in rows] == [["easy", "20"], ["hard", "20"]]
    assert note.startswith("* without a single false accept")
    easy, hard = metrics_of(path, "easy"), metrics_of(path, "hard")
    assert easy["accuracy"]["value"] == 1.0 > hard["accuracy"]["value"]
    assert "100.00 ± 0.00" in rows[0]
    assert f"{100 * hard['accuracy']['value']:.2f} ± {100 * hard['accuracy']['deviation']:.2f}" in rows[1]
    points = {name: point for name, point in hard.items() if name.startswith("TAR")}
    assert list(points) == [f"TAR@FAR=1e-0{power}" for power in range(1, 7)]
    assert [point["is_resolved"] for point in points.values()] == [True] + [False] * 5


def test_options_change_what_they_say(checkpoint, bins, tmp_path):
    def numbers(*options):
        path = tmp_path / "numbers.json"
        assert main([checkpoint, "--val", str(bins[1]), "--json", str(path), *options]) == 0
        (model,) = json.loads(path.read_text())["models"].values()
        target = model["targets"]["hard"]
        return target["details"]["fold_accuracies"], target["details"]["fold_thresholds"], target["metrics"]

    accuracies, thresholds, metrics = numbers()
    assert len(accuracies) == 10
    assert len(numbers("--folds", "4")[0]) == 4
    assert numbers("--no-flip")[2]["XNorm"] != metrics["XNorm"]
    assert numbers("--batch-size", "3", "--image-size", "32", "--no-cache")[0] == accuracies
    on_the_grid = np.array(thresholds) * 100
    assert np.allclose(on_the_grid, np.round(on_the_grid))
    off_the_grid = np.array(numbers("--exact-thresholds")[1]) * 100
    assert not np.allclose(off_the_grid, np.round(off_the_grid))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{model}", "--val", "{tmp}/none.bin"], "No such file or directory: '.*none.bin'"),
        (["{model}", "--val", "{tmp}/text.bin"], "text.bin is not a pickle of plain values"),
        (["{model}", "--val", "{easy}", "--val", "{easy}"], "a name of its own .* but they are easy, easy"),
        (["{model}", "--val", "{easy}", "--folds", "21"], "easy: there must be 2 folds .* not 21 of 20"),
        (["{model}", "--val", "{easy}", "--batch-size", "0"], "batch size must be at least 1, but is 0"),
        (["{model}", "--val", "{easy}", "--image-size", "33"], "does not take images of 33×33"),
        (["{model}", "--val", "{one_kind}"], "one_kind: .* all 12 are of one person"),
        (["{model}", "--val", "{broken}"], "image 1 of broken is neither JPEG nor PNG"),
        (["{model}", "--val", "{easy}", "--json", "{tmp}/none/out.json"], "none, where --json .* is no directory"),
        (["{tmp}/none,0", "--val", "{easy}"], "none-symbol.json, which the model .* needs, is not there"),
        (["{tmp}/none", "--val", "{easy}"], "given as PREFIX,EPOCH"),
    ],
)
def test_one_sentence_for_what_it_cannot_use(checkpoint, bins, tmp_path, capsys, arguments, reason):
    (tmp_path / "text.bin").write_text("pairs")
    image = cv2.imencode(".png", np.zeros((SIZE, SIZE, 3), np.uint8))[1].tobytes()
    save_bin(tmp_path / "one_kind.bin", [image] * 24, [True] * 12)
    save_bin(tmp_path / "broken.bin", [image, image[:4]] * 12, np.arange(12) % 2 == 0)
    places = {name: tmp_path / f"{name}.bin" for name in ("easy", "one_kind", "broken")}
    assert main([a.format(model=checkpoint, tmp=tmp_path, **places) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    assert re.search(reason, line), line


def test_the_command_runs_alone(checkpoint, bins):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "partial_fc.evaluate", checkpoint, "--val", bins[0]]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "100.00 ± 0.00" in result.stdout


@pytest.fixture
def onnx_model(checkpoint, tmp_path):
    """The same projection as an ONNX file that tells nothing of its input: (pixel − 127.5) / 127.5."""
    weight = mx.nd.load(checkpoint.replace(",0", "-0000.params"))["arg:fc1_weight"].asnumpy()
    flatten = helper.make_node("Flatten", ["data"], ["flat"])
    nodes = [flatten, helper.make_node("Gemm", ["flat", "w"], ["out"], transB=1)]
    shapes = [("data", ["N", 3, SIZE, SIZE]), ("out", ["N", 16])]
    data, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes)
    graph = helper.make_graph(nodes, "faces", [data], [out], [numpy_helper.from_array(weight, "w")])
    path = tmp_path / "projection.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def test_models_of_both_kinds_side_by_side(checkpoint, onnx_model, bins, tmp_path, capsys, cache):
    report = tmp_path / "report"
    models = [checkpoint, f"other={onnx_model}"]
    assert main([*models, "--targets", f"lfw={bins[1]}", "--report", str(report), "--compare", "paper"]) == 0
    heading, ours, other, published, _ = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["target", "model", "pairs"]
    assert [ours.split()[1], other.split()[1]] == ["model,0", "other"]
    assert ours.split()[2:6] == other.split()[2:6], "scaling does not change a cosine"
    assert published.split() == ["lfw", "Partial", "FC", "(paper)", "99.83"]
    mxnet, converted = (metrics_of(report / "report.json", "lfw", model) for model in ("model,0", "other"))
    assert converted["XNorm"]["value"] == pytest.approx(mxnet["XNorm"]["value"] * 128 / 127.5, rel=1e-4)
    names = {path.name for path in report.iterdir()}
    assert {"report.md", "report.csv", "roc-lfw.png", "worst-pairs-lfw-other.png", "scores-lfw-model-0.png"} <= names
    assert len(list(cache.iterdir())) == 4, "two views of two models"


def test_a_second_run_reads_what_the_first_kept(checkpoint, bins, tmp_path, capsys, caplog):
    command = [checkpoint, "--val", str(bins[1])]
    with caplog.at_level("INFO"):
        assert main([*command, "--no-cache"]) == 0
        assert not (tmp_path / "cache").exists()
        assert main([*command, "--cache-directory", str(tmp_path / "kept")]) == 0
        assert "come from the cache" not in caplog.text
        assert main([*command, "--cache-directory", str(tmp_path / "kept")]) == 0
        assert "embeddings of the mirrors by model,0 come from the cache" in caplog.text
    tables = capsys.readouterr().out.split("target ")
    assert tables[1] == tables[2] == tables[3]


def test_help_for_targets(capsys):
    assert main(["--targets", "help"]) == 0
    text = capsys.readouterr().out
    assert "ytf=PATH  splits.txt of YouTube Faces" in text and "    images=  " in text
    kinds = (
        "lfw cfp_fp cfp_ff agedb30 calfw cplfw sllfw vgg2_fp pairs ytf ijbb ijbc megaface ifrt rfw"
    )
    assert re.findall(r"^(\w+)=PATH  \S", text, re.MULTILINE) == kinds.split()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{model}", "{model}", "--targets", "lfw={easy}"], "each model must have a name of its own"),
        (["{tmp}/none.onnx", "--targets", "lfw={easy}"], "none.onnx is not there"),
        (["{tmp}/text.onnx", "--targets", "lfw={easy}"], "text.onnx is not an ONNX model"),
        (["{model}", "--targets", "lfw={easy}", "lfw={easy}"], "each target must have a name of its own .* lfw, lfw"),
        (["{model}", "--targets", "lwf={easy}"], "no kind of target 'lwf': known are "),
        (["{model}", "--targets", "lfw={easy}", "--mean", "many"], "one number or three"),
        (["{model}", "--targets", "lfw={easy}", "--output", "fc9"], "has no output 'fc9'"),
        (["{model}", "--targets", "lfw={tmp}/pairs.txt,images={tmp}"], "4 of its 4 images are not there: .*a_0001"),
    ],
)
def test_one_sentence_for_targets_and_models(checkpoint, bins, tmp_path, capsys, arguments, reason):
    (tmp_path / "text.onnx").write_text("text")
    (tmp_path / "pairs.txt").write_text("1 1\na 1 2\nb 1 c 1\n")
    assert main([a.format(model=checkpoint, tmp=tmp_path, easy=bins[0]) for a in arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert captured.out == "" and line.startswith("error: ")
    assert re.search(reason, line), line


def test_something_to_evaluate_on_is_needed(checkpoint, capsys):
    with pytest.raises(SystemExit) as error:
        main([checkpoint])
    assert error.value.code == 2
    assert "name what to evaluate on" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        main(["--targets", "lfw=lfw.bin"])
    assert error.value.code == 2
    assert "name a model: PREFIX,EPOCH" in capsys.readouterr().err
