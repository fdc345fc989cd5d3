"""Real faces, all of them, through every verb."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from partial_fc.data.open_source import open_source
from partial_fc.evaluation.verification_set import load_bin

from .conftest import Run

IMAGES, IDENTITIES = 9_525, 4_038


def size_of(path: Path) -> tuple[int, int]:
    source = open_source(path)
    try:
        return len(source), source.num_identities
    finally:
        source.close()


def test_lfw_through_every_verb(shared_data: Path, tmp_path: Path, run: Run) -> None:
    lfw = shared_data / "lfw" / "train.rec"

    def do(*arguments: object) -> str:
        status, out, err = run(*arguments)
        assert (status, err) == (0, ""), arguments
        return out

    do("unpack", lfw, tmp_path / "folders")
    assert f"{IMAGES} of {IMAGES} images are there already" in do("unpack", lfw, tmp_path / "folders")
    do("pack", tmp_path / "folders", tmp_path / "faces.lmdb")
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / "train.rec"
    do("pack", tmp_path / "faces.lmdb", again)
    for suffix in (".rec", ".idx"):
        assert again.with_suffix(suffix).read_bytes() == lfw.with_suffix(suffix).read_bytes()
    assert (again.parent / "property").read_bytes() == (lfw.parent / "property").read_bytes()

    out = do("verify", tmp_path / "faces.lmdb", "--json", tmp_path / "found.json")
    assert out.endswith("sound\n") and f"{IMAGES} decoded; 112×112 ({IMAGES})" in out
    copies = json.loads((tmp_path / "found.json").read_text())["checks"][-1]
    assert copies["summary"].startswith("1 image is a copy of another: 0 of their own identity, 1 of another")
    out = do("stats", again.parent, "--output", tmp_path / "stats", "--sample", 0.1)
    assert f"{IMAGES} images of {IDENTITIES} identities" in out and "112×112 (952)" in out

    do("subset", again, tmp_path / "many.lmdb", "--least-images", 20)
    counts = np.bincount(open_source(again).labels())
    assert size_of(tmp_path / "many.lmdb") == (counts[counts >= 20].sum(), (counts >= 20).sum())
    do("relabel", tmp_path / "many.lmdb", tmp_path / "relabelled.lmdb")
    assert size_of(tmp_path / "relabelled.lmdb") == size_of(tmp_path / "many.lmdb")
    do("split", tmp_path / "many.lmdb", tmp_path / "split", "--held-out", 0.2, "--pairs", 400)
    assert load_bin(tmp_path / "split" / "val.bin").is_same.sum() == 200
    parts = [size_of(tmp_path / "split" / part) for part in ("train", "held_out")]
    assert tuple(map(sum, zip(*parts, strict=True))) == size_of(tmp_path / "many.lmdb")
    do("merge", tmp_path / "split" / "train", tmp_path / "split" / "held_out", tmp_path / "merged.lmdb")
    assert size_of(tmp_path / "merged.lmdb") == size_of(tmp_path / "many.lmdb")
    (tmp_path / "pairs.txt").write_text("1\t2\t0\n794\t7772\t1\n")  # the copies
    do("bin", tmp_path / "pairs.txt", again, tmp_path / "copies.bin")
    images = load_bin(tmp_path / "copies.bin").images
    assert images[2] == images[3] and images[0] != images[1]
