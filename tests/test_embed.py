"""The command: sets of every kind to one file, on any number of ranks, killed and started again."""

import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from partial_fc import FaceEmbedder
from partial_fc.collectives import RankError, SingleProcess, run_thread_ranks
from partial_fc.data.lmdb_writer import LmdbWriter
from partial_fc.data.record_writer import RecordWriter
from partial_fc.embed import embed_set as module
from partial_fc.embed import progress, rounds
from partial_fc.embed.__main__ import main, parse_options
from partial_fc.embed.parts import Parts
from partial_fc.evaluation.model import CheckpointModel
from partial_fc.testing_models import png, project, projection, write_onnx_projection, write_projection

SIZE, EMBEDDING, COUNT = 8, 5, 23
WEIGHT = projection(SIZE, EMBEDDING)
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
LABELS = [number // 3 for number in range(COUNT)]
KEYS = [f"p{label}/{number:02d}.png" for number, label in enumerate(LABELS)]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same 23 images as every kind of set, and a model, which they are not to be changed by."""
    root = tmp_path_factory.mktemp("sets")
    write_projection(root / "model", WEIGHT)
    write_onnx_projection(root / "model.onnx", WEIGHT, image_size=SIZE)
    encoded = [png(image_HWC) for image_HWC in IMAGES]
    with RecordWriter(root / "faces.rec", image_size=(SIZE, SIZE)) as rec, LmdbWriter(root / "faces.lmdb") as database:
        for image, label in zip(encoded, LABELS, strict=True):
            rec.add(image, label)
            database.add(image, label)
    for image, key in zip(encoded, KEYS, strict=True):
        (root / "faces" / key).parent.mkdir(parents=True, exist_ok=True)
        (root / "faces" / key).write_bytes(image)
    (root / "flat").mkdir()
    for image, key in zip(encoded, KEYS, strict=True):
        (root / "flat" / key.replace("/", "-")).write_bytes(image)
    lines = "".join(f"{number}\t{LABELS[number]}\tfaces/{key}\n" for number, key in enumerate(KEYS))
    (root / "faces.lst").write_text(lines)
    return root


def arguments_of(sets, out, *options, source="faces", model="model"):
    image_size = ["--image-size", SIZE] if model == "model" else []
    return [str(word) for word in (sets / model, sets / source, out, "--batch-size", 4, *image_size, *options)]


def run(sets, out, *options, collectives=None, **names):
    return module.embed_set(parse_options(arguments_of(sets, out, *options, **names)), collectives or SingleProcess())


def load(out):
    with np.load(out) as file:
        return {name: file[name] for name in file}


def check(arrays, flip=False, normalize=True):
    expected_ND = project(WEIGHT, IMAGES, flip=flip, normalize=normalize)
    np.testing.assert_allclose(arrays["embeddings"], expected_ND, rtol=1e-5, atol=1e-4)  # sums of 192 terms below 4
    assert arrays["embeddings"].dtype == np.float32 and arrays["labels"].dtype == np.int64
    assert arrays["failed"].shape == arrays["reasons"].shape == (0,)
    assert (bool(arrays["flip"]), bool(arrays["normalized"])) == (flip, normalize)


@pytest.mark.parametrize(
    ("source", "keys", "labels"),
    [
        ("faces", KEYS, LABELS),
        ("flat", [key.replace("/", "-") for key in KEYS], [-1] * COUNT),
        ("faces.rec", [str(number) for number in range(1, COUNT + 1)], LABELS),
        ("faces.lmdb", None, LABELS),
        ("faces.lst", [f"faces/{key}" for key in KEYS], LABELS),
    ],
)
def test_sets_of_every_kind(sets, tmp_path, source, keys, labels):
    run(sets, tmp_path / "out.npz", source=source)
    arrays = load(tmp_path / "out.npz")
    check(arrays)
    assert arrays["labels"].tolist() == labels
    assert keys is None or arrays["keys"].tolist() == keys
    assert str(arrays["model"]) == "model"
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]


def test_options_and_models_of_both_kinds(sets, tmp_path):
    for number, (options, expected) in enumerate(
        [(["--flip"], {"flip": True}), (["--no-normalize"], {"normalize": False}), (["--workers", "3"], {})]
    ):
        run(sets, tmp_path / f"{number}.npz", *options)
        check(load(tmp_path / f"{number}.npz"), **expected)
    run(sets, tmp_path / "onnx.npz", "--flip", model="model.onnx")
    check(load(tmp_path / "onnx.npz"), flip=True)
    two = [str(sets / name) for name in ("model", "faces", "flat", "faces.rec")]
    module.embed_set(parse_options([*two, str(tmp_path / "two.npz"), "--image-size", str(SIZE)]), SingleProcess())
    arrays = load(tmp_path / "two.npz")
    assert arrays["embeddings"].shape == (3 * COUNT, EMBEDDING)
    assert arrays["labels"].tolist() == [*LABELS, *[-1] * COUNT, *[8 + label for label in LABELS]]


@pytest.mark.parametrize("round_bytes", [1, 1 << 20])
def test_the_same_file_on_any_number_of_ranks(sets, tmp_path, monkeypatch, round_bytes):
    run(sets, tmp_path / "alone.npz", "--flip")
    monkeypatch.setattr(rounds, "ROUND_BYTES", round_bytes)
    for ranks in (1, 2, 3):
        out = tmp_path / f"{ranks}.npz"
        run_thread_ranks(ranks, lambda collectives, out=out: run(sets, out, "--flip", collectives=collectives))
        assert out.read_bytes() == (tmp_path / "alone.npz").read_bytes()


def test_a_round_ends_in_time(sets, tmp_path, monkeypatch):
    added, add = [], Parts.add

    def count(parts, part):
        added.append(len(part))
        add(parts, part)

    monkeypatch.setattr(rounds, "ROUND_SECONDS", -1.0)
    monkeypatch.setattr(Parts, "add", count)
    run(sets, tmp_path / "out.npz")
    assert added == [4, 4, 4, 4, 4, 3], "a batch a round"
    check(load(tmp_path / "out.npz"))


@pytest.mark.parametrize(("first_ranks", "then_ranks"), [(1, 1), (1, 3), (3, 2)])
def test_a_run_that_ended_goes_on(sets, tmp_path, monkeypatch, first_ranks, then_ranks):
    """The model gives up in the middle; what was done before is not done again, on as many ranks or others."""
    run(sets, tmp_path / "whole.npz")
    monkeypatch.setattr(rounds, "ROUND_BYTES", 1)
    embed, seen = CheckpointModel.embed, []

    def give_up(model, images_BHWC):
        seen.append(len(images_BHWC))
        if len(seen) > 3:
            raise OSError("the device has gone")
        return embed(model, images_BHWC)

    monkeypatch.setattr(CheckpointModel, "embed", give_up)
    out = tmp_path / "out.npz"
    with pytest.raises(RankError, match="the device has gone"):
        run_thread_ranks(first_ranks, lambda collectives: run(sets, out, collectives=collectives))
    parts = sorted(path.name for path in (tmp_path / "out.npz.parts").glob("images-*"))
    assert len(parts) == 3 and not out.exists()

    def count(model, images_BHWC):
        seen.append(len(images_BHWC))
        return embed(model, images_BHWC)

    seen.clear()
    monkeypatch.setattr(CheckpointModel, "embed", count)
    run_thread_ranks(then_ranks, lambda collectives: run(sets, out, collectives=collectives))
    assert len(seen) == 3, "of 6 batches, 3 were done"
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / "out.npz.parts").exists()


def test_killed_in_earnest(sets, tmp_path):
    """SIGKILL after the second part; the same command then gives the file that an undisturbed one gives."""
    program = (
        "import os, signal, sys\n"
        "from partial_fc.embed import __main__ as command, parts, rounds\n"
        "rounds.ROUND_BYTES = 1\n"
        "add, added = parts.Parts.add, []\n"
        "def add_and_die(self, part):\n"
        "    add(self, part)\n"
        "    added.append(part)\n"
        "    if len(added) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "parts.Parts.add = add_and_die\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", program, *arguments_of(sets, tmp_path / "out.npz")]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz.parts"]
    command = [sys.executable, "-m", "partial_fc.embed", *arguments_of(sets, tmp_path / "out.npz")]
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "8 of 23 images are done already" in again.stderr
    assert again.stdout == f"{tmp_path / 'out.npz'}: 23 embeddings of 5 numbers\n"
    run(sets, tmp_path / "whole.npz")
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.fixture
def broken_set(sets, tmp_path):
    """The folder with a text, half an image and an empty file in it, and a model of its own."""
    shutil.copytree(sets / "faces", tmp_path / "faces")
    shutil.copytree(sets / "model", tmp_path / "model")
    (tmp_path / "faces" / KEYS[2]).write_text("text")
    (tmp_path / "faces" / KEYS[9]).write_bytes(png(IMAGES[9])[:60])
    (tmp_path / "faces" / KEYS[22]).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("ranks", [1, 3])
def test_images_that_fail_are_rows_of_zeros(broken_set, ranks, caplog):
    out = broken_set / "out.npz"
    run_thread_ranks(ranks, lambda collectives: run(broken_set, out, collectives=collectives))
    arrays = load(out)
    failed = [2, 9, 22]
    assert arrays["failed"].tolist() == failed
    assert arrays["labels"].tolist() == LABELS and arrays["keys"].tolist() == KEYS
    assert [reason.split(":")[0] for reason in arrays["reasons"]] == [
        "is neither JPEG nor PNG", "is a PNG that is cut short", "is neither JPEG nor PNG"
    ]  # fmt: skip
    expected_ND = project(WEIGHT, IMAGES, flip=False)
    expected_ND[failed] = 0
    np.testing.assert_allclose(arrays["embeddings"], expected_ND, atol=1e-5)
    assert not arrays["embeddings"][failed].any()
    said = f"3 of 23 images have no embedding, their rows are zero, `failed` has them: {KEYS[2]} is neither"
    assert said in caplog.text


def test_a_broken_record_has_neither_embedding_nor_label(sets, tmp_path):
    for name in ("faces.rec", "faces.idx"):
        shutil.copy(sets / name, tmp_path)
    shutil.copytree(sets / "model", tmp_path / "model")
    start = int((tmp_path / "faces.idx").read_text().split("\n")[6].split("\t")[1])
    content = bytearray((tmp_path / "faces.rec").read_bytes())
    content[start : start + 4] = b"none"
    (tmp_path / "faces.rec").write_bytes(content)
    run(tmp_path, tmp_path / "out.npz", source="faces.rec")
    arrays = load(tmp_path / "out.npz")
    assert arrays["failed"].tolist() == [5] and arrays["labels"][5] == -1 and arrays["keys"][5] == "6"
    assert arrays["labels"].tolist() == [*LABELS[:5], -1, *LABELS[6:]]


def test_strict_ends_with_the_first_that_fails_and_goes_on_without(broken_set, capsys):
    out = broken_set / "out.npz"
    for _ in range(2):
        assert main(arguments_of(broken_set, out, "--strict")) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert re.match(f"error: {KEYS[2]} is neither JPEG .*: mend it, or leave --strict out, and its row is", error)
        assert not out.exists()
    assert main(arguments_of(broken_set, out)) == 0
    assert load(out)["failed"].tolist() == [2, 9, 22]


def test_embeddings_without_direction_fail(broken_set, capsys):
    write_projection(broken_set / "model", 0 * WEIGHT)
    assert main(arguments_of(broken_set, broken_set / "out.npz")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: none of 23 images has an embedding: {KEYS[0]} its embedding is zero or not finite"


def test_the_same_command_again_does_nothing_and_others_are_refused(sets, tmp_path, capsys):
    out = tmp_path / "out.npz"
    assert main(arguments_of(sets, out)) == 0
    before = out.stat().st_mtime_ns
    (tmp_path / "out.npz.parts").mkdir()
    assert main(arguments_of(sets, out)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]
    assert "nothing is left to do" in capsys.readouterr().out
    assert main(arguments_of(sets, out, "--flip")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: {out} is there already: give another name, or --overwrite"
    assert out.stat().st_mtime_ns == before
    assert main(arguments_of(sets, out, "--flip", "--overwrite")) == 0
    check(load(out), flip=True)


def test_parts_of_another_run_are_refused(sets, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.npz"
    shutil.copytree(sets / "faces", tmp_path / "faces")
    shutil.copytree(sets / "model", tmp_path / "model")

    def full(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr(module, "write_result", full)
    assert main(arguments_of(tmp_path, out)) == 2
    monkeypatch.undo()
    assert "error: the disk is full" in capsys.readouterr().err
    write_projection(tmp_path / "model", 2 * WEIGHT)
    (tmp_path / "faces" / KEYS[0]).write_bytes(png(IMAGES[1]))
    assert main(arguments_of(tmp_path, out, "--flip")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match("error: .*out.npz.parts holds parts of another result, which differs in the model, .*--flip", error)
    assert main(arguments_of(tmp_path, out, "--overwrite")) == 0
    assert not (tmp_path / "out.npz.parts").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"out": "{tmp}/out.txt"}, "what to write comes last and ends in .npz, but is .*out.txt"),
        ({"out": "{tmp}/none/out.npz"}, "none, where out.npz is to be written, is no directory"),
        ({"out": "{tmp}/directory.npz", "options": ["--overwrite"]}, "directory.npz is a directory: give the name"),
        ({"source": "none"}, "there is no .*none: give a .rec"),
        ({"source": "model"}, "model holds no image: it needs .jpg or .png"),
        ({"model": "faces"}, "faces holds no model"),
        ({"model": "none,0"}, "none-symbol.json, which the model .* needs, is not there"),
        ({"options": ["--batch-size", "0"]}, "the batch size must be at least 1, but is 0"),
        ({"options": ["--workers", "0"]}, "at least 1 worker, got 0"),
        ({"options": ["--mean", "many"]}, "one number or three"),
        ({"options": ["--output", "fc9"]}, "has no output 'fc9'"),
    ],
)
def test_one_sentence_for_what_it_cannot_use(sets, tmp_path, capsys, change, reason):
    change = {"out": "{tmp}/out.npz", "options": []} | change
    out, options = change.pop("out").format(tmp=tmp_path), change.pop("options")
    (tmp_path / "directory.npz").mkdir()
    assert main(arguments_of(sets, out, *options, **change)) == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.strip().splitlines() if not line.startswith("INFO")]
    assert captured.out == "" and re.match(f"error: .*{reason}", line), line
    assert [path.name for path in tmp_path.rglob("*")] == ["directory.npz"]


def test_help_explains_each_option(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--help"])
    text = capsys.readouterr().out
    options = "flip no-normalize batch-size workers shared-labels strict overwrite image-size colour mean std output"
    for option in options.split():
        assert re.search(rf"--{option}( [A-Z\[\],.{{}}a-z]+)?\s+\w", text), option


def test_progress_is_a_line_now_and_then_where_nobody_looks_on(caplog, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    with caplog.at_level("INFO"), progress.progress_of(10, 4, SingleProcess()) as advance:
        advance(3)
        advance(3)
    lines = [record.message for record in caplog.records]
    assert lines[0] == "4 of 10 images are done already"
    assert re.fullmatch(r"7 of 10 images, \d+ images/s, \d+ s left", lines[1])
    assert re.fullmatch(r"6 images in \d+\.\d s, \d+\.\d images/s", lines[-1])


def test_lfw_as_evaluation_embeds_it(shared_data, tmp_path):
    """The published MobileFaceNet on 5 of LFW's faces, against evaluation's own way to their embeddings."""
    import mxnet as mx

    from partial_fc.evaluation.embedder import Embedder
    from partial_fc.evaluation.embedding import flip_sum, unit_rows
    from partial_fc.evaluation.images import ImageFiles
    from partial_fc.evaluation.open_model import open_model, parse_models
    from partial_fc.evaluation.pixel_form import ModelOptions

    model = shared_data / "models" / "mobilefacenet_y1"
    (tmp_path / "faces").mkdir()
    for path in sorted((shared_data / "align" / "aligned").iterdir())[:5]:
        shutil.copy(path, tmp_path / "faces")
    paths = sorted((tmp_path / "faces").iterdir())
    (name,) = parse_models([str(model)])
    opened = open_model(name, mx.cpu(), 4, ModelOptions())
    embeddings_VND = Embedder(name.name, opened, SingleProcess()).embed(ImageFiles("lfw", paths))
    assert main([str(model), str(tmp_path / "faces"), str(tmp_path / "out.npz"), "--flip", "--batch-size", "4"]) == 0
    arrays = load(tmp_path / "out.npz")
    assert arrays["keys"].tolist() == [path.name for path in paths]
    np.testing.assert_allclose(arrays["embeddings"], unit_rows(flip_sum(embeddings_VND)), atol=1e-5)
    embedding_ND = FaceEmbedder.load(model, flip=True)(paths)
    np.testing.assert_allclose(embedding_ND, arrays["embeddings"], atol=1e-5)
