"""Embedding a set as the ranks of a launcher: the file of one process, also after a rank was killed half-way."""

import os
import re

import cv2
import numpy as np
import pytest

from partial_fc.embed.__main__ import main
from partial_fc.testing_models import project, projection, write_projection

pytestmark = pytest.mark.real_ranks

SIZE, EMBEDDING, COUNT = 8, 5, 23
WEIGHT = projection(SIZE, EMBEDDING)

PROGRAM = """
import os, signal, sys
from partial_fc.embed import __main__ as command, rounds
from partial_fc.evaluation.model import CheckpointModel

model, source, out, dies = sys.argv[1:]
rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["HOROVOD_RANK"]
rounds.ROUND_BYTES = 1
if dies == rank:
    embed, seen = CheckpointModel.embed, []
    def die(model, images):
        seen.append(1)
        if len(seen) == 3:  # an image batch and its mirrors were the first round
            os.kill(os.getpid(), signal.SIGKILL)
        return embed(model, images)
    CheckpointModel.embed = die
sys.exit(command.main([model, source, out, "--image-size", "8", "--batch-size", "4", "--flip"]))
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A model, 23 images in a folder, the program above; and what one process makes of them."""
    root = tmp_path_factory.mktemp("faces")
    write_projection(root / "model", WEIGHT)
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
    (root / "images").mkdir()
    for number, image_HWC in enumerate(images):
        cv2.imwrite(str(root / "images" / f"{number:02d}.png"), image_HWC[:, :, ::-1])
    (root / "program.py").write_text(PROGRAM)
    return root, project(WEIGHT, images, flip=True)


def embed(run_ranks, root, ranks, out, launcher="mpi", dies="none", model="model"):
    arguments = [root / model, root / "images", out, dies]
    return run_ranks(ranks, root / "program.py", *arguments, launcher=launcher)


def test_ranks_write_one_file(run_ranks, faces, tmp_path):
    root, expected_ND = faces
    run = embed(run_ranks, root, 3, tmp_path / "out.npz")
    assert run.status == 0, run
    assert len(re.findall("23 embeddings of 5 numbers", run.stdout)) == 1, "rank 0 alone says it"
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_allclose(file["embeddings"], expected_ND, atol=1e-5)
        assert file["keys"].tolist() == [f"{number:02d}.png" for number in range(COUNT)]
    assert os.listdir(tmp_path) == ["out.npz"]


def test_a_rank_killed_half_way(run_ranks, faces, tmp_path):
    """Rank 1 of 2 is killed in the second round: the launcher ends all. Three ranks of another one go on from there."""
    root, _ = faces
    out = tmp_path / "out.npz"
    run = embed(run_ranks, root, 2, out, dies="1")
    assert run.status != 0, run
    assert len([*(tmp_path / "out.npz.parts").glob("images-*")]) == 2 and not out.exists(), run
    run = embed(run_ranks, root, 3, out, "gloo")
    assert run.status == 0, run
    assert "8 of 23 images are done already" in run.stderr, run
    arguments = [root / "model", root / "images", tmp_path / "alone.npz", "--image-size", "8", "--batch-size", "4"]
    assert main([*map(str, arguments), "--flip"]) == 0
    assert out.read_bytes() == (tmp_path / "alone.npz").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["alone.npz", "out.npz"]


@pytest.mark.parametrize(
    ("launcher", "model", "error"),
    [
        ("mpi", "model", "error: ranks 0 and 1 differ in the model, .*: give all machines the same files"),
        ("gloo", "none", "error: rank 1: a model is given as PREFIX,EPOCH"),
    ],
)
def test_what_one_rank_lacks_ends_all(run_ranks, faces, tmp_path, launcher, model, error):
    """Rank 1 is given another model, or none: nobody waits, nothing is begun."""
    root, _ = faces
    write_projection(tmp_path / "model", 2 * WEIGHT)
    (tmp_path / "program.py").write_text(
        "import os, sys\n"
        "from partial_fc.embed.__main__ import main\n"
        "rank = int(os.environ.get('OMPI_COMM_WORLD_RANK') or os.environ['HOROVOD_RANK'])\n"
        "sys.exit(main([sys.argv[1 + rank], *sys.argv[3:], '--image-size', '8']))\n"
    )
    arguments = [root / "model", tmp_path / model, root / "images", tmp_path / "out.npz"]
    run = run_ranks(2, tmp_path / "program.py", *arguments, launcher=launcher)
    assert run.status != 0, run
    assert len(re.findall(error, run.stderr)) == 1, run
    assert sorted(os.listdir(tmp_path)) == ["model", "program.py"]
