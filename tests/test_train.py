from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

import default
import symbol
from partial_fc.collectives import Collectives, RankError, SingleProcess, run_thread_ranks
from partial_fc.config import parse_arguments
from partial_fc.data.augment import Augmentation
from partial_fc.data.record_writer import RecordWriter
from partial_fc.data.records import RecordSource
from partial_fc.data.synthetic_faces import ensure_synthetic_faces
from partial_fc.evaluation.model import load_model
from partial_fc.evaluation.pixel_form import ModelOptions
from partial_fc.evaluation.verification import verify_set
from partial_fc.evaluation.verification_set import load_bin
from partial_fc.testing_run import with_frozen_batch_norm, write_tiny_faces
from partial_fc.train import main, train

IDENTITIES, IMAGES = 11, 66


@pytest.fixture(scope="module")
def tiny_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_faces(directory, identities=IDENTITIES, images_per_identity=IMAGES // IDENTITIES)
    return directory


@pytest.fixture
def faces(tiny_faces: Path, tmp_path: Path) -> Path:
    """A copy of the small data set that a test may break."""
    return Path(shutil.copytree(tiny_faces, tmp_path / "tiny"))


def arguments_for(faces: Path, *more: str) -> list[str]:
    return [
        *("--rec", str(faces / "train.rec"), "--models-root", str(faces / "models"), "--network", "toy"),
        *("--image-size", "24", "--embedding-size", "16", "--batch-size", "8", "--max-update", "3"),
        *("--lr", "0.01", "--log-every-updates", "1", *more),
    ]


def log_of(faces: Path, name: str = "toy-cosface-tiny") -> list[dict[str, object]]:
    return [json.loads(line) for line in (faces / "models" / name / "log.jsonl").open()]


def losses_of(faces: Path) -> list[float]:
    return [record["loss"] for record in log_of(faces) if "loss" in record]


class TestARun:
    def test_trains_logs_saves_and_verifies(self, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments_for(faces, "--val", str(faces / "val.bin"))) == 0
        run = faces / "models" / "toy-cosface-tiny"
        saved = run / "update-00000003"
        assert {path.name for path in run.iterdir()} == {
            *("log.jsonl", "tensorboard", "model-symbol.json", "model-0000.params", "update-00000003", "run.json")
        }

        records = log_of(faces)
        assert [record["update"] for record in records] == [1, 2, 3, 3]
        assert all(np.isfinite(record["loss"]) for record in records[:3])
        assert [record["epoch"] for record in records[:3]] == [0, 0, 0]

        manifest = json.loads((saved / "manifest.json").read_text())
        assert (manifest["update"], manifest["ranks"], manifest["num_classes"]) == (3, 1, IDENTITIES)
        assert manifest["config"] == parse_arguments(
            arguments_for(faces, "--val", str(faces / "val.bin")), "toy"
        ).as_json()
        assert set(manifest["versions"]) == {"python", "mxnet"}

        # What was saved scores what the log says.
        model = load_model(f"{run / 'model'},0", mx.cpu(), 8, ModelOptions(image_size=24))
        result = verify_set(
            load_bin(faces / "val.bin"), model.embed, image_size=24, batch_size=8, collectives=SingleProcess()
        )
        logged = records[3]["verification"]["val"]
        assert logged["accuracy"] == result.accuracy
        assert logged["xnorm"] == pytest.approx(result.xnorm, rel=1e-4)

        output = capsys.readouterr()
        assert output.err == ""
        for part in ("batch_size", "ranks                  1", f"identities             {IDENTITIES}",
                     f"images                 {IMAGES}", "update 3/3", "val: accuracy", "peak memory"):  # fmt: skip
            assert part in output.out
        assert f"saved {saved}" in output.out

    def test_learns(self, faces: Path) -> None:
        assert main(arguments_for(faces, "--max-update", "40", "--lr", "0.05", "--log-every-updates", "8")) == 0
        losses = losses_of(faces)
        assert len(losses) == 5
        assert losses[-1] < 0.7 * losses[0]

    def test_twice_is_the_same_and_another_seed_is_not(self, faces: Path) -> None:
        losses = []
        for seed in ("1", "1", "2"):
            assert main(arguments_for(faces, "--seed", seed)) == 0
            losses.append(losses_of(faces))
        assert losses[0] == losses[1]
        assert losses[0] != losses[2]

    @pytest.mark.parametrize("loader", ["TrainingLoader", "RandomLoader"])
    def test_the_loader_is_that_of_the_rank_and_the_options(
        self, faces: Path, monkeypatch: pytest.MonkeyPatch, loader: str
    ) -> None:
        made = {}

        def make_none(source: object, *, rank: int, **options: object) -> None:
            made[rank] = options
            raise ValueError("no loader")

        monkeypatch.setattr(f"partial_fc.train.{loader}", make_none)
        monkeypatch.setitem(default.DATASETS, "100w", default.DATASETS["100w"] | {"num_identities": 1001})
        arguments = arguments_for(faces, "--seed", "5", "--workers", "3")
        config = parse_arguments(
            arguments if loader == "TrainingLoader" else ["--dataset", "100w", *arguments[2:]], "toy"
        )
        with pytest.raises(RankError, match="no loader"):
            run_thread_ranks(2, lambda collectives: train(config, collectives))
        expected = {"batch_size": 8, "image_size": 24, "ranks": 2, "seed": 5}
        if loader == "TrainingLoader":
            expected |= {"threads": 3, "augmentation": Augmentation()}
        assert made == {0: expected, 1: expected}

    def test_the_learning_rate_falls_at_its_steps(self, faces: Path) -> None:
        assert main(arguments_for(faces, "--lr-steps", "1,2")) == 0
        rates = [record["learning_rate"] for record in log_of(faces)]
        assert rates == pytest.approx([0.01, 0.001, 0.0001])

    def test_without_val_nothing_is_verified(self, faces: Path) -> None:
        assert main(arguments_for(faces)) == 0
        assert all("verification" not in record for record in log_of(faces))

    def test_verification_every_so_many_updates(self, faces: Path) -> None:
        val = str(faces / "val.bin")
        assert main(arguments_for(faces, "--val", val, "--verify-every-updates", "2")) == 0
        assert [record["update"] for record in log_of(faces) if "verification" in record] == [2, 3]

    @pytest.mark.parametrize("option", ["--fp16", "--fp16-gradients"])
    def test_mixed_precision_has_a_loss_scale(self, faces: Path, option: str) -> None:
        assert main(arguments_for(faces, option, "--max-update", "2")) == 0
        assert {record["loss_scale"] for record in log_of(faces)} <= {2.0**scale for scale in range(13)}
        assert log_of(faces)[0]["loss_scale"] == 1024

    def test_fp16_computes_in_another_precision_and_saves_the_plain_network(self, faces: Path) -> None:
        assert main(arguments_for(faces, "--max-update", "1")) == 0
        exact = losses_of(faces)[0]
        assert main(arguments_for(faces, "--max-update", "1", "--fp16")) == 0
        rounded = losses_of(faces)[0]
        assert rounded != exact
        assert rounded == pytest.approx(exact, rel=1e-2)
        saved = (faces / "models" / "toy-cosface-tiny" / "model-symbol.json").read_text()
        assert saved.rstrip("\n") == symbol.build_backbone("toy", 16).tojson()

    def test_every_loss_and_a_part_of_the_centers(self, faces: Path) -> None:
        for loss in default.LOSSES:
            options = ("--sample-ratio", "0.5", "--sample-ratio-steps", "2:1", "--filter-cosine", "0.4")
            assert main(arguments_for(faces, "--loss", loss, *options)) == 0
            assert np.isfinite([record["loss"] for record in log_of(faces, f"toy-{loss}-tiny")]).all()

    def test_every_loss_and_a_pool(self, faces: Path) -> None:
        for loss in default.LOSSES:
            if loss in ("adaface", "curricularface"):  # Partial FC's
                continue
            assert main(arguments_for(faces, "--loss", loss, "--head", "f2c")) == 0
            losses = [record["loss"] for record in log_of(faces, f"toy-{loss}-tiny-f2c") if "loss" in record]
            assert np.isfinite(losses).all()

    def test_the_embedded_data_set_is_drawn_once_and_is_the_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = default.DATASETS["synthetic"]
        small = {"num_identities": 30, "images_per_identity": 4, "batch_size": 8, "max_update": 2}
        monkeypatch.setitem(default.DATASETS, "synthetic", recipe | small)
        draw = partial(ensure_synthetic_faces, held_out_identities=20, pairs=20, image_size=32)
        monkeypatch.setattr("partial_fc.train.ensure_synthetic_faces", draw)
        monkeypatch.chdir(tmp_path)
        drawn_at = []
        for _ in range(2):
            assert main(["--image-size", "24"]) == 0
            drawn_at.append(Path(recipe["rec"]).stat().st_mtime_ns)
        assert drawn_at[0] == drawn_at[1]
        (run,) = Path("models").iterdir()
        assert json.loads((run / "update-00000002" / "manifest.json").read_text())["num_classes"] == 30
        assert "val" in json.loads((run / "log.jsonl").read_text().splitlines()[-1])["verification"]

    def test_a_recipe_of_random_images_needs_no_file(self, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(default.DATASETS, "100w", default.DATASETS["100w"] | {"num_identities": 1001})
        arguments = arguments_for(faces)[2:]
        assert main(["--dataset", "100w", *arguments]) == 0
        manifest = faces / "models" / "toy-cosface-100w" / "update-00000003" / "manifest.json"
        assert json.loads(manifest.read_text())["num_classes"] == 1001

    def test_an_image_that_does_not_decode_is_replaced_and_counted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        write_tiny_faces(tmp_path, identities=26, images_per_identity=8, pairs=10)
        break_images(tmp_path, {57, 58})
        assert main(arguments_for(tmp_path, "--max-update", "26")) == 0
        assert "2 images did not decode and were replaced" in capsys.readouterr().out
        assert sum("train.rec record" in message for message in caplog.messages) == 2


def break_images(directory: Path, broken: set[int]) -> None:
    """Writes ``train.rec`` again, the images of these numbers being none."""
    source = RecordSource(directory / "train.rec")
    images = [source.read(index) for index in range(len(source))]
    source.close()
    with RecordWriter(directory / "train.rec") as writer:
        for index, (image, label) in enumerate(images):
            writer.add(b"no image" if index in broken else image, label)


class TestBadInput:
    """Exit status 2, one sentence that names what is wrong, no traceback."""

    @staticmethod
    def check(arguments: list[str], capsys: pytest.CaptureFixture[str], *named: str) -> None:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1, error
        for part in named:
            assert part in error

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["--batch-size", "0"], ["--batch-size", "0"]),
            (["--dataset", "nope"], ["data set 'nope'", "emore"]),
            (["--network", "nope"], ["network 'nope'", "r50"]),
            (["--loss", "nope"], ["loss 'nope'", "arcface"]),
            (["--nope"], ["option --nope", "--lr"]),
            (["--sample-ratio", "1.5"], ["--sample-ratio", "(0, 1]", "1.5"]),
            (["--sample-ratio", "0"], ["--sample-ratio", "(0, 1]", "0"]),
        ],
    )
    def test_arguments(
        self, arguments: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.check(arguments, capsys, *named)

    def test_a_missing_rec(self, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (faces / "train.rec").unlink()
        self.check(arguments_for(faces), capsys, "train.rec")

    def test_a_truncated_rec(self, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
        content = (faces / "train.rec").read_bytes()
        (faces / "train.rec").write_bytes(content[: len(content) // 2])
        self.check(arguments_for(faces), capsys, "train.rec")

    def test_an_empty_rec(self, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (faces / "train.rec").write_bytes(b"")
        self.check(arguments_for(faces), capsys, "train.rec")

    def test_a_label_that_is_no_identity(self, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (faces / "property").write_text("10,24,24\n")
        # An epoch, so that an image of the eleventh is met.
        self.check(arguments_for(faces, "--max-update", "9"), capsys, "train.rec", "label 10", "[0, 10)")

    def test_fewer_images_than_a_batch(self, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.check(arguments_for(faces, "--batch-size", "67"), capsys, "66", "67")

    def test_too_many_images_that_do_not_decode(self, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
        break_images(faces, {3})
        self.check(arguments_for(faces, "--max-update", "9"), capsys, "1 images", "1 %", "train.rec record 4")

    def test_a_missing_bin(self, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.check(arguments_for(faces, "--val", str(faces / "none.bin")), capsys, "none.bin")

    def test_a_bin_with_something_else_in_it(self, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (faces / "val.bin").write_bytes(pickle.dumps(print))
        self.check(arguments_for(faces, "--val", str(faces / "val.bin")), capsys, "val.bin", "print")

    def test_an_image_size_that_the_network_does_not_take(
        self, faces: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.check(arguments_for(faces, "--network", "mobilefacenet"), capsys, "24×24", "--image-size")

    def test_a_directory_that_cannot_be_written(self, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (faces / "models").write_text("a file")
        self.check(arguments_for(faces), capsys, "models")

    def test_pairs_that_cannot_be_judged_cost_no_trained_model(
        self, faces: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images, is_same = pickle.loads((faces / "val.bin").read_bytes())
        (faces / "val.bin").write_bytes(pickle.dumps((images[:6], is_same[:3]), protocol=2))
        self.check(arguments_for(faces, "--val", str(faces / "val.bin")), capsys, "val: ", "3 pairs")
        assert (faces / "models" / "toy-cosface-tiny" / "update-00000003" / "manifest.json").is_file()

    def test_an_unforeseen_error_is_shown_whole_and_ends_the_run(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("a cable was pulled")

        monkeypatch.setattr("partial_fc.train.train", broken)
        with pytest.raises(SystemExit) as end:
            main([])
        assert end.value.code == 1
        assert "a cable was pulled" in caplog.text
        assert "Traceback" in caplog.text

    def test_help_is_no_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            main(["--help"])
        assert end.value.code == 0
        assert "--sample-ratio" in capsys.readouterr().out


class TestRanks:
    @staticmethod
    def train_on(size: int, faces: Path, *more: str) -> list[float]:
        config = parse_arguments(arguments_for(faces, *more), "toy")
        run_thread_ranks(size, lambda collectives: train(config, collectives))
        return losses_of(faces)

    def test_any_number_of_ranks_has_the_same_losses(self, faces: Path, frozen: None) -> None:
        """The global batch is the same, and so is each image's mirroring."""
        alone = self.train_on(1, faces, "--batch-size", "16")
        assert len(set(alone)) == 3
        for size in (2, 4):
            losses = self.train_on(size, faces, "--batch-size", str(16 // size))
            np.testing.assert_allclose(losses, alone, rtol=1e-5)

    def test_their_centers_are_in_files_of_their_own(self, faces: Path) -> None:
        self.train_on(3, faces, "--batch-size", "5")
        saved = faces / "models" / "toy-cosface-tiny" / "update-00000003"
        rows = [mx.nd.load(str(saved / f"centers-{rank}-of-3.params")) for rank in range(3)]
        assert [arrays["weight:0"].shape for arrays in rows] == [
            (4, 16),
            (4, 16),
            (3, 16),
        ]

    def test_more_ranks_than_identities(self, faces: Path) -> None:
        with pytest.raises(RankError, match="11 identities for 12 ranks"):
            self.train_on(12, faces, "--batch-size", "2")

    @pytest.mark.parametrize("bad", ["--rec", "--val"])
    def test_what_one_rank_cannot_read_ends_all_with_its_sentence(self, faces: Path, bad: str) -> None:
        errors = []

        def one_rank(collectives: Collectives) -> None:
            arguments = arguments_for(faces, "--val", str(faces / "val.bin"))
            if collectives.rank == 1:
                arguments[arguments.index(bad) + 1] = "/nowhere/file"
            with pytest.raises(RankError, match="^rank 1: .*/nowhere/file") as caught:
                train(parse_arguments(arguments, "toy"), collectives)
            errors.append(str(caught.value))

        run_thread_ranks(3, one_rank)
        assert len(set(errors)) == 1


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm in inference mode: an image's embedding depends on no other image of the rank's batch."""
    build: Callable[..., mx.sym.Symbol] = symbol.build_backbone

    def build_frozen(*arguments: object, **options: object) -> mx.sym.Symbol:
        return with_frozen_batch_norm(build(*arguments, **options))

    monkeypatch.setattr(symbol, "build_backbone", build_frozen)
