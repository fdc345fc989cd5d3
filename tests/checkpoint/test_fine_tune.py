"""A run that begins with what another one has learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from partial_fc.backbone import Backbone
from partial_fc.checkpoint import SavedCheckpoint, read_manifest
from partial_fc.checkpoint.fine_tune import NEW, load_pretrained, read_identities, same_labels
from partial_fc.checkpoint.tools import dense_blocks
from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.config import parse_arguments
from partial_fc.data.decode import decode
from partial_fc.data.records import RecordSource
from partial_fc.evaluation.model import load_model
from partial_fc.params_file import read_params
from partial_fc.testing_run import parameters_of, write_tiny_faces
from partial_fc.train import main, train
from partial_fc.trainer import Trainer
from symbol import build_backbone

FIXED = "arg:fc1_gamma"  # of a BatchNorm whose gamma counts as 1: MXNet writes a 1 there when it runs
OLD, ALL = 7, 11  # identities of the first run, of the second


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 7 identities; the same images are the first 7 of 11 in `more`."""
    directory = tmp_path_factory.mktemp("first")
    for name, identities in (("old", OLD), ("more", ALL)):
        (directory / name).mkdir()
        write_tiny_faces(directory / name, identities=identities)
    assert main(options(directory / "old", directory / "models", "--max-update", "6", "--lr", "0.05")) == 0
    return directory


def options(faces: Path, models: Path, *more: str) -> list[str]:
    return [
        *("--rec", str(faces / "train.rec"), "--models-root", str(models), "--network", "toy", "--image-size", "24"),
        *("--embedding-size", "16", "--batch-size", "4", "--log-every-updates", "1", *more),
    ]


def model_of(directory: Path) -> str:
    return f"{directory / 'models' / 'toy-cosface-old' / 'model'},0"


def checkpoint_of(directory: Path) -> Path:
    return directory / "models" / "toy-cosface-old" / "update-00000006"


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str], int], list[dict[str, np.ndarray]]]:
    """What each rank has before its first update, by name."""

    def run(arguments: list[str], ranks: int = 1) -> list[dict[str, np.ndarray]]:
        def noted(trainer: Trainer, *_: object) -> None:
            centers = trainer.head.centers
            touched = np.concatenate([store.touched_R for store in centers.stores])
            arrays = {f"arg:{name}": array for name, array in parameters_of(trainer).items()}
            arrays |= {f"aux:{name}": array.asnumpy() for name, array in trainer.backbone.statistics.items()}
            store = centers.stores[0]
            arrays |= {"weight": store.weight_RD.asnumpy(), "momentum": store.momentum_RD.asnumpy(), "touched": touched}
            notes[trainer.collectives.rank] = arrays

        notes: dict[int, dict[str, np.ndarray]] = {}
        monkeypatch.setattr(Trainer, "train", noted)
        config = parse_arguments(arguments, "toy")
        run_thread_ranks(ranks, lambda collectives: train(config, collectives))
        return [notes[rank] for rank in range(ranks)]

    return run


def saved_weight(checkpoint: Path) -> np.ndarray:
    (block,) = SavedCheckpoint(checkpoint).part("centers").rows()
    return block.arrays["weight"]


def mean_embeddings(first_run: Path, labels: range) -> np.ndarray:
    """(S, D): the direction of the mean embedding of each identity's images, computed one by one."""
    source = RecordSource(first_run / "more" / "train.rec")
    backbone = make_backbone(first_run)
    means = []
    for label in labels:
        units = []
        for index in np.flatnonzero(source.labels() == label):
            embedding = backbone.embed(decode(source.read(int(index))[0], (24, 24))[None])[0].astype(np.float64)
            units.append(embedding / np.linalg.norm(embedding))
        mean = np.mean(units, axis=0)
        means.append(mean / np.linalg.norm(mean))
    source.close()
    return np.array(means)


def make_backbone(first_run: Path, **more: object) -> Backbone:
    network = build_backbone("toy", 16, train_on="cpu")
    backbone = Backbone(
        network, batch_size=1, image_size=24, collectives=SingleProcess(), context=mx.cpu(), seed=5, **more
    )
    load_pretrained(backbone, model_of(first_run))
    return backbone


@pytest.mark.parametrize("ranks", [1, 3])
class TestIdentitiesAdded:
    def test_old_rows_are_kept_and_new_ones_are_the_mean_embedding(self, first_run, tmp_path, begun, ranks) -> None:
        arguments = ["--pretrained", model_of(first_run), "--centers", str(checkpoint_of(first_run))]
        notes = begun(options(first_run / "more", tmp_path, *arguments), ranks)
        weight = np.concatenate([note["weight"] for note in notes])
        old = saved_weight(checkpoint_of(first_run))
        np.testing.assert_array_equal(weight[:OLD], old)
        length = np.linalg.norm(old, axis=1).mean()
        expected = length * mean_embeddings(first_run, range(OLD, ALL))
        np.testing.assert_allclose(weight[OLD:], expected, atol=1e-5 * length)
        assert all(note["touched"].all() and not note["momentum"].any() for note in notes)
        saved = read_params(f"{model_of(first_run)[:-2]}-0000.params")
        for note in notes:
            for name, array in saved.items():
                if name != FIXED:
                    np.testing.assert_array_equal(note[name], array, err_msg=name)

    def test_a_file_says_who_is_who_and_the_others_are_removed(self, first_run, tmp_path, begun, ranks) -> None:
        (tmp_path / "who").write_text("# label old_label\n0 6\n\n10 0   # the first one is the last now\n5 3\n")
        arguments = ["--pretrained", model_of(first_run), "--centers", str(checkpoint_of(first_run))]
        notes = begun(options(first_run / "more", tmp_path, *arguments, "--identities", str(tmp_path / "who")), ranks)
        weight = np.concatenate([note["weight"] for note in notes])
        old = saved_weight(checkpoint_of(first_run))
        np.testing.assert_array_equal(weight[[0, 10, 5]], old[[6, 0, 3]])
        length = np.linalg.norm(old[[6, 0, 3]], axis=1).mean()
        new = [1, 2, 3, 4, 6, 7, 8, 9]
        np.testing.assert_allclose(np.linalg.norm(weight[new], axis=1), length, rtol=1e-5)


def test_identities_removed_alone(first_run: Path, tmp_path: Path, begun) -> None:
    """7 identities, of a checkpoint that had 11."""
    assert main(options(first_run / "more", tmp_path / "a", "--max-update", "2", "--sample-ratio", "0.3")) == 0
    (checkpoint,) = (tmp_path / "a").glob("*/update-00000002")
    model = f"{checkpoint / 'model'},0"
    (tmp_path / "who").write_text("".join(f"{label} {label + 4}\n" for label in range(OLD)))
    arguments = ["--pretrained", model, "--centers", str(checkpoint), "--identities", str(tmp_path / "who")]
    (note,) = begun(options(first_run / "old", tmp_path / "b", *arguments))
    dense = np.concatenate([block.arrays["weight"] for block in dense_blocks(SavedCheckpoint(checkpoint))])
    np.testing.assert_array_equal(note["weight"], dense[4:])


def test_fine_tuning_starts_low_and_goes_on(first_run: Path, tmp_path: Path) -> None:
    """With its classifier, a backbone's first loss is near its last; a resumed fine-tuning does not begin again."""
    arguments = ["--pretrained", model_of(first_run), "--centers", str(checkpoint_of(first_run)), "--max-update", "4"]
    assert main(options(first_run / "old", tmp_path, *arguments, "--stop-update", "2", "--lr", "0.01")) == 0
    assert main(options(first_run / "old", tmp_path, *arguments, "--resume", "auto", "--lr", "0.01")) == 0
    (checkpoint,) = tmp_path.glob("*/update-00000004")
    assert read_manifest(checkpoint).update == 4


class TestFreeze:
    def run(self, first_run: Path, models: Path, *patterns: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        arguments = ["--pretrained", model_of(first_run), "--freeze", *patterns, "--max-update", "2", "--lr", "0.05"]
        assert main(options(first_run / "old", models, *arguments)) == 0
        (path,) = models.glob("*/update-00000002/model-0000.params")
        return read_params(f"{model_of(first_run)[:-2]}-0000.params"), read_params(path)

    def test_what_is_named_stays_to_the_bit_and_the_rest_learns(self, first_run: Path, tmp_path: Path) -> None:
        before, after = self.run(first_run, tmp_path, "conv0_weight", "stage1_*", "bn0_gamma")
        for name, array in before.items():
            bare = name[4:]
            frozen = bare in ("conv0_weight", "bn0_gamma") or bare.startswith("stage1_")
            assert name == FIXED or np.array_equal(after[name], array) == frozen, name

    @pytest.mark.parametrize("pattern", ["*", "*_[wgbs]*"])
    def test_the_whole_backbone(self, first_run: Path, tmp_path: Path, pattern: str) -> None:
        before, after = self.run(first_run, tmp_path, pattern, "*_beta")
        for name, array in before.items():
            if name != FIXED:
                np.testing.assert_array_equal(after[name], array, err_msg=name)

    def test_a_pattern_that_names_nothing(self, first_run: Path, tmp_path: Path, capsys) -> None:
        assert main(options(first_run / "old", tmp_path, "--freeze", "nothing*")) == 2
        assert "--freeze nothing* names no parameter" in capsys.readouterr().err


class TestPretrained:
    def test_insightface_s_own(self, shared_data: Path) -> None:
        def one_rank(collectives: Collectives) -> np.ndarray:
            network = build_backbone("mobilefacenet", 128, train_on="cpu")
            backbone = Backbone(network, batch_size=2, image_size=112, collectives=collectives, context=mx.cpu())
            load_pretrained(backbone, f"{shared_data / 'models' / 'mobilefacenet_y1' / 'model'},0")
            return backbone.embed(images_BHWC)

        images_BHWC = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3)).astype(np.uint8)
        model = load_model(f"{shared_data / 'models' / 'mobilefacenet_y1' / 'model'},0", mx.cpu(), batch_size=2)
        np.testing.assert_allclose(one_rank(SingleProcess()), model.embed(images_BHWC), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--pretrained", "{models}/nothing,0"], "nothing-symbol.json"),
            (["--pretrained", "{model}"], "PREFIX,EPOCH"),
            (["--pretrained", "{model},0", "--network", "mobilefacenet", "--image-size", "112"], "of another network"),
            (["--pretrained", "{model},0", "--embedding-size", "8"], "has the shape"),
            (["--centers", "{models}"], "--pretrained"),
            (["--pretrained", "{model},0", "--identities", "x"], "--centers"),
            (["--pretrained", "{model},0", "--centers", "{models}"], "no manifest.json"),
        ],
    )
    def test_bad_input_is_one_sentence(self, first_run: Path, tmp_path: Path, capsys, arguments, message) -> None:
        names = {"model": model_of(first_run)[:-2], "models": str(first_run / "models")}
        given = [argument.format(**names) for argument in arguments]
        assert main(options(first_run / "old", tmp_path, *given)) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("error: ")

    def test_fewer_identities_without_a_file(self, first_run: Path, tmp_path: Path, capsys) -> None:
        assert main(options(first_run / "more", tmp_path / "a", "--max-update", "1")) == 0
        (checkpoint,) = (tmp_path / "a").glob("*/update-00000001")
        arguments = ["--pretrained", model_of(first_run), "--centers", str(checkpoint)]
        assert main(options(first_run / "old", tmp_path / "b", *arguments)) == 2
        assert "7 identities and the checkpoint 11" in capsys.readouterr().err


class TestIdentitiesFile:
    def test_reads_who_is_who(self, tmp_path: Path) -> None:
        (tmp_path / "who").write_text("3 0\n  0\t2  # a word\n\n# nothing\n")
        assert read_identities(tmp_path / "who", 5, 3).tolist() == [2, NEW, NEW, 0, NEW]
        assert same_labels(4, 3).tolist() == [0, 1, 2, NEW]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0 0\n0 1\n", "line 2.*earlier line"),
            ("0 1\n1 1\n", "line 2.*earlier line"),
            ("5 0\n", "line 1.*there is not: this run has 5, the checkpoint 3"),
            ("0 3\n", "line 1.*there is not"),
            ("0\n", "line 1.*must read `LABEL OLD_LABEL`"),
            ("-1 0\n", "must read"),
            ("0 1 2\n", "must read"),
            ("9" * 40 + " 0\n", "must read"),
            ("\x00\xff\n", "must read"),
        ],
    )
    def test_a_line_that_is_none(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "who").write_text(text)
        with pytest.raises(ValueError, match=f"who, {message}|who, line 1, {message}"):
            read_identities(tmp_path / "who", 5, 3)
