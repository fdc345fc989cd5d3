"""Collectives over Horovod: the only file that imports it.

Tensors go through Horovod (NCCL on GPUs, MPI or Gloo on CPUs). What is no tensor goes through mpi4py where MPI
started the ranks, and through Horovod's object collectives where Gloo did.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

import mxnet as mx

from partial_fc.collectives import Collectives, SingleProcess

_LAUNCHER_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")


def launched() -> bool:
    """Tells whether a launcher (horovodrun, mpirun) started this process as one rank of several."""
    return any(name in os.environ for name in _LAUNCHER_VARIABLES)


def connect() -> Collectives:
    """Joins the run that a launcher started, or makes a world of one process where none did."""
    return HorovodCollectives() if launched() else SingleProcess()


def current() -> Collectives:
    """The run that this process is a rank of, for a layer that is told of none: joined once, however often it is asked.

    One process where no launcher started it and nobody has called ``hvd.init()``, or where the run has but one rank.
    """
    horovod = sys.modules.get("horovod.mxnet")
    if not launched() and not (horovod is not None and horovod.is_initialized()):
        return SingleProcess()
    joined = _join()
    return joined if joined.size > 1 else SingleProcess()


@cache
def _join() -> Collectives:
    return HorovodCollectives()


class HorovodCollectives(Collectives):
    """The ranks that ``horovodrun`` or ``mpirun`` started.

    Raises:
        ImportError: Horovod or mpi4py is not installed for this MXNet.
    """

    def __init__(self) -> None:
        self._mpi = None
        if "HOROVOD_GLOO_RENDEZVOUS_ADDR" not in os.environ:
            # Imported first: mpi4py asks MPI for MPI_THREAD_MULTIPLE, which its calls beside Horovod's thread need.
            from mpi4py import MPI

            self._mpi = MPI
        import horovod.mxnet as hvd

        hvd.init()
        self._hvd = hvd
        self._ops = {"sum": hvd.Sum, "max": hvd.Max}
        super().__init__(
            rank=hvd.rank(), size=hvd.size(), local_rank=hvd.local_rank(), local_size=hvd.local_size()
        )
        self._objects = self._mpi.COMM_WORLD.Dup() if self._mpi is not None else None

    def _gather_objects(self, value: Any, name: str) -> list[Any]:
        if self._objects is not None:
            return self._objects.allgather(value)
        return self._hvd.allgather_object(value, name=name)

    def abort(self, status: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if self._mpi is not None:
            self._mpi.COMM_WORLD.Abort(status)
        os._exit(status)  # Horovod's own exit waits for the ranks that this one is about to leave

    def close(self) -> None:
        mx.nd.waitall()
        self.gather_objects(None, "close")  # no rank shuts Horovod down while another still uses it
        self._hvd.shutdown()

    def _all_gather(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        return self._hvd.allgather(tensor, name=name)

    def _all_reduce(self, tensor: mx.nd.NDArray, name: str, op: str, priority: int) -> mx.nd.NDArray:
        return self._hvd.allreduce_(tensor, op=self._ops[op], name=name, priority=priority)

    def _reduce_scatter(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        return self._hvd.reducescatter(tensor, op=self._hvd.Sum, name=name)

    def _broadcast(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        return self._hvd.broadcast_(tensor, root_rank=0, name=name)
