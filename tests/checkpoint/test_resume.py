"""A run that stopped and was resumed is the run that never stopped, to the last bit; other ranks go on with it."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from partial_fc.center_storage import Storage
from partial_fc.checkpoint import Checkpointer, RunMark, find_checkpoint, find_updates, new_mark, run_parts
from partial_fc.collectives import Collectives, RankError, SingleProcess, run_thread_ranks
from partial_fc.config import parse_arguments
from partial_fc.data.loader import TrainingLoader
from partial_fc.params_file import read_params
from partial_fc.resume import restore
from partial_fc.testing import centers_of
from partial_fc.testing_run import make_trainer, parameters_of, tiny_network, write_tiny_faces
from partial_fc.train import train
from partial_fc.trainer import Trainer

UPDATES = 11  # of 8 images: an epoch of the 66 has 8 updates


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("faces")
    write_tiny_faces(directory)
    return directory


def run(faces: Path, models: Path, *options: str, ranks: int = 2) -> None:
    config = parse_arguments(
        [
            *("--rec", str(faces / "train.rec"), "--models-root", str(models), "--network", "toy"),
            *("--image-size", "24", "--embedding-size", "16", "--batch-size", str(8 // ranks), "--lr", "0.02"),
            *("--max-update", str(UPDATES), "--log-every-updates", "1", *options),
        ],
        "toy",
    )
    run_thread_ranks(ranks, lambda collectives: train(config, collectives))


def directory_of(models: Path) -> Path:
    (directory,) = models.iterdir()
    return directory


def losses_of(models: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (directory_of(models) / "log.jsonl").open()]
    return [(record["update"], record["loss"]) for record in records if "loss" in record]


def content_of(checkpoint: Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint."""
    files = sorted(checkpoint.glob("*.params"))
    return {f"{file.name} {name}": array for file in files for name, array in read_params(file).items()}


def check_same(models: Path, expected: Path) -> None:
    assert losses_of(models) == losses_of(expected)
    found, wanted = (content_of(directory_of(d) / f"update-{UPDATES:08d}") for d in (models, expected))
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


class TestExactly:
    @pytest.fixture(scope="class")
    def whole(self, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        models = tmp_path_factory.mktemp("whole")
        run(faces, models, "--sample-ratio", "0.5", "--val", str(faces / "val.bin"), "--verify-every-updates", "3")
        return models

    @pytest.mark.parametrize("stops", [(8,), (3, 7)], ids=str)
    def test_a_resumed_run_is_the_one_that_never_stopped(
        self, faces: Path, tmp_path: Path, whole: Path, stops: tuple[int, ...]
    ) -> None:
        options = ("--sample-ratio", "0.5", "--val", str(faces / "val.bin"), "--verify-every-updates", "3")
        for stop in stops:
            run(faces, tmp_path, *options, "--resume", "auto", "--stop-update", str(stop))
        run(faces, tmp_path, *options, "--resume", "auto")
        check_same(tmp_path, whole)

    def test_whatever_the_centers_are_kept_as(self, faces: Path, tmp_path: Path) -> None:
        for models, stops in (("whole", [UPDATES]), ("parts", [5, UPDATES])):
            for stop in stops:
                options = ("--storage", "host:float16/int8", "--fp16", "--save-every-updates", "2")
                run(faces, tmp_path / models, *options, "--resume", "auto", "--stop-update", str(stop))
        check_same(tmp_path / "parts", tmp_path / "whole")

    @pytest.mark.parametrize("loss", ["adaface", "curricularface"])
    def test_with_what_a_margin_keeps_from_batch_to_batch(self, faces: Path, tmp_path: Path, loss: str) -> None:
        for models, stops in (("whole", [UPDATES]), ("parts", [5, UPDATES])):
            for stop in stops:
                options = ("--loss", loss, "--sample-ratio", "0.5", "--sample-ratio-steps", "4:1")
                run(faces, tmp_path / models, *options, "--resume", "auto", "--stop-update", str(stop))
        check_same(tmp_path / "parts", tmp_path / "whole")

    def test_updates_lost_by_a_crash_are_made_again(self, faces: Path, tmp_path: Path, whole: Path) -> None:
        options = ("--sample-ratio", "0.5", "--val", str(faces / "val.bin"), "--verify-every-updates", "3")
        run(faces, tmp_path, *options, "--save-every-updates", "4", "--stop-update", "6")
        shutil.rmtree(directory_of(tmp_path) / "update-00000006")  # as if it had been killed before that was saved
        run(faces, tmp_path, *options, "--resume", "auto")
        check_same(tmp_path, whole)

    def test_no_image_of_an_epoch_is_lost_or_repeated(
        self, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[int, list[int]] = defaultdict(list)
        next_batch = TrainingLoader.next_batch

        def recorded(loader: TrainingLoader) -> object:
            batch = next_batch(loader)
            seen[batch.epoch] += batch.indices_B.tolist()
            return batch

        monkeypatch.setattr(TrainingLoader, "next_batch", recorded)
        for stop in ("3", "5", str(UPDATES)):
            run(faces, tmp_path, "--resume", "auto", "--stop-update", stop)
        assert [len(seen[epoch]) for epoch in (0, 1)] == [64, 8 * UPDATES - 64]
        assert all(len(set(images)) == len(images) for images in seen.values())


def checkpoints_of(trainer: Trainer, directory: Path, run_name: str = "run", keep: int = 0) -> Checkpointer:
    rank = trainer.collectives.rank
    classes = trainer.head.partition.num_classes
    parts = run_parts(trainer, deployed_network=tiny_network(), num_classes=classes, rank=rank)
    return Checkpointer(directory, parts, dict, trainer.collectives, RunMark(run_name), keep=keep)


def save(trainer: Trainer, directory: Path, run_name: str = "run", keep: int = 0) -> None:
    checkpoints = checkpoints_of(trainer, directory, run_name, keep)
    checkpoints.begin(trainer.update)
    checkpoints.finish()


def resume(trainer: Trainer, directory: Path, request: str = "auto") -> int | None:
    """Restores a trainer; returns the update, or None when there was no checkpoint."""
    checkpoint = find_checkpoint(request, directory, trainer.collectives)
    if checkpoint is None:
        return None
    rank = trainer.collectives.rank
    classes = trainer.head.partition.num_classes
    parts = run_parts(trainer, deployed_network=tiny_network(), num_classes=classes, rank=rank)
    restore(checkpoint, parts, trainer.collectives)
    return trainer.update


class TestOnOtherRanks:
    """BatchNorm is frozen and r = 1: R ranks then compute what one does, up to the order of sums."""

    @pytest.mark.parametrize(("before", "after"), [(4, 3), (8, 3), (1, 4), (3, 1)])
    def test_the_loss_goes_on_as_on_one_line(self, tmp_path: Path, before: int, after: int) -> None:
        def first(collectives: Collectives) -> list[float]:
            trainer = make_trainer(collectives, samples=24, classes=29)
            for _ in range(3):
                trainer.step()
            save(trainer, tmp_path)
            return [trainer.step().loss for _ in range(2)]

        def second(collectives: Collectives) -> list[float]:
            trainer = make_trainer(collectives, samples=24, classes=29)
            assert resume(trainer, tmp_path) == 3
            return [trainer.step().loss for _ in range(2)]

        expected = run_thread_ranks(before, first)[0]
        found = run_thread_ranks(after, second)
        assert len({tuple(losses) for losses in found}) == 1
        np.testing.assert_allclose(found[0], expected, rtol=1e-5)

    @pytest.mark.parametrize("ratio", [1.0, 0.1])
    def test_every_center_and_momentum_is_where_its_identity_is(self, tmp_path: Path, ratio: float) -> None:
        def make(collectives: Collectives) -> Trainer:
            return make_trainer(collectives, samples=12, classes=101, sample_ratio=ratio)

        def first(collectives: Collectives) -> tuple[np.ndarray, np.ndarray]:
            trainer = make(collectives)
            trainer.train(2)
            save(trainer, tmp_path)
            return centers_of(trainer.head)

        def second(collectives: Collectives) -> tuple[np.ndarray, np.ndarray]:
            trainer = make(collectives)
            resume(trainer, tmp_path)
            return centers_of(trainer.head)

        old, new = run_thread_ranks(4, first), run_thread_ranks(3, second)
        for part in (0, 1):
            before, after = (np.concatenate([of_rank[part] for of_rank in ranks]) for ranks in (old, new))
            np.testing.assert_array_equal(after, before)
        assert np.abs(old[0][1]).max() > 0

    def test_each_rank_begins_with_the_mean_statistics(self, tmp_path: Path) -> None:
        def first(collectives: Collectives) -> None:
            trainer = make_trainer(collectives, network=tiny_network(), samples=12)
            trainer.backbone.statistics["bn0_moving_mean"][:] = float(collectives.rank)
            save(trainer, tmp_path)

        def second(collectives: Collectives) -> float:
            trainer = make_trainer(collectives, network=tiny_network(), samples=12)
            resume(trainer, tmp_path)
            return float(trainer.backbone.statistics["bn0_moving_mean"][0].asscalar())

        run_thread_ranks(4, first)
        assert run_thread_ranks(3, second) == [1.5] * 3
        assert run_thread_ranks(4, second) == [0.0, 1.0, 2.0, 3.0], "as many ranks have each their own again"

    @pytest.mark.parametrize("other", ["device:float16/int8", "device:float16/float16", "device:float32/float32"])
    @pytest.mark.parametrize("storage", ["device:float32/float32", "device:float16/int8"])
    def test_rows_kept_as_other_types_are_converted(self, tmp_path: Path, storage: str, other: str) -> None:
        def make(kind: str) -> Trainer:
            trainer = make_trainer(SingleProcess())
            head = type(trainer.head)(
                13, 8, trainer.collectives, margin=trainer.head.margin, scale=16.0, seed=3, storage=Storage.parse(kind)
            )
            trainer.head = head
            return trainer

        first = make(storage)
        first.train(2)
        save(first, tmp_path)
        second = make(other)
        resume(second, tmp_path)
        assert second.step().loss == pytest.approx(first.step().loss, rel=1e-3)
        if storage == other:
            for found, expected in zip(centers_of(second.head), centers_of(first.head), strict=True):
                np.testing.assert_array_equal(found, expected)


def trained(updates: int = 1, **options: object) -> Trainer:
    trainer = make_trainer(SingleProcess(), **options)
    trainer.train(updates)
    return trainer


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class TestWhichCheckpoint:
    def test_auto_takes_the_newest(self, tmp_path: Path) -> None:
        trainer = trained()
        for update in (1, 2, 3):
            trainer.train(update)
            save(trainer, tmp_path)
        resumed = make_trainer(SingleProcess())
        assert resume(resumed, tmp_path) == 3
        for name, array in parameters_of(trainer).items():
            np.testing.assert_array_equal(parameters_of(resumed)[name], array)

    @pytest.mark.parametrize(
        "name", ["centers-0-of-1.params", "model-0000.params", "manifest.json", "model-symbol.json"]
    )
    def test_or_the_one_before_where_a_file_is_damaged(
        self, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        trainer = trained()
        save(trainer, tmp_path)
        trainer.train(2)
        save(trainer, tmp_path)
        damage(tmp_path / "update-00000002" / name)
        assert resume(make_trainer(SingleProcess()), tmp_path) == 1
        assert f"update-00000002/{name}" in caplog.text
        with pytest.raises(RankError, match=f"update-00000002/{name}"):
            resume(make_trainer(SingleProcess()), tmp_path, str(tmp_path / "update-00000002"))

    @pytest.mark.parametrize("how", ["short", "missing", "link"])
    def test_or_where_it_is_another_file(self, tmp_path: Path, how: str) -> None:
        trainer = trained()
        save(trainer, tmp_path)
        trainer.train(2)
        save(trainer, tmp_path)
        path = tmp_path / "update-00000002" / "centers-0-of-1.params"
        content = path.read_bytes()
        path.unlink()
        if how == "short":
            path.write_bytes(content[:-1])
        elif how == "link":
            (tmp_path / "elsewhere").write_bytes(content)
            path.symlink_to(tmp_path / "elsewhere")
        assert resume(make_trainer(SingleProcess()), tmp_path) == 1

    def test_all_damaged_is_an_error_and_no_new_start(self, tmp_path: Path) -> None:
        trainer = trained()
        save(trainer, tmp_path)
        damage(tmp_path / "update-00000001" / "model-0000.params")
        with pytest.raises(RankError, match=r"update-00000001/model-0000\.params is damaged"):
            resume(make_trainer(SingleProcess()), tmp_path)

    def test_none_at_all_is_a_start(self, tmp_path: Path) -> None:
        assert resume(make_trainer(SingleProcess()), tmp_path / "nowhere") is None

    def test_those_of_an_earlier_run_are_not_taken(self, tmp_path: Path) -> None:
        trainer = trained(5)
        save(trainer, tmp_path, "yesterday")
        checkpoints_of(trained(), tmp_path, "today")
        assert resume(make_trainer(SingleProcess()), tmp_path) is None
        save(trained(2), tmp_path, "today")
        assert resume(make_trainer(SingleProcess()), tmp_path) == 2

    def test_a_run_that_began_with_another_ones_falls_back_on_that(self, tmp_path: Path) -> None:
        save(trained(2), tmp_path / "a")
        origin = tmp_path / "a" / "update-00000002"
        trainer = make_trainer(SingleProcess())
        checkpoint = find_checkpoint(str(origin), tmp_path / "b", trainer.collectives)
        mark = new_mark(checkpoint, tmp_path / "b", False, trainer.collectives)
        Checkpointer(tmp_path / "b", {}, dict, trainer.collectives, mark)
        assert resume(trainer, tmp_path / "b") == 2

    def test_what_a_killed_run_left_is_cleaned_and_the_replaced_one_comes_back(self, tmp_path: Path) -> None:
        save(trained(), tmp_path)
        (tmp_path / "update-00000001").rename(tmp_path / ".update-00000001.replaced")
        (tmp_path / ".update-00000002.run.partial").mkdir()
        (tmp_path / ".update-00000003.removed").mkdir()
        assert resume(make_trainer(SingleProcess()), tmp_path) == 1
        assert not list(tmp_path.glob(".update*"))

    def test_a_directory_that_is_none(self, tmp_path: Path) -> None:
        save(trained(), tmp_path)
        with pytest.raises(RankError, match=r"there is no checkpoint .*/nothing"):
            resume(make_trainer(SingleProcess()), tmp_path, str(tmp_path / "nothing"))
        with pytest.raises(RankError, match=r"no manifest\.json: name one of its checkpoints \(update-00000001\)"):
            resume(make_trainer(SingleProcess()), tmp_path, str(tmp_path))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"classes": 14}, "classes = 13 and this run has classes = 14"),
            ({"network": tiny_network(9)}, "fc1_weight has the shape|embedding_size = 8"),
            ({"network": mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=8)}, "another network"),
        ],
    )
    def test_another_run_s_is_refused(self, tmp_path: Path, options: dict[str, object], message: str) -> None:
        save(trained(), tmp_path)
        with pytest.raises(RankError, match=message):
            resume(make_trainer(SingleProcess(), **options), tmp_path)

    def test_keep_leaves_the_newest_of_this_run(self, tmp_path: Path) -> None:
        save(trained(9), tmp_path, "another run")
        trainer = trained()
        for update in (1, 2, 3, 4):
            trainer.train(update)
            save(trainer, tmp_path, keep=2)
        assert sorted(find_updates(tmp_path)) == [3, 4, 9]


class TestADiskForEachMachine:
    """Four ranks on two machines."""

    @staticmethod
    def one_rank(tmp_path: Path, act: Callable[[Trainer, Path], object]) -> Callable[[Collectives], object]:
        def function(collectives: Collectives) -> object:
            collectives.local_rank, collectives.local_size = collectives.rank % 2, 2
            trainer = make_trainer(collectives, samples=12)
            return act(trainer, tmp_path / f"machine{collectives.rank // 2}")

        return function

    def save(self, tmp_path: Path) -> None:
        def act(trainer: Trainer, directory: Path) -> None:
            trainer.train(2)
            save(trainer, directory)

        run_thread_ranks(4, self.one_rank(tmp_path, act))

    def test_the_same_ranks_find_their_own(self, tmp_path: Path) -> None:
        self.save(tmp_path)
        assert run_thread_ranks(4, self.one_rank(tmp_path, resume)) == [2] * 4

    def test_others_are_told_what_lacks_and_go_on_when_it_is_there(self, tmp_path: Path) -> None:
        self.save(tmp_path)
        with pytest.raises(RankError, match=r"centers-2-of-4\.params .* another machine.*copy"):
            resume(make_trainer(SingleProcess(), samples=12), tmp_path / "machine0")
        for path in (tmp_path / "machine1" / "update-00000002").iterdir():
            if path.name != "manifest.json":
                shutil.copy(path, tmp_path / "machine0" / "update-00000002")
        assert resume(make_trainer(SingleProcess(), samples=12), tmp_path / "machine0") == 2

    def test_a_save_that_only_one_of_them_has_finished_is_passed_over(self, tmp_path: Path) -> None:
        self.save(tmp_path)

        def act(trainer: Trainer, directory: Path) -> None:
            resume(trainer, directory)
            trainer.train(3)
            save(trainer, directory)

        run_thread_ranks(4, self.one_rank(tmp_path, act))
        shutil.rmtree(tmp_path / "machine1" / "update-00000003")
        assert run_thread_ranks(4, self.one_rank(tmp_path, resume)) == [2] * 4


class TestBesideTraining:
    def test_a_save_is_of_the_update_at_which_it_began(self, tmp_path: Path) -> None:
        def one_rank(collectives: Collectives) -> tuple[np.ndarray, np.ndarray]:
            trainer = make_trainer(collectives, samples=12, classes=101)
            trainer.train(2)
            expected = centers_of(trainer.head)
            checkpoints = checkpoints_of(trainer, tmp_path)
            checkpoints.begin(2)
            while checkpoints.busy:
                trainer.step()
                checkpoints.poll()
            resumed = make_trainer(collectives, samples=12, classes=101)
            assert resume(resumed, tmp_path) == 2
            for found, wanted in zip(centers_of(resumed.head), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)
            return expected

        run_thread_ranks(3, one_rank)

    def test_a_full_disk_is_a_warning_on_which_training_goes_on(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def one_rank(collectives: Collectives) -> None:
            trainer = make_trainer(collectives, samples=12)
            trainer.train(1)
            checkpoints = checkpoints_of(trainer, tmp_path)
            checkpoints.begin(1)
            checkpoints.finish()
            if collectives.rank == 0:
                partial = tmp_path / ".update-00000002.run.partial"
                partial.mkdir()
                (partial / "centers-1-of-3.params").symlink_to("/dev/full")
            trainer.train(2)
            checkpoints.begin(2)
            while checkpoints.busy:
                trainer.step()
                checkpoints.poll()
            trainer.step()
            assert checkpoints.newest_update == 1

        run_thread_ranks(3, one_rank)
        (warning,) = caplog.messages
        assert "update 2 is not saved: rank 1: cannot write" in warning
        assert "No space left on device; training goes on" in warning
        assert sorted(find_updates(tmp_path)) == [1]
        assert resume(make_trainer(SingleProcess(), samples=12), tmp_path) == 1

    def test_the_next_save_waits_for_the_one_under_way(self, tmp_path: Path) -> None:
        trainer = trained()
        checkpoints = checkpoints_of(trainer, tmp_path)
        for update in (1, 2):
            trainer.train(update)
            checkpoints.begin(update)
        checkpoints.finish()
        assert sorted(find_updates(tmp_path)) == [1, 2]

    def test_what_nobody_foresaw_ends_the_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("nobody foresaw this")

        monkeypatch.setattr("partial_fc.checkpoint.rank_files.RankFiles.write", broken)
        trainer = trained()
        checkpoints = checkpoints_of(trainer, tmp_path)
        checkpoints.begin(1)
        with pytest.raises(RuntimeError, match="nobody foresaw this"):
            checkpoints.finish()
