"""A directory in which the guides' commands find what they name, in small.

Images are patches of colour, networks a convolution, recipes a few identities. So `--network r100 --dataset
glint360k_8GPU` is the same command, and takes a second.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import mxnet as mx
import numpy as np
import pytest
from pages import PROJECT

import default
from partial_fc import train
from partial_fc.data.__main__ import main as data
from partial_fc.testing_run import write_tiny_faces

# What a command takes in place of the number that is written there.
SMALL = {
    "--max-update": "3",
    "--lr-steps": "2",
    "--stop-update": "2",
    "--pairs": "20",
    "--batch-size": "4",
    "--save-every-updates": "2",
    "--queue-size": "32",
    "--num-classes": "10",
    "--held-out": "0.3",
}
# What every training command gets besides.
TRAINING = "--max-update 3 --lr-steps 2 --save-every-updates 2 --log-every-updates 1 --workers 1 --batch-size 4"

# Runs and models that a guide takes as there already.
RUNS = "r50-cosface-faces r50-cosface-emore r100-cosface-glint360k_8GPU r50-cosface-glint360k_8GPU full tenth".split()
MODELS = ("models/r100/model", "models/r50/model", "models/r18/model", "old/model")


def thin_network(name: str, embedding_size: int = 512, **_: object) -> mx.sym.Symbol:
    """In place of `symbol.build_backbone`: images of any size, 1,000 multiplications each."""
    data_BCHW = mx.sym.Variable("data") / 128 - 1
    body = mx.sym.Pooling(data_BCHW, kernel=(8, 8), stride=(8, 8), pool_type="avg")
    body = mx.sym.Convolution(body, kernel=(3, 3), stride=(2, 2), num_filter=4, no_bias=True, name="conv0")
    body = mx.sym.BatchNorm(body, fix_gamma=False, eps=2e-5, momentum=0.9, name="stage1_unit1_bn1")
    body = mx.sym.Pooling(body, global_pool=True, pool_type="avg", kernel=(1, 1))
    return mx.sym.FullyConnected(body, num_hidden=embedding_size, name="fc1")


def draw_small_faces(directory: Path, **_: object) -> None:
    """In place of `ensure_synthetic_faces`."""
    if not (directory / "train.rec").exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_tiny_faces(directory, identities=20, images_per_identity=4, pairs=12)


@contextlib.contextmanager
def small_training() -> Iterator[None]:
    """Within it a run's network, its synthetic faces and its random images are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("symbol.build_backbone", thin_network)
        patch.setattr("partial_fc.train.ensure_synthetic_faces", draw_small_faces)
        for name, recipe in default.DATASETS.items():
            if "rec" not in recipe:
                patch.setitem(default.DATASETS, name, recipe | {"num_identities": 1_001})
        yield


def write_world(root: Path) -> None:
    """Fills a directory, which is the current one, with what the guides' commands name."""
    for name in (".venv", "hosts", "benchmarks", "default.py"):  # a guide's commands are typed in the project
        (root / name).symlink_to(Path(sys.prefix) if name == ".venv" else PROJECT / name)
    _write_photos(root)
    for name, recipe in default.DATASETS.items():
        if "rec" in recipe and name != "synthetic":
            rec = root / recipe["rec"]
            if not rec.exists():
                draw_small_faces(rec.parent)
            for val in recipe["val"]:
                shutil.copy(rec.parent / "val.bin", root / val)
    for name in ("glint360k", "ms1m"):
        shutil.copytree(root / "datasets/glint360k", root / name)
    _write_lmdb(root)
    for name in ("lfw", "cfp_fp", "agedb_30"):
        shutil.copy(root / "glint360k/val.bin", root / f"{name}.bin")
    _train_models(root)


def _write_photos(root: Path) -> None:
    """`photos/NAME/0.jpg`, `landmarks.txt`, `my_pairs.txt`; the same as `lfw/NAME/NAME_0001.jpg`, `pairs.txt`."""
    rng = np.random.default_rng(0)
    names = [f"Person_{chr(ord('A') + number)}" for number in range(12)]
    landmarks = []
    for name in names:
        patch_HWC = cv2.resize(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8), (112, 112))
        for folder in ("photos", "lfw"):
            (root / folder / name).mkdir(parents=True, exist_ok=True)
        for image in range(4):
            noisy_HWC = np.clip(patch_HWC + rng.normal(0, 20, patch_HWC.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / "photos" / name / f"{image}.jpg"), noisy_HWC)
            cv2.imwrite(str(root / "lfw" / name / f"{name}_{image + 1:04d}.jpg"), noisy_HWC)
            landmarks.append(f"{name}/{image}.jpg 38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2")
    (root / "landmarks.txt").write_text("\n".join(landmarks) + "\n")
    own, official = [], ["10\t1"]
    for number in range(10):
        one, other = names[number], names[number + 1]
        own += [f"{one}/0.jpg {one}/1.jpg 1", f"{one}/2.jpg {other}/3.jpg 0"]
        official += [f"{one}\t1\t2", f"{one}\t3\t{other}\t4"]
    (root / "my_pairs.txt").write_text("\n".join(own) + "\n")
    (root / "pairs.txt").write_text("\n".join(official) + "\n")


def _write_lmdb(root: Path) -> None:
    assert data(["pack", "ms1m", "asian_lmdb.lmdb"]) == 0
    os.rename("asian_lmdb.lmdb", "asian_lmdb")
    shutil.copy("asian_lmdb/keys.txt", "asian_keys.txt")
    for name in "ab":
        shutil.copytree("asian_lmdb", f"{name}.lmdb")
        shutil.copy("asian_keys.txt", f"{name}.txt")


def _train_models(root: Path) -> None:
    with small_training():
        assert train.main(f"--data ms1m --val --network r50 --embedding-size 512 {TRAINING}".split()) == 0
    made = root / "models/r50-cosface-ms1m"
    for run in RUNS:
        shutil.copytree(made, made.parent / run)
    for model in MODELS:
        for suffix in ("-symbol.json", "-0000.params"):
            (root / model).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f"{made}/model{suffix}", f"{root / model}{suffix}")
    shutil.rmtree(made)
    for number, name in enumerate(("a", "b", "aligned_face")):
        shutil.copy(f"photos/Person_A/{number}.jpg", f"{name}.jpg")
    rng = np.random.default_rng(1)
    (root / "kept.txt").write_text("# label  old label\n0        17\n1        4\n")
    (root / "original").mkdir()  # 10 identities of the original project on 4 ranks, 3 rows each
    for rank in range(4):
        for suffix in ("", "_mom"):
            centers = mx.nd.array(rng.normal(size=(3, 512)).astype(np.float32))
            mx.nd.save(str(root / f"original/{rank}_centers{suffix}.param"), centers)


def newest_checkpoint(path: str) -> str:
    """``models/run/update-00180000`` as the newest checkpoint that is there."""
    head, mark, tail = path.partition("update-0")
    if not mark or Path(path).exists() or not Path(head or ".").is_dir():
        return path
    found = sorted(Path(head or ".").glob("update-*"))
    rest = tail[7:]  # what stands behind the eight digits
    return f"{found[-1]}{rest}" if found else path


def in_small(words: list[str]) -> list[str]:
    """A command's words with the numbers of SMALL, and the checkpoints that are there."""
    made: list[Any] = []
    for word in words:
        if made and made[-1] in SMALL and not word.startswith("--"):
            word = SMALL[made[-1]]
        made.append(newest_checkpoint(word))
    return made
