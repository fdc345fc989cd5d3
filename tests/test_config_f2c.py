"""What the command line says of F²C."""

from __future__ import annotations

import logging
from pathlib import Path

import mxnet as mx
import pytest

import default
from partial_fc.collectives import run_thread_ranks
from partial_fc.config import RunConfig, parse_arguments
from partial_fc.config_f2c import pool_slots
from partial_fc.f2c_run import make_f2c_head


def parse(line: str) -> RunConfig:
    return parse_arguments(line.split(), default_network="toy")


def error_of(line: str) -> str:
    with pytest.raises(ValueError) as caught:
        parse(line)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_head_alone_makes_a_run_of_the_embedded_data_set():
    config, plain = parse("--head f2c"), parse("")
    assert (config.head, config.queue_size, config.scale, config.nesterov) == ("f2c", "10%", 32.0, True)
    assert (config.max_update, config.lr_steps, config.epochs) == (plain.max_update, plain.lr_steps, None)
    assert config.run_directory == Path("models/toy-cosface-synthetic-f2c") != plain.run_directory
    assert (config.backbone_batch_size, plain.backbone_batch_size) == (48, 32)


@pytest.mark.parametrize(("head", "queue"), [("f2c", "1%"), ("f2c-0.1%", "0.1%"), ("f2c-0.001%", "0.001%")])
def test_the_recipes_of_the_paper(head, queue):
    config = parse(f"--head {head} --dataset emore --network ir50")
    assert (config.head, config.queue_size) == ("f2c", queue)
    assert (config.lr, config.momentum, config.nesterov, config.weight_decay) == (0.1, 0.9, True, 1e-4)
    assert (config.epochs, config.lr_epochs) == (19, (8, 14, 17))
    counted = config.with_updates(1000)
    assert (counted.max_update, counted.lr_steps, counted.last_update) == (19_000, (8_000, 14_000, 17_000), 19_000)


def test_updates_given_take_the_place_of_epochs():
    config = parse("--head f2c --dataset emore --max-update 70 --lr-steps 50")
    assert (config.epochs, config.max_update, config.lr_steps) == (None, 70, (50,))
    assert config.with_updates(1000) == config


def test_random_images_count_updates():
    config = parse("--head f2c --dataset 1000w --queue-size 100000")
    assert (config.epochs, config.max_update, config.queue_size) == (None, 32_000, 100_000)


@pytest.mark.parametrize("head", default.HEADS)
@pytest.mark.parametrize("dataset", default.DATASETS)
def test_every_head_goes_with_every_data_set(head, dataset):
    config = parse(f"--head {head} --dataset {dataset} --loss sv")
    assert (config.loss_form, config.hard_negatives) == ("sv", 1.2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--head f2c --loss adaface", "--loss adaface is a margin of Partial FC, but --head is f2c: leave one"),
        ("--head f2c --loss curricularface", "--loss curricularface is a margin of Partial FC, but --head is f2c"),
        ("--head f2c --filter-cosine 0.4", "--filter-cosine is one of Partial FC's, but --head is f2c: leave one of"),
        ("--head f2c --sampler uniform", "--sampler is one of Partial FC's, but --head is f2c"),
        ("--head f2c --sample-ratio-steps 9:0.5", "--sample-ratio-steps is one of Partial FC's, but --head is f2c"),
        ("--queue-size 5", "Partial FC has no pool, but --queue-size is 5: give --head f2c"),
        ("--head f2c --queue-size 0", "--queue-size must be at least 1 slot, but is 0"),
        ("--head f2c --queue-size -3", "--queue-size must be at least 1 slot, but is -3"),
        ("--head f2c --queue-size 0%", "must be a number of slots, or a share of the identities as 1%, but is '0%'"),
        ("--head f2c --queue-size 101%", "as 1%, but is '101%'"),
        ("--head f2c --queue-size many", "as 1%, but is 'many'"),
        ("--head f2c --batch-size 7", "--batch-size must be even for F²C, which halves it, but is 7"),
        ("--head f2c --lazy-updates", "could wait for their updates, but --lazy-updates is given: leave it out"),
        ("--head f2c --sample-ratio 0.1", "F²C has no class centers to sample, but --sample-ratio is 0.1: leave it"),
        ("--head f3c", "unknown head 'f3c': choose one of partial_fc, f2c, f2c-0.1%, f2c-0.001%"),
        ("--epochs 0", "--epochs must be positive, but is 0.0"),
        ("--lr-epochs 3,2", "--lr-epochs must be ascending and positive, but is 3.0,2.0"),
    ],
)
def test_bad_values(line, message):
    assert message in error_of(line)


def test_a_share_is_raised_to_what_a_batch_needs_and_a_number_is_not():
    assert pool_slots("1%", identities=10_000, samples=96) == 100
    assert pool_slots("1%", identities=4_000, samples=96) == 96
    assert pool_slots("1%", identities=40, samples=96) == 40
    assert pool_slots(96, identities=4_000, samples=96) == 96
    with pytest.raises(ValueError, match="holds up to 96, but --queue-size is 95: set it to 96 or more"):
        pool_slots(95, identities=4_000, samples=96)


@pytest.mark.parametrize(("identities", "slots", "said"), [(500, 96, 1), (960, 96, 0), (4_000, 400, 0)])
def test_a_share_that_is_raised_is_said_once(caplog, identities, slots, said):
    config = parse("--head f2c --queue-size 10% --batch-size 32 --embedding-size 8")

    def one_rank(collectives):
        return make_f2c_head(config, collectives, mx.cpu(), identities).pool.slots

    with caplog.at_level(logging.WARNING, "partial_fc"):
        assert run_thread_ranks(2, one_rank) == [slots, slots]
    messages = [message for message in caplog.messages if "--queue-size" in message]
    assert messages == [
        "--queue-size 10% of 500 identities is 50 slots: the pool has 96, for the identities of a gathered batch"
    ] * said
