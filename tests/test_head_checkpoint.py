"""A head saved alone: training goes on as if it had not stopped, on as many ranks or on others."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

from partial_fc.checkpoint.__main__ import main as checkpoint_tool
from partial_fc.checkpoint.directory import RunMark
from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.head.f2c import F2C
from partial_fc.head.partial_fc import PartialFC
from partial_fc.head_checkpoint import load_head, save_head
from partial_fc.testing import LayerCase, centers_of, own_part
from partial_fc.testing_f2c import F2CCase

CASE = LayerCase(23, sample_ratio=0.4)
POOL = F2CCase("AM")


def train(head: PartialFC, collectives: Collectives, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x_BD, label_B = (own_part(part, collectives) for part in CASE.batch(step))
        with autograd.record():
            loss = head(nd.array(x_BD), label_B)
        loss.backward()
        head.step(CASE.learning_rate)
        losses.append(loss.asscalar())
    return losses


def train_pool(head: F2C, collectives: Collectives, steps: range) -> list[float]:
    losses = []
    for step in steps:
        embeddings, x_N, y_N = POOL.batch(step)
        probe, _, _, gallery = (nd.array(own_part(part, collectives)) for part in embeddings)
        with autograd.record():
            loss = head(probe, own_part(x_N, collectives), gallery, own_part(y_N, collectives))
        loss.backward()
        head.step()
        losses.append(loss.asscalar())
    return losses


def test_training_goes_on_to_the_bit_on_as_many_ranks(tmp_path: Path) -> None:
    def stop_and_go_on(collectives: Collectives) -> None:
        whole, first, second = (CASE.make_layer(collectives) for _ in range(3))
        expected = train(whole, collectives, range(6))
        before = train(first, collectives, range(3))
        saved = save_head(first, tmp_path)
        assert saved.name == "update-00000003"
        assert load_head(second, tmp_path) == saved and second.update == 3
        assert before + train(second, collectives, range(3, 6)) == expected
        for ours, theirs in zip(centers_of(second), centers_of(whole), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    run_thread_ranks(2, stop_and_go_on)


@pytest.mark.parametrize("ranks", [1, 3])
def test_other_ranks_go_on_with_the_same_centers(ranks: int, tmp_path: Path) -> None:
    def save(collectives: Collectives) -> tuple[np.ndarray, np.ndarray]:
        head = CASE.make_layer(collectives)
        train(head, collectives, range(2))
        save_head(head, tmp_path / "heads")
        return centers_of(head)

    def load(collectives: Collectives) -> tuple[np.ndarray, np.ndarray]:
        head = CASE.make_layer(collectives)
        load_head(head, tmp_path / "heads" / "update-00000002")
        return centers_of(head)

    saved, loaded = run_thread_ranks(2, save), run_thread_ranks(ranks, load)
    for number in range(2):
        whole, again = (np.concatenate([centers[number] for centers in of_ranks]) for of_ranks in (saved, loaded))
        np.testing.assert_array_equal(again, whole)
    # The tool writes the centers in one file, those that were never sampled too.
    assert checkpoint_tool(["merge", str(tmp_path / "heads" / "update-00000002"), str(tmp_path / "w.params")]) == 0
    weight_CD = mx.nd.load(str(tmp_path / "w.params"))["weight"].asnumpy()
    np.testing.assert_array_equal(weight_CD, np.concatenate([centers[0] for centers in loaded]))


def test_a_pool_goes_on_to_the_bit(tmp_path: Path) -> None:
    def stop_and_go_on(collectives: Collectives) -> None:
        whole, first, second = (POOL.make_head(collectives) for _ in range(3))
        expected = train_pool(whole, collectives, range(4))
        before = train_pool(first, collectives, range(2))
        save_head(first, tmp_path)
        load_head(second, tmp_path)
        assert before + train_pool(second, collectives, range(2, 4)) == expected

    run_thread_ranks(2, stop_and_go_on)


def test_a_call_that_no_step_follows_is_not_saved(tmp_path: Path) -> None:
    head, before = (POOL.make_head(SingleProcess()) for _ in range(2))
    embeddings, x_N, y_N = POOL.batch(0)
    with autograd.record():
        head(nd.array(embeddings[0]), x_N, nd.array(embeddings[3]), y_N)
    save_head(head, tmp_path)
    load_head(head, tmp_path)
    assert len(head.pool.lru.state()["identities"]) == 0
    for ours, theirs in zip(head.pool.prototypes, before.pool.prototypes, strict=True):
        np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())


def test_the_newest_whole_one_is_taken_and_old_ones_go(tmp_path: Path) -> None:
    head, losses = CASE.make_layer(SingleProcess()), []
    for step in range(4):
        losses += train(head, SingleProcess(), range(step, step + 1))
        save_head(head, tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.glob("update-*")) == ["update-00000003", "update-00000004"]
    centers = next((tmp_path / "update-00000004").glob("centers-*.params"))
    centers.write_bytes(centers.read_bytes()[:-1] + b"?")
    again = CASE.make_layer(SingleProcess())
    assert load_head(again, tmp_path).name == "update-00000003"
    assert train(again, SingleProcess(), range(3, 4)) == losses[3:]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_classes": 24}, "classes = 23 and this run has classes = 24"),
        ({"embedding_size": 17}, "embedding_size = 16 and this run has embedding_size = 17"),
        ({"seed": 4}, "seed = 0 and this one 4: make it with seed=0"),
    ],
)
def test_another_head_is_refused_and_stays_as_it_is(other: dict[str, int], message: str, tmp_path: Path) -> None:
    saved = CASE.make_layer(SingleProcess())
    train(saved, SingleProcess(), range(1))
    save_head(saved, tmp_path)
    head = PartialFC(**{"num_classes": 23, "embedding_size": 16, "seed": 0} | other)
    before = centers_of(head)
    with pytest.raises(ValueError, match=message):
        load_head(head, tmp_path)
    assert head.update == 0
    for ours, theirs in zip(centers_of(head), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_negative_number_of_checkpoints_to_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 for all, but is -1"):
        save_head(CASE.make_layer(SingleProcess()), tmp_path, keep=-1)
    assert not any(tmp_path.iterdir())


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    head = CASE.make_layer(SingleProcess())
    with pytest.raises(ValueError, match=r"no checkpoint of a head in .*: save_head\(\) makes one"):
        load_head(head, tmp_path / "nothing")
    RunMark("3f7a").write(tmp_path / "run")
    with pytest.raises(ValueError, match="belongs to a training run: save the head in a directory of its own"):
        save_head(head, tmp_path / "run")
    save_head(head, tmp_path / "heads")
    with pytest.raises(ValueError, match="has no part 'pool', but centers, head"):
        load_head(POOL.make_head(SingleProcess()), tmp_path / "heads")
