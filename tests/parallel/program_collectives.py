"""One rank of a run: makes every collective and pickles the results, then fails on one rank, or ends the run.

program_collectives.py results DIRECTORY | abort DIRECTORY
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives, RankError, together
from partial_fc.horovod_collectives import connect


def numbers(rank: int, step: int, shape: tuple[int, ...], dtype: str) -> mx.nd.NDArray:
    """Small whole numbers, exact in every type and order of summation; others on each rank and step."""
    return mx.nd.array(np.random.default_rng([rank, step]).integers(-50, 50, size=shape), dtype=dtype)


def tensors(collectives: Collectives, step: int, dtype: str) -> dict[str, np.ndarray]:
    """One of each kind, under names that stay the same from step to step."""

    def own(*shape: int) -> mx.nd.NDArray:
        return numbers(collectives.rank, step, shape, dtype)

    results = {"all_gather": collectives.all_gather(own(4, 3), f"gather.{dtype}")}
    for kind, reduce in (
        ("sum", lambda t: collectives.all_reduce(t, f"sum.{dtype}")),
        ("max", lambda t: collectives.all_reduce(t, f"max.{dtype}", "max", priority=-1)),
        ("broadcast", lambda t: collectives.broadcast(t, f"broadcast.{dtype}")),
    ):
        tensor = own(5, 2)
        reduce(tensor)
        results[kind] = tensor  # in place
    results["reduce_scatter"] = collectives.reduce_scatter(own(3 * collectives.size, 2), f"scatter.{dtype}")
    return {kind: tensor.asnumpy() for kind, tensor in results.items()}


def fail_on_the_last_rank(collectives: Collectives) -> str:
    try:
        with together(collectives, "reading"):
            if collectives.rank == collectives.size - 1:
                raise FileNotFoundError("there is no file faces.rec")
    except RankError as error:
        return str(error)
    return "nothing was raised"


def make_results(collectives: Collectives) -> dict[str, Any]:
    value = {"rank": collectives.rank, "name": "é", "array": np.arange(200_000)}
    return {
        "ranks": (collectives.rank, collectives.size, collectives.local_rank, collectives.local_size),
        "tensors": {
            (dtype, step): tensors(collectives, step, dtype)
            for dtype in ("float32", "float64", "float16", "int32", "int64")
            for step in range(3)
        },
        "objects": [collectives.gather_objects(value, "objects") for _ in range(2)],
        "by mpi4py": "mpi4py.MPI" in sys.modules,
        "error": fail_on_the_last_rank(collectives),
    }


def main(what: str, directory: str) -> int:
    collectives = connect()
    file = Path(directory, f"rank-{collectives.rank}.pickle")
    if what == "results":
        results = make_results(collectives)
        file.write_bytes(pickle.dumps(results))
        collectives.close()
        return 2
    collectives.gather_objects(None, "all are here")
    if collectives.rank == 1:
        collectives.abort(5)
    collectives.all_reduce(mx.nd.ones((3,)), "without rank 1").asnumpy()
    file.write_bytes(b"this rank went on")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
