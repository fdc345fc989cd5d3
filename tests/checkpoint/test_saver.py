from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from partial_fc.checkpoint import MANIFEST, Checkpointer, RunMark, read_manifest, run_parts
from partial_fc.collectives import Collectives, RankError, SingleProcess, run_thread_ranks
from partial_fc.head.partition import ClassPartition
from partial_fc.testing import centers_of
from partial_fc.testing_run import GlobalBatches, make_trainer, tiny_network
from partial_fc.trainer import Trainer

CLASSES = 13
DEPLOYED_NETWORK = tiny_network()
BACKBONE_FILES = {"model-symbol.json", "model-0000.params"}


def checkpointer(
    trainer: Trainer, directory: Path, run: str = "run", keep: int = 0, **description: object
) -> Checkpointer:
    rank = trainer.collectives.rank
    parts = run_parts(trainer, deployed_network=DEPLOYED_NETWORK, num_classes=CLASSES, rank=rank)
    return Checkpointer(directory, parts, lambda: description, trainer.collectives, RunMark(run), keep=keep)


def save(trainer: Trainer, directory: Path, update: int = 7, **description: object) -> Path:
    trainer.update = update
    checkpoints = checkpointer(trainer, directory, **description)
    checkpoints.begin(update)
    checkpoints.finish()
    assert checkpoints.newest is not None
    assert checkpoints.newest_update == update
    return checkpoints.newest


def trained(collectives: Collectives, updates: int = 2) -> Trainer:
    """A trainer with its own BatchNorm statistics on each rank, and momenta that are not zero."""
    trainer = make_trainer(collectives, network=tiny_network(), classes=CLASSES, samples=12)
    trainer.train(updates)
    return trainer


def files_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def check_manifest(directory: Path, files: set[str]) -> dict[str, object]:
    """The directory holds these files and the manifest, which tells the bytes and SHA-256 of each."""
    assert files_below(directory) == files | {MANIFEST}
    manifest = json.loads((directory / MANIFEST).read_text())
    for name, facts in manifest["files"].items():
        if name in files:
            content = (directory / name).read_bytes()
            assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}, name
    assert files <= set(manifest["files"])
    return manifest


def expected_files(ranks: int, of_ranks: list[int] | None = None) -> set[str]:
    numbers = range(ranks) if of_ranks is None else of_ranks
    own = {f"{part}-{rank}-of-{ranks}.params" for rank in numbers for part in ("centers", "backbone")}
    return own | BACKBONE_FILES | {"backbone-momentum.params"}


@pytest.mark.parametrize("size", [1, 3])
class TestTheFiles:
    def test_the_backbone_is_an_mxnet_checkpoint_with_its_embeddings(self, size: int, tmp_path: Path) -> None:
        images_BHWC = GlobalBatches(SingleProcess(), samples=12 // size, seed=9).next_batch().images_BHWC

        def one_rank(collectives: Collectives) -> np.ndarray:
            trainer = trained(collectives)
            assert save(trainer, tmp_path) == tmp_path / "update-00000007"
            with trainer.backbone.averaged_statistics():
                return trainer.backbone.embed(images_BHWC)

        embeddings = run_thread_ranks(size, one_rank)
        pixels = mx.nd.array(images_BHWC.transpose(0, 3, 1, 2))
        for directory in (tmp_path, tmp_path / "update-00000007"):
            network, arguments, statistics = mx.model.load_checkpoint(str(directory / "model"), 0)
            assert network.list_outputs() == ["fc1_output"]
            bound = network.bind(mx.cpu(), arguments | {"data": pixels}, aux_states=statistics)
            found = bound.forward(is_train=False)[0].asnumpy()
            for embedding in embeddings:
                np.testing.assert_allclose(found, embedding, rtol=1e-5, atol=1e-6)

    def test_statistics_are_the_mean_over_ranks(self, size: int, tmp_path: Path) -> None:
        def one_rank(collectives: Collectives) -> None:
            trainer = trained(collectives)
            trainer.backbone.statistics["bn0_moving_mean"][:] = 10.0**collectives.rank
            save(trainer, tmp_path)

        run_thread_ranks(size, one_rank)
        saved = mx.nd.load(str(tmp_path / "model-0000.params"))["aux:bn0_moving_mean"].asnumpy()
        np.testing.assert_allclose(saved, np.mean([10.0**rank for rank in range(size)]), rtol=1e-6)

    def test_centers_and_momenta_are_each_ranks_own(self, size: int, tmp_path: Path) -> None:
        def one_rank(collectives: Collectives) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
            trainer = trained(collectives)
            save(trainer, tmp_path)
            momenta = {name: array.asnumpy() for name, array in trainer.optimizer.momenta.items()}
            return *centers_of(trainer.head), momenta

        directory = tmp_path / "update-00000007"
        partition = ClassPartition(CLASSES, size)
        for rank, (centers, center_momenta, momenta) in enumerate(run_thread_ranks(size, one_rank)):
            saved = mx.nd.load(str(directory / f"centers-{rank}-of-{size}.params"))
            first = partition.start(rank)
            assert set(saved) == {"rows:0", "weight:0", "momentum:0", "inverse_norm:0"}
            assert saved["rows:0"].asnumpy().tolist() == list(range(first, first + partition.count(rank)))
            np.testing.assert_array_equal(saved["weight:0"].asnumpy(), centers)
            np.testing.assert_array_equal(saved["momentum:0"].asnumpy(), center_momenta)
            assert np.abs(center_momenta).max() > 0
            saved = mx.nd.load(str(directory / "backbone-momentum.params"))
            assert set(saved) == set(momenta)
            for name, array in momenta.items():
                np.testing.assert_array_equal(saved[name].asnumpy(), array)

    def test_the_manifest_lists_them_with_sizes_and_sums(self, size: int, tmp_path: Path) -> None:
        description = {"loss_scale": 8.0, "config": {"lr": 1}}
        run_thread_ranks(size, lambda collectives: save(trained(collectives), tmp_path, **description))
        manifest = check_manifest(tmp_path / "update-00000007", expected_files(size))
        assert manifest["values"]["trainer"] == [{"update": 7, "loss_scale": 1.0, "clean_updates": 0}] * size
        assert manifest["values"]["loader"] == [{"number": 2}] * size
        assert (manifest["update"], manifest["ranks"], manifest["elsewhere"]) == (7, size, {})
        assert {name: manifest[name] for name in description} == description
        assert read_manifest(tmp_path / "update-00000007").description == description
        assert {path.name for path in tmp_path.iterdir()} == BACKBONE_FILES | {"update-00000007", "run.json"}


class TestOverAnEarlierOne:
    def test_an_update_of_the_same_number_is_replaced_whole(self, tmp_path: Path) -> None:
        run_thread_ranks(3, lambda collectives: save(trained(collectives), tmp_path))
        trainer = trained(SingleProcess(), updates=3)
        save(trainer, tmp_path)
        check_manifest(tmp_path / "update-00000007", expected_files(1))
        saved = mx.nd.load(str(tmp_path / "model-0000.params"))
        np.testing.assert_array_equal(
            saved["arg:fc1_weight"].asnumpy(), trainer.backbone.parameters["fc1_weight"].asnumpy()
        )
        assert {path.name for path in tmp_path.iterdir()} == BACKBONE_FILES | {"update-00000007", "run.json"}

    def test_the_newest_backbone_is_beside_both_updates(self, tmp_path: Path) -> None:
        trainer = trained(SingleProcess())
        save(trainer, tmp_path, update=2)
        trainer.train(3)
        save(trainer, tmp_path, update=3)
        for name in BACKBONE_FILES:
            newest = (tmp_path / "update-00000003" / name).read_bytes()
            assert (tmp_path / name).read_bytes() == newest
        old, new = (
            (tmp_path / f"update-0000000{update}" / "model-0000.params").read_bytes() for update in (2, 3)
        )
        assert old != new

    def test_what_an_interrupted_save_left_does_not_get_in(self, tmp_path: Path) -> None:
        left = tmp_path / ".update-00000007.another.partial"
        left.mkdir()
        (left / "centers-5-of-8.params").write_text("half of a file")
        save(trained(SingleProcess()), tmp_path)
        check_manifest(tmp_path / "update-00000007", expected_files(1))


def test_everything_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure leaves a whole directory or none."""
    done = []
    sync, replace = os.fsync, os.replace

    def recorded_sync(descriptor: int) -> None:
        sync(descriptor)
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def recorded_replace(source: Path, target: Path) -> None:
        replace(source, target)
        done.append((str(source), str(target)))

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    final, partial = save(trained(SingleProcess()), tmp_path), tmp_path / ".update-00000007.run.partial"
    published = done.index((str(partial), str(final)))
    files = expected_files(1) | {MANIFEST}
    assert {str(partial), *(str(partial / name) for name in files)} <= set(done[:published])
    assert str(tmp_path) in done[published:]
    for name in BACKBONE_FILES:
        (copied,) = (i for i, act in enumerate(done) if isinstance(act, tuple) and act[1] == str(tmp_path / name))
        assert done.index(done[copied][0]) < copied, "the copy is synced before it takes the name"
        assert published < copied, "it is the newest one's"


class TestMachines:
    """Four ranks on two machines, which share a disk or have one each."""

    @staticmethod
    def on_two_machines(collectives: Collectives) -> Collectives:
        collectives.local_rank, collectives.local_size = collectives.rank % 2, 2
        return collectives

    def test_that_share_a_disk_make_one_checkpoint(self, tmp_path: Path) -> None:
        def one_rank(collectives: Collectives) -> None:
            save(trained(self.on_two_machines(collectives)), tmp_path)

        for _ in range(5):  # a race would not show each time
            run_thread_ranks(4, one_rank)
            manifest = check_manifest(tmp_path / "update-00000007", expected_files(4))
            assert set(manifest["files"]) == expected_files(4)
            assert {path.name for path in tmp_path.iterdir()} == BACKBONE_FILES | {"update-00000007", "run.json"}

    def test_with_a_disk_each_have_their_ranks_centers_and_a_backbone(self, tmp_path: Path) -> None:
        def one_rank(collectives: Collectives) -> None:
            machine = tmp_path / f"machine{collectives.rank // 2}"
            save(trained(self.on_two_machines(collectives)), machine)

        run_thread_ranks(4, one_rank)
        for machine, ranks in (("machine0", [0, 1]), ("machine1", [2, 3])):
            directory = tmp_path / machine / "update-00000007"
            manifest = check_manifest(directory, expected_files(4, ranks))
            assert set(manifest["files"]) == expected_files(4, ranks), "no file is named that is not there"
            assert set(manifest["files"]) | set(manifest["elsewhere"]) == expected_files(4)
            assert {path.name for path in directory.parent.iterdir()} == BACKBONE_FILES | {directory.name, "run.json"}


def fill_the_disk(directory: Path, name: str, update: int = 7) -> None:
    """The next save of the update writes this file to a device that is always full."""
    partial = directory / f".update-{update:08d}.run.partial"
    partial.mkdir()
    (partial / name).symlink_to("/dev/full")


class TestWhenOneRankCannotWrite:
    @staticmethod
    def check(directory_of: Callable[[Collectives], Path], message: str, size: int = 3) -> None:
        errors = []

        def one_rank(collectives: Collectives) -> None:
            trainer = trained(collectives)
            with pytest.raises(RankError, match=message) as caught:
                save(trainer, directory_of(collectives))
            errors.append(str(caught.value))

        run_thread_ranks(size, one_rank)
        assert len(set(errors)) == 1
        assert "\n" not in errors[0]

    def test_a_file_where_the_directory_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "models").write_text("not a directory")
        self.check(lambda _: tmp_path / "models", "models")
        assert files_below(tmp_path) == {"models"}

    def test_on_one_of_the_machines_alone(self, tmp_path: Path) -> None:
        (tmp_path / "machine1").write_text("not a directory")

        def directory_of(collectives: Collectives) -> Path:
            collectives.local_rank = 0
            return tmp_path / f"machine{collectives.rank}"

        self.check(directory_of, "^rank 1: .*machine1")
        assert files_below(tmp_path) == {"machine1"}, "the others keep nothing of it either"

    def test_its_centers_alone(self, tmp_path: Path) -> None:
        fill_the_disk(tmp_path, "centers-1-of-3.params")
        message = "^update 7 is not saved: rank 1: cannot write .*centers-1-of-3.params: No space left on device$"
        self.check(lambda _: tmp_path, message)
        assert files_below(tmp_path) == {"run.json"}

    @pytest.mark.parametrize("name", ["centers-0-of-1.params", "model-0000.params", "model-symbol.json", MANIFEST])
    def test_an_earlier_checkpoint_stays(self, tmp_path: Path, name: str) -> None:
        trainer = trained(SingleProcess())
        save(trainer, tmp_path)
        before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}

        fill_the_disk(tmp_path, name)
        with pytest.raises(RankError, match="No space left"):
            save(trainer, tmp_path)
        assert {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)} == before


def test_the_saved_network_is_the_deployed_one(tmp_path: Path) -> None:
    trainer = trained(SingleProcess())
    save(trainer, tmp_path)
    network, arguments, statistics = mx.model.load_checkpoint(str(tmp_path / "model"), 0)
    assert network.tojson() == DEPLOYED_NETWORK.tojson()
    assert set(arguments) == set(network.list_arguments()) - {"data"}
    assert set(statistics) == set(network.list_auxiliary_states())


def test_rows_that_no_update_has_touched_cost_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(SingleProcess(), network=tiny_network(), classes=101, sample_ratio=0.1)
    trainer.train(1)
    sampled = np.abs(centers_of(trainer.head)[1]).max(axis=1) > 0
    assert 8 <= sampled.sum() <= 10
    save(trainer, tmp_path)
    saved = mx.nd.load(str(tmp_path / "update-00000007" / "centers-0-of-1.params"))
    np.testing.assert_array_equal(saved["rows:0"].asnumpy(), np.flatnonzero(sampled))
    rows, momenta = centers_of(trainer.head)
    np.testing.assert_array_equal(saved["weight:0"].asnumpy(), rows[sampled])
    np.testing.assert_array_equal(saved["momentum:0"].asnumpy(), momenta[sampled])
