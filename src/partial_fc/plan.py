"""``python -m partial_fc.plan``: what a run will cost, before a machine is bought or booked.

It prints a rank's memory by what it holds, the seconds of a step by where they go, the most identities that fit, and
how both change from 1 to 1,024 ranks. Nothing is trained, and no array of the run is made.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import symbol
from partial_fc import machine_speed
from partial_fc.center_storage import Storage
from partial_fc.collectives import Collectives, RankError, raise_together, together
from partial_fc.cost_model import MIB, Setting, Speeds
from partial_fc.device import compute_context
from partial_fc.horovod_collectives import connect
from partial_fc.network_cost import network_cost
from partial_fc.plan_report import GIB, Plan, paper_report, report

# Images of a backbone's measured step on a CPU: its rate hardly depends on them, its time does.
_CPU_IMAGES = 8

# The paper's card: 75 % of an RTX 2080 Ti's float32 rate, 80 % of its memory's, the backbone's as the paper's row of
# 1 M identities and Partial FC has it, PCIe within a machine, 10 Gbit/s Ethernet between machines.
GPU_SPEEDS = Speeds(10e12, 13.4e12, 490e9, inside_bytes=10e9, network_bytes=1.25e9, latency_seconds=5e-6)
# One core of a server of 2023, two ranks and more on one machine.
CPU_SPEEDS = Speeds(100e9, 40e9, 8e9, inside_bytes=1e9, network_bytes=1.25e9, latency_seconds=3e-4)


class _Parser(argparse.ArgumentParser):
    """Raises its errors, so that every rank says them in the same way."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _count(text: str) -> int:
    """``10_000_000``, ``10000000``, ``10M`` or ``1B``."""
    factor = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}.get(text[-1:], 1)
    try:
        return int(text if factor == 1 else text[:-1]) * factor
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, such as 10000000 or 10M, but is {text!r}") from None


def _chunk(text: str) -> int | str:
    return text if text in ("auto", "all") else _count(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        ValueError: an unknown option, or a value out of its range.
    """
    parser = _Parser(prog="python -m partial_fc.plan", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--identities", type=_count, default=1_000_000, metavar="C", help="(%(default)s)")
    add("--ranks", type=int, default=8, metavar="R", help="GPUs, or CPU processes (%(default)s)")
    add("--batch-size", type=int, default=64, metavar="B", help="images a rank (%(default)s)")
    add("--embedding-size", type=int, default=512, metavar="D", help="(%(default)s)")
    add("--network", default="r50", metavar="NAME", help=f"{', '.join(symbol.backbone_names())} (%(default)s)")
    add("--image-size", type=int, metavar="PIXELS", help="of a side (what the network is made for)")
    add("--gpu-memory", type=float, default=11.0, metavar="GIB", help="memory that a rank may take (%(default)s)")
    add("--host-memory", type=float, metavar="GIB", help="the machine's memory a rank, beside a GPU (not limited)")
    add("--sample-ratio", type=float, default=0.1, metavar="r", help="in (0, 1] (%(default)s)")
    add("--lazy-updates", action=argparse.BooleanOptionalAction, default=False,
        help="class centers that are not sampled move on too (%(default)s)")  # fmt: skip
    add("--storage", default="device:float32/float32", metavar="KIND", help="[TIER:]WEIGHT[/MOMENTUM] (%(default)s)")
    add("--logits-chunk", type=_chunk, default="auto", metavar="N",
        help="classes whose logits are kept at once; all; auto: all when they fit (%(default)s)")  # fmt: skip
    add("--fp16", action=argparse.BooleanOptionalAction, default=True, help="mixed precision (%(default)s)")
    add("--device", choices=("gpu", "cpu"), default="gpu", help="what a rank computes on (%(default)s)")
    add("--base-memory", type=float, metavar="MIB", help="of a rank that does nothing yet (what is usual)")
    add("--gemm-tflops", type=float, metavar="T", help="float32 matrix products of the classification layer")
    add("--backbone-tflops", type=float, metavar="T", help="a whole pass, forward and backward, of the backbone")
    add("--memory-gb", type=float, metavar="GB/S", help="memory's rate")
    add("--inside-gb", type=float, metavar="GB/S", help="what a rank sends to another within a machine")
    add("--network-gb", type=float, metavar="GB/S", help="what a machine sends to another")
    add("--latency-us", type=float, metavar="US", help="of a message")
    add("--ranks-per-machine", type=int, default=8, metavar="N", help="(%(default)s)")
    add("--measure", action="store_true", help="measure the rates here; under mpirun those between ranks as well")
    add("--paper", action="store_true", help="only: what the model says of the paper's four configurations")
    given = parser.parse_args(arguments)
    for name in ("gpu_memory", "host_memory", "base_memory", "ranks_per_machine"):
        value = vars(given)[name]
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be positive, but is {value}")
    if given.image_size is not None and given.image_size < 16:
        raise ValueError(f"--image-size must be at least 16 pixels, but is {given.image_size}")
    if given.network not in symbol.backbone_names():
        raise ValueError(f"unknown network {given.network!r}: choose one of {', '.join(symbol.backbone_names())}")
    return given


def setting_of(given: argparse.Namespace) -> Setting:
    """The setting that the options describe, with all logits kept where they decide by themselves."""
    network = network_cost(
        given.network,
        embedding_size=given.embedding_size,
        image_size=given.image_size,
        fp16=given.fp16,
        device=given.device,
    )
    return Setting(
        given.identities,
        given.ranks,
        given.batch_size,
        given.embedding_size,
        given.sample_ratio,
        Storage.parse(given.storage, Path(".")),
        given.logits_chunk if isinstance(given.logits_chunk, int) else None,
        network,
        given.device,
        None if given.base_memory is None else int(given.base_memory * MIB),
        lazy_updates=given.lazy_updates,
    )


def speeds_of(given: argparse.Namespace, collectives: Collectives) -> Speeds:
    """The rates: those given; else those measured, where they are asked for; else what is usual on the device."""
    speeds = GPU_SPEEDS if given.device == "gpu" else CPU_SPEEDS
    if given.measure:
        speeds = _measured(given, collectives, speeds)
    options = {
        "gemm_flops": (given.gemm_tflops, 1e12),
        "backbone_flops": (given.backbone_tflops, 1e12),
        "memory_bytes": (given.memory_gb, 1e9),
        "inside_bytes": (given.inside_gb, 1e9),
        "network_bytes": (given.network_gb, 1e9),
        "latency_seconds": (given.latency_us, 1e-6),
    }
    changed = {name: value * unit for name, (value, unit) in options.items() if value is not None}
    return dataclasses.replace(speeds, ranks_per_machine=given.ranks_per_machine, **changed)


def _measured(given: argparse.Namespace, collectives: Collectives, usual: Speeds) -> Speeds:
    with together(collectives, "device"):
        context = compute_context(collectives.local_rank)
        if context.device_type != given.device:
            raise ValueError(
                f"--measure finds a {context.device_type} here, but the plan is for a {given.device}: "
                f"set --device {context.device_type}, or give the rates"
            )
    images = given.batch_size if given.device == "gpu" else min(given.batch_size, _CPU_IMAGES)
    measured = {
        "gemm_flops": machine_speed.gemm_flops(
            given.batch_size * collectives.size, given.embedding_size, context, collectives
        ),
        "memory_bytes": machine_speed.memory_bytes(context, collectives),
        "backbone_flops": machine_speed.backbone_flops(
            given.network,
            batch_size=images,
            embedding_size=given.embedding_size,
            image_size=given.image_size,
            fp16=given.fp16,
            context=context,
            collectives=collectives,
        ),
    }
    if collectives.size > 1:
        ring, latency = machine_speed.ring_bytes_and_latency(context, collectives)
        between = "inside_bytes" if collectives.local_size == collectives.size else "network_bytes"
        measured |= {between: ring, "latency_seconds": latency}
    return dataclasses.replace(usual, **measured)


def plan_of(given: argparse.Namespace, speeds: Speeds) -> Plan:
    """The plan that the options describe."""
    limits = {"device": int(given.gpu_memory * GIB)}
    if given.host_memory is not None:
        limits["host"] = int(given.host_memory * GIB)
    network = f"{given.network}, fp16" if given.fp16 else given.network
    return Plan(setting_of(given), network, speeds, limits, given.logits_chunk == "auto")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the plan; returns the exit status: 0, or 2 for what the user can mend."""
    given, text, mistake = None, "", None
    try:
        given = parse(sys.argv[1:] if arguments is None else arguments)
        setting_of(given)
    except ValueError as error:
        mistake = str(error)
    collectives = connect()
    try:
        raise_together(collectives, mistake, "arguments")
        speeds = speeds_of(given, collectives)
        text = paper_report(speeds) if given.paper else report(plan_of(given, speeds))
    except (RankError, ValueError) as error:  # all ranks have it
        if collectives.rank == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        collectives.close()
        return 2
    if collectives.rank == 0:
        print(text, flush=True)
    collectives.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
