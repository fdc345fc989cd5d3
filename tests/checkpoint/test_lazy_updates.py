"""Checkpoints of class centers that move on while no update samples them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partial_fc.center_storage import Storage
from partial_fc.checkpoint import Checkpointer, RunMark, SavedCheckpoint, find_checkpoint, run_parts
from partial_fc.checkpoint.fine_tune import CentersStart, same_labels
from partial_fc.checkpoint.settled_rows import check_last_updates, read_history
from partial_fc.checkpoint.tools import dense_blocks, split
from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.config import parse_arguments
from partial_fc.head.decay_history import DecayHistory
from partial_fc.head.initialization import initial_rows
from partial_fc.params_file import read_params
from partial_fc.resume import restore
from partial_fc.schedule import make_schedule
from partial_fc.testing import centers_of
from partial_fc.testing_run import make_trainer, tiny_network, write_tiny_faces
from partial_fc.train import train
from partial_fc.trainer import Trainer

CLASSES, UPDATES = 101, 4


Arrays = tuple[np.ndarray, np.ndarray]


def lazy_trainer(collectives: Collectives, lazy: bool = True, storage: Storage | None = None) -> Trainer:
    return make_trainer(
        collectives,
        samples=12,
        classes=CLASSES,
        sample_ratio=0.1,
        learning_rate=0.5,
        lazy_updates=lazy,
        storage=storage,
    )


def save(trainer: Trainer, directory: Path) -> None:
    collectives = trainer.collectives
    parts = run_parts(trainer, deployed_network=tiny_network(), num_classes=CLASSES, rank=collectives.rank)
    checkpoints = Checkpointer(directory, parts, lambda: {"config": {"seed": 3}}, collectives, RunMark("run"))
    checkpoints.begin(trainer.update)
    checkpoints.finish()


def resumed(
    collectives: Collectives, directory: Path, lazy: bool = True, storage: Storage | None = None
) -> Trainer:
    trainer = lazy_trainer(collectives, lazy, storage)
    checkpoint = find_checkpoint("auto", directory, collectives)
    parts = run_parts(trainer, deployed_network=tiny_network(), num_classes=CLASSES, rank=collectives.rank)
    restore(checkpoint, parts, collectives)
    return trainer


def settled_centers(trainer: Trainer) -> Arrays:
    trainer.head.centers.settle_all()
    return centers_of(trainer.head)


def on_ranks(ranks: int, function: Callable[[Collectives], Arrays]) -> Arrays:
    """What each of so many ranks gives, one behind the other."""
    return tuple(np.concatenate(parts) for parts in zip(*run_thread_ranks(ranks, function), strict=True))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arrays]:
    """A run's directory, saved by 3 ranks after some updates, and all its centers with their momentum, up to date."""
    directory = tmp_path_factory.mktemp("run")

    def one_rank(collectives: Collectives) -> Arrays:
        trainer = lazy_trainer(collectives)
        trainer.train(UPDATES)
        save(trainer, directory)
        return settled_centers(trainer)

    return directory, on_ranks(3, one_rank)


@pytest.mark.parametrize("types", ["float32", "host:float16/int8"])
def test_a_resumed_run_is_the_one_that_never_stopped(tmp_path: Path, types: str) -> None:
    storage = Storage.parse(types)

    def one_rank(collectives: Collectives, directory: Path, stops: tuple[int, ...]) -> None:
        for stop in stops:
            trainer = lazy_trainer(collectives, storage=storage)
            if stop != stops[0]:
                trainer = resumed(collectives, directory, storage=storage)
            trainer.learning_rate_at = make_schedule("cosine", 0.5, last=9)
            trainer.train(stop)
            save(trainer, directory)

    for models, stops in (("whole", (8,)), ("parts", (1, 5, 8))):
        run_thread_ranks(2, lambda collectives, m=models, s=stops: one_rank(collectives, tmp_path / m, s))
    whole, parts = (tmp_path / models / "update-00000008" for models in ("whole", "parts"))
    names = sorted(path.name for path in whole.glob("*.params"))
    assert "centers-updates.params" in names and names == sorted(path.name for path in parts.glob("*.params"))
    for name in names:
        expected, found = read_params(whole / name), read_params(parts / name)
        assert expected.keys() == found.keys()
        for array in expected:
            np.testing.assert_array_equal(found[array], expected[array], err_msg=f"{name} {array}")
    last = read_params(whole / "centers-0-of-2.params")["last_update:0"]
    assert len(np.unique(last)) > 2, "rows were last touched at different updates"


def test_the_command_line_names_it(tmp_path: Path) -> None:
    write_tiny_faces(tmp_path)
    arguments = [
        *("--rec", str(tmp_path / "train.rec"), "--models-root", str(tmp_path / "models"), "--network", "toy"),
        *("--image-size", "24", "--embedding-size", "16", "--batch-size", "2", "--max-update", "2"),
        *("--sample-ratio", "0.3", "--lazy-updates"),
    ]
    assert train(parse_arguments(arguments, "toy"), SingleProcess()) == 0
    (directory,) = (tmp_path / "models").glob("*/update-*")
    assert len(read_history(SavedCheckpoint(directory).part("centers"))) == 2


def test_what_is_kept_is_not_up_to_date_and_most_rows_are_not_saved(saved: tuple[Path, Arrays]) -> None:
    part = SavedCheckpoint(saved[0] / f"update-{UPDATES:08d}").part("centers")
    blocks = list(part.rows())
    numbers, last = (np.concatenate(x) for x in zip(*((n, a["last_update"]) for n, a in blocks), strict=True))
    assert 20 < len(numbers) < 70 and last.min() < UPDATES == last.max()
    stale = np.concatenate([arrays["weight"] for _, arrays in blocks])[last < UPDATES]
    assert np.abs(stale - saved[1][0][numbers[last < UPDATES]]).max() > 1e-4


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_other_ranks_go_on_with_the_same_rows(saved: tuple[Path, Arrays], ranks: int) -> None:
    found = on_ranks(ranks, lambda collectives: settled_centers(resumed(collectives, saved[0])))
    for part, expected in zip(found, saved[1], strict=True):
        np.testing.assert_array_equal(part, expected)


def test_a_run_without_the_option_gets_them_up_to_date(saved: tuple[Path, Arrays]) -> None:
    def one_rank(collectives: Collectives) -> Arrays:
        trainer = resumed(collectives, saved[0], lazy=False)
        assert trainer.head.centers.lazy is None
        return centers_of(trainer.head)

    for part, expected in zip(on_ranks(2, one_rank), saved[1], strict=True):
        np.testing.assert_array_equal(part, expected)


def test_rows_of_a_run_without_the_option_have_missed_nothing(tmp_path: Path) -> None:
    plain = lazy_trainer(SingleProcess(), lazy=False)
    plain.train(UPDATES)
    save(plain, tmp_path)
    trainer = resumed(SingleProcess(), tmp_path)
    for part, expected in zip(settled_centers(trainer), centers_of(plain.head), strict=True):
        np.testing.assert_array_equal(part, expected)
    trainer.train(UPDATES + 1)
    assert len(trainer.head.centers.lazy.history) == 1
    # All rows have moved on since, those that no update has sampled too.
    assert (settled_centers(trainer)[0] != centers_of(plain.head)[0]).any(axis=1).all()


def test_the_tools_read_them_up_to_date(saved: tuple[Path, Arrays], tmp_path: Path) -> None:
    checkpoint = SavedCheckpoint(saved[0] / f"update-{UPDATES:08d}")
    for one in (checkpoint, SavedCheckpoint(split(checkpoint, tmp_path / "new", 2))):
        blocks = list(dense_blocks(one))
        for name, expected in zip(("weight", "momentum"), saved[1], strict=True):
            np.testing.assert_array_equal(np.concatenate([b.arrays[name] for b in blocks]), expected)


@pytest.mark.parametrize("lazy", [False, True])
def test_another_run_begins_with_them_up_to_date(saved: tuple[Path, Arrays], lazy: bool) -> None:
    checkpoint = SavedCheckpoint(saved[0] / f"update-{UPDATES:08d}")
    head = make_trainer(SingleProcess(), classes=CLASSES + 2, lazy_updates=lazy).head
    CentersStart(head.centers, same_labels(CLASSES + 2, CLASSES), SingleProcess()).put_old(checkpoint)
    head.centers.settle_all()
    weight_CD, momentum_CD = centers_of(head)
    np.testing.assert_array_equal(weight_CD[:CLASSES], saved[1][0])
    np.testing.assert_array_equal(weight_CD[CLASSES:], initial_rows(3, np.arange(CLASSES, CLASSES + 2), 8))
    assert not momentum_CD.any()


def test_a_save_at_the_first_update_has_no_history_file(tmp_path: Path) -> None:
    save(lazy_trainer(SingleProcess()), tmp_path)
    assert not (tmp_path / "update-00000000" / "centers-updates.params").exists()
    assert len(resumed(SingleProcess(), tmp_path).head.centers.lazy.history) == 0


def test_a_history_that_is_not_what_was_saved_is_refused(saved: tuple[Path, Arrays], tmp_path: Path) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(saved[0] / f"update-{UPDATES:08d}", directory)
    part = SavedCheckpoint(directory).part("centers")
    assert len(read_history(part)) == UPDATES
    part.values["lazy_updates"] = UPDATES + 1
    with pytest.raises(ValueError, match="does not hold the weight decay and momentum of 5 updates"):
        read_history(part)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "do not say which update each has had last"),
        ({"last_update": np.array([1, 2], np.int64)}, "do not say which update"),
        ({"last_update": np.array([1, 4], np.int32)}, "updates outside the 3 that were made"),
        ({"last_update": np.array([-1, 2], np.int32)}, "updates outside the 3 that were made"),
    ],
)
def test_rows_that_have_had_updates_that_nobody_made_are_refused(
    arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_last_updates(arrays, DecayHistory(np.full((3, 2), 0.1)))
