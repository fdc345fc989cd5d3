"""`python -m partial_fc.checkpoint`."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from partial_fc.checkpoint import Checkpointer, RunMark, SavedCheckpoint, run_parts
from partial_fc.checkpoint.__main__ import main
from partial_fc.collectives import Collectives, run_thread_ranks
from partial_fc.params_file import read_params
from partial_fc.testing import centers_of
from partial_fc.testing_run import make_trainer, tiny_network

CLASSES, RANKS = 101, 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A checkpoint of three ranks that have touched a part of their rows, and all centers with their momentum."""
    directory = tmp_path_factory.mktemp("run")

    def one_rank(collectives: Collectives) -> tuple[np.ndarray, np.ndarray]:
        trainer = make_trainer(collectives, network=tiny_network(), samples=12, classes=CLASSES, sample_ratio=0.2)
        trainer.train(2)
        rank = collectives.rank
        parts = run_parts(trainer, deployed_network=tiny_network(), num_classes=CLASSES, rank=rank)
        checkpoints = Checkpointer(directory, parts, lambda: {"config": {"seed": 3}}, collectives, RunMark("run"))
        checkpoints.begin(2)
        checkpoints.finish()
        trainer.head.centers.initialize_all()
        return centers_of(trainer.head)

    weights, momenta = zip(*run_thread_ranks(RANKS, one_rank), strict=True)
    return directory / "update-00000002", np.concatenate(weights), np.concatenate(momenta)


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    return error


def test_inspect_says_what_there_is(saved, capsys: pytest.CaptureFixture[str]) -> None:
    run("inspect", saved[0])
    output = capsys.readouterr().out
    for part in ("update 2, saved by 3 ranks", "part centers", "rows 0 to 100", "centers-2-of-3.params", "seed"):
        assert part in output


def test_verify_finds_what_is_damaged(saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("verify", saved[0])
    assert "is whole: 9 files" in capsys.readouterr().out
    directory = tmp_path / "copy"
    run("split", saved[0], directory, "--ranks", 3)
    content = bytearray((directory / "centers-1-of-3.params").read_bytes())
    content[-1] ^= 1
    (directory / "centers-1-of-3.params").write_bytes(content)
    assert "centers-1-of-3.params is damaged" in refused(capsys, "verify", directory)


@pytest.mark.parametrize("momentum", [False, True])
def test_merge_puts_all_centers_into_one_file(saved, tmp_path: Path, momentum: bool) -> None:
    directory, weights, momenta = saved
    run("merge", directory, tmp_path / "all.params", *(["--momentum"] if momentum else []))
    arrays = mx.nd.load(str(tmp_path / "all.params"))
    assert set(arrays) == ({"weight", "momentum"} if momentum else {"weight"})
    np.testing.assert_array_equal(arrays["weight"].asnumpy(), weights)
    if momentum:
        np.testing.assert_array_equal(arrays["momentum"].asnumpy(), momenta)
    assert [path.name for path in tmp_path.iterdir()] == ["all.params"]


@pytest.mark.parametrize("ranks", [1, 4])
def test_split_makes_a_checkpoint_of_another_number_of_ranks(saved, tmp_path: Path, ranks: int) -> None:
    run("split", saved[0], tmp_path / "new", "--ranks", ranks)
    run("verify", tmp_path / "new")
    run("merge", tmp_path / "new", tmp_path / "all.params", "--momentum")
    arrays = read_params(tmp_path / "all.params")
    np.testing.assert_array_equal(arrays["weight"], saved[1])
    np.testing.assert_array_equal(arrays["momentum"], saved[2])
    checkpoint = SavedCheckpoint(tmp_path / "new", rank=0, ranks=ranks)
    assert checkpoint.part("trainer").values["update"] == 2
    old = SavedCheckpoint(saved[0]).part("backbone")
    mean = np.mean([old.own(rank)["bn0_moving_mean"] for rank in range(RANKS)], axis=0)
    np.testing.assert_allclose(checkpoint.part("backbone").own(ranks - 1)["bn0_moving_mean"], mean, rtol=1e-6)


def test_export_copies_the_backbone_alone(saved, tmp_path: Path) -> None:
    run("export", saved[0], tmp_path / "out" / "face", "--epoch", 7)
    network, arguments, statistics = mx.model.load_checkpoint(str(tmp_path / "out" / "face"), 7)
    assert set(arguments) | set(statistics) == set(network.list_inputs()) - {"data"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"face-symbol.json", "face-0007.params"}


class TestConvert:
    """10 identities of the original project on 4 ranks: 3 rows each, of which the last rank's two are nobody's."""

    @staticmethod
    def write(directory: Path, ranks: int = 4, rows: int = 3) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(1)
        arrays = []
        for suffix in ("", "_mom"):
            values = rng.normal(size=(ranks, rows, 5)).astype(np.float32)
            arrays.append(values)
            for rank in range(ranks):
                mx.nd.save(str(directory / f"{rank}_centers{suffix}.param"), mx.nd.array(values[rank]))
        return arrays[0].reshape(-1, 5), arrays[1].reshape(-1, 5)

    def test_rows_past_the_last_identity_are_dropped(self, tmp_path: Path) -> None:
        weights, momenta = self.write(tmp_path)
        run("convert", tmp_path, tmp_path / "new", "--num-classes", 10)
        run("verify", tmp_path / "new")
        run("merge", tmp_path / "new", tmp_path / "all.params", "--momentum")
        arrays = read_params(tmp_path / "all.params")
        np.testing.assert_array_equal(arrays["weight"], weights[:10])
        np.testing.assert_array_equal(arrays["momentum"], momenta[:10])

    def test_a_rank_that_holds_nobody(self, tmp_path: Path) -> None:
        weights, _ = self.write(tmp_path, ranks=4, rows=2)
        run("convert", tmp_path, tmp_path / "new", "--num-classes", 5)
        run("merge", tmp_path / "new", tmp_path / "all.params")
        np.testing.assert_array_equal(read_params(tmp_path / "all.params")["weight"], weights[:5])

    def test_what_does_not_fit(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        new = tmp_path / "new"
        assert "holds no {rank}_centers.param" in refused(capsys, "convert", tmp_path, new, "--num-classes", 10)
        self.write(tmp_path)
        error = refused(capsys, "convert", tmp_path, new, "--num-classes", 13)
        assert "holds 3 rows" in error
        assert "= 4 each" in error
        (tmp_path / "2_centers_mom.param").unlink()
        assert "2_centers_mom.param" in refused(capsys, "convert", tmp_path, new, "--num-classes", 10)
        (tmp_path / "1_centers.param").unlink()
        assert "1_centers.param is missing" in refused(capsys, "convert", tmp_path, new, "--num-classes", 10)
        assert not new.exists()
        assert not list(tmp_path.glob(".new*")), "nothing half-written is left"


def test_bad_input_is_one_sentence(saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no checkpoint" in refused(capsys, "inspect", tmp_path / "nothing")
    assert "--ranks must be at least 1" in refused(capsys, "split", saved[0], tmp_path / "new", "--ranks", 0)
    assert "101 identities for 102 ranks" in refused(capsys, "split", saved[0], tmp_path / "new", "--ranks", 102)
    (tmp_path / "there").mkdir()
    assert "exists already" in refused(capsys, "split", saved[0], tmp_path / "there", "--ranks", 2)
    assert {path.name for path in tmp_path.iterdir()} == {"there"}


def test_a_converted_checkpoint_is_no_run_to_resume(tmp_path: Path) -> None:
    TestConvert.write(tmp_path)
    run("convert", tmp_path, tmp_path / "new", "--num-classes", 10)
    with pytest.raises(ValueError, match="has no part 'trainer', but centers"):
        SavedCheckpoint(tmp_path / "new").part("trainer")
