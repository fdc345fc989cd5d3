"""Evaluation as the ranks of a launcher: the published model's score, and one rank's trouble told to all."""

import json
import re

import cv2
import mxnet as mx
import numpy as np
import pytest

from partial_fc.evaluation.verification_set import save_bin

pytestmark = pytest.mark.real_ranks


def test_a_published_model_scores_what_its_authors_say(run_ranks, shared_data, tmp_path):
    """InsightFace's MobileFaceNet: 99.50 on LFW."""
    model = shared_data / "models" / "mobilefacenet_y1" / "model"
    numbers = tmp_path / "numbers.json"
    arguments = [f"{model},0", "--val", shared_data / "lfw" / "val.bin", "--json", numbers, "--no-cache"]
    run = run_ranks(2, "-m", "partial_fc.evaluate", *arguments, timeout_seconds=280)
    assert run.status == 0, run
    assert len(re.findall(r"99\.\d\d ± 0\.\d\d", run.stdout)) == 1, "one rank alone prints the table"
    (measured,) = json.loads(numbers.read_text())["models"].values()
    result = measured["targets"]["val"]
    assert result["counts"]["pairs"] == 1200
    assert abs(100 * result["metrics"]["accuracy"]["value"] - 99.5) <= 0.2
    assert 11.0 < result["metrics"]["XNorm"]["value"] < 11.2


@pytest.fixture
def two_models(tmp_path):
    """A program that evaluates, on rank k, the model that its argument k names; and a set and a model for it."""
    graph = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, no_bias=True, name="fc1")
    graph.save(str(tmp_path / "model-symbol.json"))
    mx.nd.save(str(tmp_path / "model-0000.params"), {"arg:fc1_weight": mx.nd.ones((3, 3 * 8 * 8))})
    image = cv2.imencode(".png", np.full((8, 8, 3), 50, np.uint8))[1].tobytes()
    save_bin(tmp_path / "pairs.bin", [image] * 40, np.arange(20) % 2 == 0)
    (tmp_path / "program.py").write_text(
        "import os, sys\n"
        "from partial_fc.evaluate import main\n"
        "rank = os.environ.get('OMPI_COMM_WORLD_RANK') or os.environ['HOROVOD_RANK']\n"
        "model, pairs = sys.argv[1 + int(rank)], sys.argv[3]\n"
        "sys.exit(main([model, '--val', pairs, '--image-size', '8', '--no-cache']))\n"
    )
    return tmp_path


def test_ranks_of_gloo(run_ranks, two_models):
    model = f"{two_models}/model,0"
    run = run_ranks(2, two_models / "program.py", model, model, two_models / "pairs.bin", launcher="gloo")
    assert run.status == 0, run
    assert run.stdout.count("50.00 ± ") == 1, run


@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_what_one_rank_lacks_ends_all(run_ranks, two_models, launcher):
    """Rank 1 alone does not find its model; rank 0, which did, may not wait for it."""
    arguments = [f"{two_models}/model,0", f"{two_models}/none,0", two_models / "pairs.bin"]
    run = run_ranks(2, two_models / "program.py", *arguments, launcher=launcher)
    assert run.status != 0, run
    assert re.search("error: rank 1: .*none-symbol.json, which the model", run.stderr), run
    assert "accuracy" not in run.stdout, run
