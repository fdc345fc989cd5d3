"""The cost model: its bytes by what the head benchmark measures, its limits and its time by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from partial_fc import paper
from partial_fc.center_storage import Storage
from partial_fc.cost_model import (
    FUSION_BUFFER_BYTES,
    LARGEST_IDENTITIES,
    MIB,
    Setting,
    Speeds,
    fits,
    head_memory,
    images_per_second,
    largest_identities,
    memory,
    step_seconds,
    total,
    with_fitting_logits,
)
from partial_fc.network_cost import NetworkCost, network_cost

ROOT = Path(__file__).resolve().parents[1]
NETWORK = NetworkCost(1_000_000, 10**9, 5_000_000, 1_000, 37_632)
SPEEDS = Speeds(1e12, 2e12, 1e11, inside_bytes=1e10, network_bytes=1e9, latency_seconds=1e-5, ranks_per_machine=8)


def part_bytes(setting: Setting, name: str) -> int:
    return next(part.bytes for part in memory(setting) if part.name == name)


# ---- memory, as measured ----


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"sample_ratio": 0.3},
        {"logits_chunk": 1000},
        {"storage": Storage(weight="float16", momentum="int8"), "sample_ratio": 0.3},
    ],
    ids=["full", "sampled", "chunked", "small types"],
)
def test_head_memory_is_within_a_tenth_of_the_benchmark(case):
    # At a ratio of 0.3 the benchmark's three steps touch almost every page of the centers.
    setting = Setting(60_000, 1, 128, 256, device="cpu", **case)
    options = {
        "classes": setting.identities,
        "batch-size": setting.batch_size,
        "embedding-size": setting.embedding_size,
        "sample-ratio": setting.sample_ratio,
        "storage": setting.storage,
        "steps": 1,
    }
    if setting.logits_chunk is not None:
        options["logits-chunk"] = setting.logits_chunk
    command = [sys.executable, "benchmarks/head.py", "--without-plain", "--json"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_"))}
    environment |= {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=280, check=True)
    figures = json.loads(run.stdout.splitlines()[-1])
    if figures["kernels"] != "C":
        pytest.skip("the head's kernels are not compiled here")
    parts = head_memory(setting)
    assert setting.sampled == pytest.approx(figures["sampled"], abs=figures["sampled"] / 100)
    assert total(parts) / MIB == pytest.approx(figures["extra_mb"] + figures["centers_mb"], rel=0.1)
    extra = total(parts) / MIB - figures["centers_mb"]
    assert extra == pytest.approx(figures["extra_mb"], rel=0.1, abs=2.5)  # a process is not exact to the MiB


# ---- memory, by hand ----


def test_all_logits_are_kept_or_a_chunk_of_them():
    setting = Setting(1_000_003, 8, 64, 512)
    assert setting.classes == 125_001
    assert part_bytes(setting, "logits") == 4 * 512 * 125_001
    assert part_bytes(replace(setting, logits_chunk=1000), "logits") == 4 * 512 * 1000


def test_sampled_rows_are_gathered_and_all_rows_are_used_in_place():
    sampled = Setting(80_000, 8, 4, 128, sample_ratio=0.1)
    assert sampled.sampled == 1000
    assert part_bytes(sampled, "gathered centers") == 4 * 1000 * 129
    assert "gathered centers" not in {part.name for part in memory(replace(sampled, sample_ratio=1.0))}


def test_the_sample_holds_all_positives():
    setting = Setting(1000, 2, 500, 64, sample_ratio=0.01)
    expected_positives = 500 * (1 - (1 - 1 / 1000) ** 1000)
    assert setting.sampled == pytest.approx(expected_positives, abs=1)


@pytest.mark.parametrize(
    ("storage", "place", "row_bytes", "beside"),
    [
        ("float32", "device", 8, "device"),
        ("float16/int8", "device", 3, "device"),
        ("host:float16/float16", "host", 4, "host"),
        ("file:float16", "disk", 6, "host"),
    ],
)
def test_centers_are_where_the_storage_keeps_them(storage, place, row_bytes, beside):
    setting = Setting(1000, 1, 8, 64, storage=Storage.parse(storage, Path(".")))
    parts = {part.name: part for part in head_memory(setting)}
    centers, norms = parts["class centers and momentum"], parts["their norms and scales"]
    assert (centers.bytes, centers.place) == (1000 * 64 * row_bytes, place)
    assert (norms.bytes, norms.place) == (1000 * (8 if "int8" in storage else 4), beside)


def test_a_cpu_has_one_memory():
    setting = Setting(1000, 1, 8, 64, storage=Storage.parse("host:float16"), network=NETWORK, device="cpu")
    assert {part.place for part in memory(setting)} == {"device"}


def test_the_backbone_and_the_collectives():
    setting = Setting(1000, 4, 10, 64, network=NETWORK, process_bytes=7)
    assert part_bytes(setting, "process") == 7
    assert part_bytes(setting, "backbone: parameters, gradients, momentum") == 12_001_000
    assert part_bytes(setting, "backbone: activations") == 10 * (5_000_000 + 37_632)
    assert part_bytes(setting, "collectives") == 4_000_000
    large = replace(setting, network=replace(NETWORK, parameters=10**9))
    assert part_bytes(large, "collectives") == FUSION_BUFFER_BYTES
    assert "collectives" not in {part.name for part in memory(replace(setting, ranks=1))}


# ---- what fits ----


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.integers(1, 1024),
    batch_size=st.integers(1, 128),
    sample_ratio=st.floats(0.001, 1.0),
    gibibytes=st.integers(2, 80),
    auto=st.booleans(),
)
@example(ranks=959, batch_size=62, sample_ratio=0.5, gibibytes=2, auto=False)
def test_the_largest_number_fits_and_one_more_does_not(ranks, batch_size, sample_ratio, gibibytes, auto):
    limits = {"device": gibibytes * 2**30}
    setting = Setting(ranks, ranks, batch_size, 512, sample_ratio, network=NETWORK)

    def adapt(other: Setting) -> Setting:
        return with_fitting_logits(other, limits) if auto else other

    most = largest_identities(setting, limits, adapt)
    if most:
        assert fits(adapt(replace(setting, identities=most)), limits)
    # With as many more as there are ranks, a rank has as many classes as with one, and fewer positives in a batch.
    assert not fits(adapt(replace(setting, identities=most + 1 if most else ranks)), limits)


def test_nothing_fits_in_nothing_and_everything_where_nothing_limits():
    setting = Setting(8, 8, 64, 512)
    assert largest_identities(setting, {"device": 1}) == 0
    on_host = replace(setting, storage=Storage.parse("host:float16"), sample_ratio=1e-12, logits_chunk=64)
    assert largest_identities(on_host, {"device": 4 * 2**30}) == LARGEST_IDENTITIES
    bytes_a_row = 512 * 6 + 4
    limited = largest_identities(on_host, {"device": 4 * 2**30, "host": 2**30})
    assert limited == pytest.approx(8 * 2**30 / bytes_a_row, rel=0.01)


def test_logits_go_in_chunks_where_they_do_not_fit():
    limits = {"device": 11 * 2**30}
    small = Setting(100_000, 8, 64, 512)
    assert with_fitting_logits(small, limits).logits_chunk is None
    large = with_fitting_logits(replace(small, identities=16_000_000), limits)
    assert large.logits_chunk is not None
    assert fits(large, limits)
    assert not fits(replace(large, logits_chunk=None), limits)


# ---- time ----


def test_the_products_of_a_step():
    setting = Setting(10_000, 2, 32, 64)
    products = 2 * 64 * 5_000 * 64 / 1e12
    assert step_seconds(setting, SPEEDS)["head: matrix products"] == pytest.approx(3 * products)
    chunked = replace(setting, logits_chunk=100)
    assert step_seconds(chunked, SPEEDS)["head: matrix products"] == pytest.approx(4 * products)


def test_a_backbone_hides_its_gradients_behind_its_backward_pass():
    setting = Setting(10_000, 2, 100, 64, network=NETWORK)
    seconds = step_seconds(setting, SPEEDS)
    assert seconds["backbone"] == pytest.approx(3 * 1e9 * 100 / 2e12)
    assert seconds["gradients, what the backbone does not hide"] == 0
    slow = replace(SPEEDS, inside_bytes=1e7)
    reduced = 2 * (4_000_000 / 2 / 1e7 + 1e-5)  # half of it to the other rank, twice
    expected = reduced - 2 / 3 * seconds["backbone"]
    assert step_seconds(setting, slow)["gradients, what the backbone does not hide"] == pytest.approx(expected)


def test_one_rank_says_nothing_and_many_wait_for_the_network_between_machines():
    def communication(ranks: int) -> float:
        return step_seconds(Setting(100_000, ranks, 512, 512), SPEEDS)["head: collectives"]

    assert communication(1) == 0
    assert 0 < communication(2) < communication(8)
    assert communication(9) > 5 * communication(8)


def test_images_per_second_are_those_of_all_ranks():
    setting = Setting(10_000, 4, 25, 64, network=NETWORK)
    assert images_per_second(setting, SPEEDS) * sum(step_seconds(setting, SPEEDS).values()) == pytest.approx(100)


# ---- the paper ----


def test_with_the_papers_five_logit_matrices_the_model_has_the_papers_memory():
    network = network_cost(paper.NETWORK, fp16=True)
    for row in paper.ROWS:
        setting = Setting(row.identities, row.gpus, row.images_per_gpu, 512, row.sample_ratio, network=network)
        size = total(memory(setting)) + 4 * part_bytes(setting, "logits")
        assert size / MIB == pytest.approx(row.memory_mb, rel=0.06)


# ---- bad input ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": 0}, "at least 1 identity, but got 0"),
        ({"identities": -5}, "at least 1 identity, but got -5"),
        ({"ranks": 0}, "number of ranks must be at least 1, but is 0"),
        ({"identities": 3, "ranks": 4}, "3 identities for 4 ranks"),
        ({"batch_size": 0}, "batch size must be at least 1, but is 0"),
        ({"embedding_size": -1}, "embedding size must be at least 1, but is -1"),
        ({"sample_ratio": 0.0}, r"sample ratio must lie in \(0, 1\], but is 0.0"),
        ({"sample_ratio": float("nan")}, "sample ratio must lie in"),
        ({"logits_chunk": 0}, "chunk of logits must hold at least 1 class, but is 0"),
        ({"device": "tpu"}, "device must be one of gpu, cpu"),
    ],
)
def test_settings_out_of_their_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Setting(**{"identities": 100, **change})


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_must_be_positive(value):
    with pytest.raises(ValueError, match="memory bytes must be positive"):
        replace(SPEEDS, memory_bytes=value)


def test_the_logits_leave_room_for_the_centers_and_the_backbone():
    setting = Setting(1_000_000, ranks=1, batch_size=64, sample_ratio=1.0, device="cpu", process_bytes=0)
    logits = part_bytes(setting, "logits")
    beside = total(memory(replace(setting, logits_chunk=1000))) - 4 * 64 * 1000
    assert logits < 0.25 * beside  # a quarter of what is free would hold them
    assert with_fitting_logits(setting, {"device": beside + logits // 2}).logits_chunk is not None
    assert with_fitting_logits(setting, {"device": beside + 2 * logits}).logits_chunk is None


def test_accumulated_batches_go_through_the_layer_together():
    setting = Setting(1_000_000, ranks=2, batch_size=8, accumulate=4)
    assert setting.samples == 64
    assert part_bytes(setting, "logits") == 4 * 64 * setting.sampled
