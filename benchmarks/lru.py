"""The LRU's work in one step of F²C, compiled and in plain Python.

    python benchmarks/lru.py [--slots 100000] [--batch-size 64] [--ranks 8] [--json]

A step of R ranks and B images uses 1.5·B·R identities on trial, looks the probe's up, undoes the trial, uses the other
1.5·B·R for good and looks up again. Identities are drawn uniformly from ten times as many as there are slots, the
table being full; both tables do the same work in turn, and the medians of their times are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import OrderedDict

import numpy as np

from partial_fc.head.lru import LRU


def step(lru: LRU, identity_N: np.ndarray) -> None:
    """The uses of one step, the first half on trial."""
    half = len(identity_N) // 2
    lru.try_get(identity_N[:half])
    lru.view(identity_N[half:])
    lru.rollback(half)
    lru.get(identity_N[half:])
    lru.view(identity_N[:half])


def ordered_dict_step(slots: OrderedDict[int, int], identity_N: np.ndarray) -> None:
    """The half of the step that is kept, all that an OrderedDict can do: it cannot undo."""
    for identity in identity_N[len(identity_N) // 2 :].tolist():
        if identity in slots:
            slots.move_to_end(identity)
        else:
            slots[identity] = slots.popitem(last=False)[1]


def measure(slots: int, identities: int, steps: int) -> dict[str, float]:
    """Medians of the times of one step, in µs."""
    rng = np.random.default_rng(0)
    full = rng.permutation(10 * slots)[:slots]
    compiled, plain = LRU(slots, form="C"), LRU(slots, form="plain")
    ordered = OrderedDict((identity, slot) for slot, identity in enumerate(full.tolist()))
    for lru in (compiled, plain):
        lru.get(full)
    work = {
        "plain_us": lambda identity_N: step(plain, identity_N),
        "lru_us": lambda identity_N: step(compiled, identity_N),
        "ordered_dict_kept_half_us": lambda identity_N: ordered_dict_step(ordered, identity_N),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(steps):
        identity_N = rng.integers(0, 10 * slots, identities)
        for name, function in work.items():
            start = time.perf_counter()
            function(identity_N)
            times[name].append(1e6 * (time.perf_counter() - start))
    np.testing.assert_equal(compiled.state(), plain.state())
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=100_000, help="Q (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="B (%(default)s)")
    parser.add_argument("--ranks", type=int, default=8, help="R (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="timed steps (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a JSON object alone")
    arguments = parser.parse_args()
    identities = 3 * arguments.batch_size * arguments.ranks
    figures = measure(arguments.slots, identities, arguments.steps)
    figures["speedup"] = figures["plain_us"] / figures["lru_us"]
    if arguments.json:
        print(json.dumps(figures))
    else:
        print(f"one step: {identities} identities, {arguments.slots} slots")
        print(f"  plain Python linked list  {figures['plain_us']:8.0f} µs")
        print(f"  OrderedDict, kept half    {figures['ordered_dict_kept_half_us']:8.0f} µs")
        print(f"  compiled                  {figures['lru_us']:8.0f} µs, {figures['speedup']:.1f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
