"""A run with F²C that stopped and was resumed is the run that never stopped; its pool goes to any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from partial_fc.checkpoint import Checkpointer, RunMark, find_checkpoint
from partial_fc.collectives import RankError, run_thread_ranks
from partial_fc.config import parse_arguments
from partial_fc.f2c_parts import f2c_parts
from partial_fc.f2c_trainer import F2CTrainer
from partial_fc.head.class_pool import ClassPool
from partial_fc.params_file import read_params
from partial_fc.resume import restore
from partial_fc.testing_f2c_run import make_f2c_trainer
from partial_fc.testing_run import tiny_network, write_tiny_faces
from partial_fc.train import train

UPDATES = 9  # of 8 pairs and 8 instances: epochs of 31 identities end after 3 updates, of 62 images after 7


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("faces")
    write_tiny_faces(directory, identities=31, images_per_identity=2)
    return directory


def run(faces: Path, models: Path, *options: str, ranks: int = 2) -> None:
    config = parse_arguments(
        [
            *("--rec", str(faces / "train.rec"), "--models-root", str(models), "--network", "toy", "--head", "f2c"),
            *("--image-size", "24", "--embedding-size", "16", "--batch-size", str(8 // ranks), "--lr", "0.02"),
            *("--max-update", str(UPDATES), "--log-every-updates", "1", "--queue-size", "14", *options),
        ],
        "toy",
    )
    run_thread_ranks(ranks, lambda collectives: train(config, collectives))


def outcome_of(models: Path) -> tuple[list[tuple[int, float]], dict[str, np.ndarray]]:
    (directory,) = models.iterdir()
    records = [json.loads(line) for line in (directory / "log.jsonl").open()]
    losses = [(record["update"], record["loss"]) for record in records if "loss" in record]
    files = sorted((directory / f"update-{UPDATES:08d}").glob("*.params"))
    return losses, {f"{file.name} {name}": array for file in files for name, array in read_params(file).items()}


@pytest.mark.parametrize("options", [(), ("--loss", "sv", "--fp16")], ids=str)
def test_a_resumed_run_is_the_one_that_never_stopped(faces, tmp_path, options):
    run(faces, tmp_path / "whole", *options)
    for stop in (5, UPDATES):
        more = ("--save-every-updates", "2", "--resume", "auto", "--stop-update", str(stop))
        run(faces, tmp_path / "parts", *options, *more)
    (losses, arrays), (expected_losses, expected) = (outcome_of(tmp_path / name) for name in ("parts", "whole"))
    assert losses == expected_losses
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def parts_of(trainer: F2CTrainer) -> dict[str, object]:
    """All parts but the loaders, which a small run has none of."""
    trainer.loader.pairs = trainer.loader.instances = trainer.loader
    return f2c_parts(trainer, deployed_network=tiny_network(), rank=trainer.collectives.rank)


def pool_of(ranks: list[ClassPool]) -> dict[str, object]:
    state = ranks[0].lru.state()
    return {
        "prototypes": np.concatenate([np.stack([p.asnumpy() for p in pool.prototypes]) for pool in ranks], axis=1),
        "pointers": ranks[0].pointer_Q,
        "identities": state["identities"],
        "slots": state["slots"],
    }


@pytest.mark.parametrize(("before", "after"), [(4, 3), (1, 4), (3, 1)])
def test_the_pool_is_resharded_exactly_and_the_loss_goes_on(tmp_path, before, after):
    def first(collectives):
        trainer = make_f2c_trainer(collectives)
        for _ in range(3):
            trainer.step()
        checkpoints = Checkpointer(tmp_path, parts_of(trainer), dict, collectives, RunMark("run"), keep=0)
        checkpoints.begin(trainer.update)
        pool = trainer.head.pool
        copy = ClassPool(pool.slots, pool.embedding_size, rank=collectives.rank, ranks=collectives.size, seed=3)
        copy.lru.restore(pool.lru.state())
        copy.pointer_Q[:] = pool.pointer_Q
        copy.prototypes = [prototype.copy() for prototype in pool.prototypes]
        losses = [trainer.step().loss for _ in range(2)]  # the save goes on beside them
        checkpoints.finish()
        return copy, losses

    def second(collectives):
        trainer = make_f2c_trainer(collectives)
        restore(find_checkpoint("auto", tmp_path, collectives), parts_of(trainer), collectives)
        pool = trainer.head.pool
        lru, pointers = pool.lru.state(), pool.pointer_Q.copy()
        prototypes = [prototype.copy() for prototype in pool.prototypes]
        return prototypes, pointers, lru, [trainer.step().loss for _ in range(2)]

    old, new = run_thread_ranks(before, first), run_thread_ranks(after, second)
    expected = pool_of([pool for pool, _ in old])
    found = np.concatenate([np.stack([p.asnumpy() for p in of_rank[0]]) for of_rank in new], axis=1)
    np.testing.assert_array_equal(found, expected["prototypes"])
    for _, pointers, lru, losses in new:
        np.testing.assert_array_equal(pointers, expected["pointers"])
        np.testing.assert_array_equal(lru["identities"], expected["identities"])
        np.testing.assert_array_equal(lru["slots"], expected["slots"])
        np.testing.assert_allclose(losses, old[0][1], rtol=1e-5)


def test_a_pool_of_another_size_is_refused(faces, tmp_path):
    run(faces, tmp_path, "--stop-update", "2")
    with pytest.raises(RankError, match="pool has slots = 14 and this run's has slots = 15: resume with"):
        run(faces, tmp_path, "--queue-size", "15", "--resume", "auto")


def test_a_pool_below_a_gathered_batch_is_refused(faces, tmp_path):
    with pytest.raises(RankError, match="holds up to 12, but --queue-size is 11: set it to 12 or more"):
        run(faces, tmp_path, "--queue-size", "11")
    assert not any(tmp_path.iterdir())


def test_a_pool_past_the_memory_is_refused(faces, tmp_path):
    with pytest.raises(RankError, match="a pool of 900000000 slots takes .* MiB, and .* MiB are free"):
        run(faces, tmp_path, "--queue-size", "900000000")
