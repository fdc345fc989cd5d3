"""Evaluation as the ranks of a launcher: the published model's score, and one rank's trouble told to all."""

import json
import os
import re
import sys
import tarfile
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest

from partial_fc.evaluation.verification_set import save_bin

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation"))

from ijb_miniature import write_ijb, write_image  # noqa: E402

pytestmark = pytest.mark.real_ranks


def evaluate_mobilefacenet(run_ranks, shared_data, folder, pairs, images, ranks, timeout_seconds):
    model = shared_data / "models" / "mobilefacenet_y1" / "model"
    numbers = folder / f"numbers-{ranks}.json"
    target = f"lfw={pairs},images={images}"
    arguments = [f"{model},0", "--targets", target, "--json", numbers, "--no-cache"]
    run = run_ranks(ranks, "-m", "partial_fc.evaluate", *arguments, timeout_seconds=timeout_seconds)
    assert run.status == 0, run
    assert len(re.findall(r"\d\d\.\d\d ± \d\.\d\d", run.stdout)) == 1, "one rank alone prints the table"
    (measured,) = json.loads(numbers.read_text())["models"].values()
    return measured["targets"]["lfw"]


@pytest.fixture(scope="module")
def view2(shared_data, tmp_path_factory):
    """The images of LFW's View 2, and the lines of its list."""
    folder = tmp_path_factory.mktemp("view2")
    with tarfile.open(shared_data / "lfw" / "view2_images.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder, (shared_data / "lfw" / "view2_pairs.txt").read_text().splitlines()


@pytest.mark.timeout(900)
def test_a_published_model_on_two_folds(run_ranks, shared_data, view2, tmp_path):
    """InsightFace's MobileFaceNet on the first two folds of the official list."""
    images, lines = view2
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(["2\t300", *lines[1:1201]]) + "\n")
    result = evaluate_mobilefacenet(run_ranks, shared_data, tmp_path, pairs, images, 2, 850)
    assert (result["counts"]["pairs"], result["counts"]["folds"]) == (1200, 2)
    assert abs(100 * result["metrics"]["accuracy"]["value"] - 99.45) <= 0.3
    assert 11.0 < result["metrics"]["XNorm"]["value"] < 11.3


@pytest.mark.skipif("PARTIAL_FC_LONG_TESTS" not in os.environ, reason="takes minutes: set PARTIAL_FC_LONG_TESTS=1")
@pytest.mark.timeout(3600)
def test_a_published_model_scores_what_is_published(run_ranks, shared_data, view2, tmp_path):
    """All 6,000 pairs: 99.45 ± 0.47, pair-weighted XNorm 11.13, the same on 1 and 2 ranks."""
    images, _ = view2
    pairs = shared_data / "lfw" / "view2_pairs.txt"
    results = [
        evaluate_mobilefacenet(run_ranks, shared_data, tmp_path, pairs, images, ranks, 1700) for ranks in (1, 2)
    ]
    assert results[0] == results[1]
    metrics = results[0]["metrics"]
    assert results[0]["counts"] == {
        "pairs": 6000, "images": 7701, "positives": 3000, "negatives": 3000, "folds": 10
    }  # fmt: skip
    assert abs(100 * metrics["accuracy"]["value"] - 99.45) <= 0.15
    assert abs(metrics["XNorm"]["value"] - 11.13) <= 0.01


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


def test_templates_and_groups_give_the_same_numbers_on_any_number_of_ranks(run_ranks, tmp_path):
    """The command on IJB-C's and IFRT's miniatures, a model that averages fields of the image."""
    fields = mx.sym.Pooling(mx.sym.Variable("data"), kernel=(37, 37), stride=(37, 37), pool_type="avg")
    graph = mx.sym.FullyConnected(fields - 120.5, num_hidden=27, no_bias=True, name="fc1")
    graph.save(str(tmp_path / "model-symbol.json"))
    mx.nd.save(str(tmp_path / "model-0000.params"), {"arg:fc1_weight": mx.nd.eye(27)})
    ijbc = write_ijb(tmp_path / "IJBC")
    lines = []
    for place in range(24):
        write_image(tmp_path / "faces" / f"{place}.png", place % 8 // 2, place)
        lines.append(f"{place}.png p{place % 8} {'Asian' if place % 2 else 'Indian'}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    targets = [f"ijbc={ijbc},insightface=yes", f"ifrt={tmp_path}/list.txt,images={tmp_path}/faces"]
    results = []
    for ranks in (1, 2, 4):
        numbers = tmp_path / f"{ranks}.json"
        arguments = [f"{tmp_path}/model,0", "--targets", *targets, "--image-size", "112", "--batch-size", "4"]
        run = run_ranks(ranks, "-m", "partial_fc.evaluate", *arguments, "--json", numbers, "--no-cache")
        assert run.status == 0, run
        assert run.stdout.count(" Rank-1 ") == run.stdout.count("Indian") == 1, run
        results.append(json.loads(numbers.read_text()))
    assert results[0] == results[1] == results[2]
    found = results[0]["models"]["model,0"]["targets"]
    assert found["ijbc"]["counts"]["probes"] == 4 and found["ijbc"]["metrics"]["Rank-10"]["value"] == 1
    assert list(found["ifrt"]["metrics"]) == ["Indian", "Asian", "ALL"]
    assert 0 < found["ifrt"]["metrics"]["ALL"]["value"] < 1
