"""The measured rates: positive, and of work that is really done."""

from __future__ import annotations

import math
import time

import mxnet as mx
import pytest

from partial_fc import machine_speed
from partial_fc.collectives import SingleProcess, run_thread_ranks
from partial_fc.network_cost import network_cost


def test_products_are_counted_and_done(monkeypatch):
    calls = {"logits": 0, "gradients": 0}
    for name in calls:
        original = getattr(machine_speed.matmul, name)

        def counted(*arguments, name=name, original=original):
            calls[name] += 1
            return original(*arguments)

        monkeypatch.setattr(machine_speed.matmul, name, counted)
    start = time.perf_counter()
    rate = machine_speed.gemm_flops(8, 16, mx.cpu(), SingleProcess())
    seconds = time.perf_counter() - start
    assert calls["logits"] == calls["gradients"] > 0
    # All calls together took no longer than the whole: the rate cannot be below what that makes.
    assert rate > 3 * 2 * 8 * 16 * machine_speed.DEFAULT_BLOCK_ROWS / seconds
    assert rate < 1e15


def test_a_copy_reads_and_writes(monkeypatch):
    monkeypatch.setattr(machine_speed, "_COPIED_NUMBERS", 2**20)
    rate = machine_speed.memory_bytes(mx.cpu(), SingleProcess())
    assert 1e7 < rate < 1e13


def test_the_ring_is_the_same_on_all_ranks(monkeypatch):
    monkeypatch.setattr(machine_speed, "_REDUCED_NUMBERS", 2**16)
    found = run_thread_ranks(3, lambda ranks: machine_speed.ring_bytes_and_latency(mx.cpu(), ranks))
    assert found[0] == found[1] == found[2]
    assert all(0 < value < math.inf for value in found[0])


def test_a_backbones_rate_is_its_flops_over_its_time(monkeypatch):
    monkeypatch.setattr(machine_speed, "_seconds", lambda step, ranks, repeats: step() or 0.5)
    rate = machine_speed.backbone_flops(
        "toy", batch_size=2, embedding_size=32, image_size=None, fp16=False, context=mx.cpu(),
        collectives=SingleProcess(),
    )  # fmt: skip
    mx.nd.waitall()
    flops = 3 * 2 * network_cost("toy", embedding_size=32, device="cpu").flops_per_image
    assert rate == pytest.approx(flops / 0.5)
