"""`train --data`: the same images from any format train the same model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partial_fc.data.__main__ import main as data
from partial_fc.testing_run import write_tiny_faces
from partial_fc.train import main


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 66 images of 11 identities as `faces/train.rec`, `faces.lmdb` and folders in `folders`."""
    directory = tmp_path_factory.mktemp("formats")
    (directory / "faces").mkdir()
    write_tiny_faces(directory / "faces", identities=11, images_per_identity=6)
    assert data(["pack", str(directory / "faces"), str(directory / "faces.lmdb")]) == 0
    assert data(["unpack", str(directory / "faces"), str(directory / "folders")]) == 0
    return directory


def losses(directory: Path, *arguments: object) -> list[float]:
    models = directory / f"models{len(list(directory.iterdir()))}"
    options = "--network toy --image-size 24 --embedding-size 16 --batch-size 8 --max-update 3 --lr 0.01"
    given = [*map(str, arguments), *options.split(), "--log-every-updates", "1", "--models-root", str(models)]
    assert main(given) == 0
    (log,) = models.glob("*/log.jsonl")
    return [record["loss"] for record in map(json.loads, log.open()) if "loss" in record]


def test_every_format_trains_the_same(faces: Path) -> None:
    expected = losses(faces, "--rec", faces / "faces" / "train.rec")
    assert len(expected) == 3
    for paths in (
        [faces / "faces"],
        [faces / "faces.lmdb"],
        [faces / "faces.lmdb", faces / "faces.lmdb" / "keys.txt"],
        [faces / "folders"],
    ):
        assert losses(faces, "--data", *paths) == expected


def test_several_sets_train_together(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(losses(faces, "--data", faces / "faces.lmdb", faces / "folders")) == 3
    out = capsys.readouterr().out
    assert "identities             22, a rank" in out and "images                 132" in out
    losses(faces, "--data", faces / "faces.lmdb", faces / "faces", "--shared-labels")
    assert "identities             11, a rank" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "there is no nowhere: give a .rec, a directory"),
        (["--data", "{}/faces", "{}/folders", "--shared-labels"], "names its identities and the other sets number"),
        (["--data", "{}/faces", "--rec", "{}/faces/train.rec"], "give the training images once"),
        (["--data"], "expected at least one argument"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(
    faces: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [text.format(faces) for text in arguments]
    assert main([*given, "--models-root", str(faces / "no_models"), "--network", "toy"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (faces / "no_models").exists()
