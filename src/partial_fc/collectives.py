"""What ranks say to each other: the interface, a world of one process, and ranks as threads for tests.

Every collective has a name that stays the same from step to step (Horovod caches its answer by name), and every
rank makes the same calls in the same order. The classes here count what they carry, so that a benchmark or a test
can ask for the collectives of one step.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mxnet as mx
import numpy as np


class RankError(ValueError):
    """An error of one rank or more, told to all of them: every rank raises it with the same message."""


class PeerLostError(RuntimeError):
    """Another rank went away in the middle of a collective."""


# What Horovod says of it, by way of an MXNetError; over MPI it says nothing, and waits.
_PEER_LOST = re.compile("Horovod has been shut down|gloo|connection reset|connection closed", re.IGNORECASE)


@dataclass
class Traffic:
    """What the collectives of one name carried since the last reset: calls, and bytes sent by this rank."""

    kind: str
    calls: int = 0
    bytes: int = 0


@dataclass
class Collectives(ABC):
    """The ranks of a run, as one of them sees them.

    Attributes:
        rank: this rank, 0 ≤ rank < size.
        size: the number of ranks, R.
        local_rank: this rank's number among those on its machine.
        local_size: the number of ranks on its machine.
        traffic: calls and bytes by name; :meth:`reset_traffic` empties it.
        seconds: how long this rank has waited in collectives; whoever reports it takes it back to 0.
        doing: what this rank does between its collectives, in words, for whoever asks why the others wait.
        calls: how many collectives this rank has come to.
        waits_in: the collective that it waits in; empty when it does not.
    """

    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1
    traffic: dict[str, Traffic] = field(default_factory=dict)
    seconds: float = 0.0
    doing: str = "starting"
    calls: int = 0
    waits_in: str = ""

    def all_gather(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        """Concatenates the ranks' tensors on axis 0 in rank order: (n, …) on each → (R·n, …) on all."""
        self._count("all_gather", name, tensor)
        tensor.wait_to_read()
        with self.waiting(name):
            return self._all_gather(tensor, name)

    def all_reduce(
        self, tensor: mx.nd.NDArray, name: str, op: str = "sum", priority: int = 0
    ) -> mx.nd.NDArray:
        """Replaces the tensor on every rank, in place, by the element-wise ``sum`` or ``max`` over ranks.

        Asynchronous, and so not in ``seconds``: the result is there when the tensor is next read.
        """
        assert op in ("sum", "max"), op
        self._count("all_reduce", name, tensor)
        return self._all_reduce(tensor, name, op, priority)

    def reduce_scatter(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        """Sums the ranks' (R·n, …) tensors and gives rank k rows [k·n, (k+1)·n) of the sum."""
        assert tensor.shape[0] % self.size == 0, (tensor.shape, self.size)
        self._count("reduce_scatter", name, tensor)
        tensor.wait_to_read()
        with self.waiting(name):
            return self._reduce_scatter(tensor, name)

    def broadcast(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        """Replaces the tensor on every rank, in place, by rank 0's."""
        self._count("broadcast", name, tensor)
        return self._broadcast(tensor, name)

    def gather_objects(self, value: Any, name: str) -> list[Any]:
        """Gives every rank the list of all ranks' picklable objects, in rank order. Not for tensors, not for a step."""
        self.calls += 1
        with self.waiting(name):
            return self._gather_objects(value, name)

    @abstractmethod
    def abort(self, status: int) -> None:
        """Ends the process at once, and with it the run, without waiting for the other ranks."""

    @abstractmethod
    def close(self) -> None:
        """Leaves the run in good order; every rank calls it, and no collective follows."""

    def reset_traffic(self) -> None:
        """Forgets what was carried so far."""
        self.traffic.clear()

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Around a wait for other ranks: counts its time, and lets a watchdog see it.

        This rank's own part must be computed before, or its time would count as the others'.
        """
        self.waits_in = name
        start = time.perf_counter()
        try:
            yield
        except mx.MXNetError as error:
            if _PEER_LOST.search(str(error)):
                raise PeerLostError(f"another rank went away while this one waited in {name!r}") from error
            raise
        finally:
            self.seconds += time.perf_counter() - start
            self.waits_in = ""

    def _count(self, kind: str, name: str, tensor: mx.nd.NDArray) -> None:
        self.calls += 1
        entry = self.traffic.setdefault(name, Traffic(kind))
        entry.calls += 1
        entry.bytes += tensor.size * np.dtype(tensor.dtype).itemsize

    @abstractmethod
    def _gather_objects(self, value: Any, name: str) -> list[Any]: ...

    @abstractmethod
    def _all_gather(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray: ...

    @abstractmethod
    def _all_reduce(self, tensor: mx.nd.NDArray, name: str, op: str, priority: int) -> mx.nd.NDArray: ...

    @abstractmethod
    def _reduce_scatter(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray: ...

    @abstractmethod
    def _broadcast(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray: ...


TOLD_TO_ALL = (ValueError, OSError, MemoryError, mx.MXNetError)
"""Errors that a file, a setting or a machine too small can cause, and that one rank therefore tells the others."""

_OUT_OF_MEMORY = re.compile("out of memory|failed to allocate|bad_alloc|memory allocation", re.IGNORECASE)


def error_text(error: BaseException) -> str:
    """What to tell people of an error, in one line; of one in MXNet the message alone, without the C++ around it."""
    text = str(error)
    if isinstance(error, mx.MXNetError):
        *_, text = text.strip().rpartition("MXNetError: ")
        text = text.splitlines()[0] if text else ""
    if isinstance(error, MemoryError) or (isinstance(error, mx.MXNetError) and _OUT_OF_MEMORY.search(str(error))):
        return f"out of memory ({text or 'the system gives no more'}): set a smaller --batch-size, or --logits-chunk"
    return text or type(error).__name__


@contextmanager
def together(collectives: Collectives, what: str) -> Iterator[None]:
    """Runs a block on every rank; where it fails on one, all ranks raise :class:`RankError` with that message.

    A bad file that only rank 3 sees would otherwise leave the others waiting in their next collective for ever.
    One object gather at the end of the block; the block itself must hold no collective that a failure would skip.

    Args:
        what: names the block among the object gathers.

    What is told: :data:`TOLD_TO_ALL`. Any other exception is a mistake of the program: it ends this rank, and
    with it the run.
    """
    error: str | None = None
    try:
        yield
    except TOLD_TO_ALL as caught:
        error = error_text(caught)
    raise_together(collectives, error, what)


def raise_together(collectives: Collectives, error: str | None, what: str) -> None:
    """Raises the first rank's error on all ranks when any rank passes one; one object gather."""
    errors = collectives.gather_objects(error, f"errors.{what}")
    failed = [rank for rank, message in enumerate(errors) if message is not None]
    if not failed:
        return
    if len(set(errors)) == 1:
        raise RankError(errors[0])
    others = f" (and {len(failed) - 1} more ranks)" if len(failed) > 1 else ""
    raise RankError(f"rank {failed[0]}{others}: {errors[failed[0]]}")


def leave_at_once(status: int) -> None:
    """Ends this process from any thread, without a word to the library of the collectives, which may be stuck."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class SingleProcess(Collectives):
    """A world of one rank: every collective is the identity."""

    def __init__(self) -> None:
        super().__init__(rank=0, size=1)

    def _gather_objects(self, value: Any, name: str) -> list[Any]:
        return [value]

    def abort(self, status: int) -> None:
        raise SystemExit(status)

    def close(self) -> None:
        return

    def _all_gather(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        return tensor

    def _all_reduce(self, tensor: mx.nd.NDArray, name: str, op: str, priority: int) -> mx.nd.NDArray:
        return tensor

    def _reduce_scatter(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        return tensor

    def _broadcast(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        return tensor


class _Exchange:
    """The meeting point of thread ranks: each leaves a value, all leave with the list of values."""

    def __init__(self, size: int, timeout_seconds: float) -> None:
        self._values: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=timeout_seconds)

    def meet(self, rank: int, call: tuple[str, str], value: Any) -> list[Any]:
        self._values[rank] = (call, value)
        try:
            self._barrier.wait()
            values = list(self._values)
            self._barrier.wait()  # nobody overwrites a value before all have read it
        except threading.BrokenBarrierError:
            raise PeerLostError(f"a rank did not come to {call[0]} {call[1]!r}") from None
        calls = {entry[0] for entry in values}
        assert len(calls) == 1, f"ranks make different calls: {sorted(calls)}"
        return [entry[1] for entry in values]

    def break_off(self) -> None:
        self._barrier.abort()


class ThreadRank(Collectives):
    """One rank of a world of threads in one process: for tests, which so run many small cases in little time.

    Sums run in rank order, so that results do not depend on the threads' timing.
    """

    def __init__(self, rank: int, size: int, exchange: _Exchange) -> None:
        super().__init__(rank=rank, size=size, local_rank=rank, local_size=size)
        self._exchange = exchange

    def _gather_objects(self, value: Any, name: str) -> list[Any]:
        return self._exchange.meet(self.rank, ("gather_objects", name), value)

    def abort(self, status: int) -> None:
        self._exchange.break_off()
        raise SystemExit(status)

    def close(self) -> None:
        return

    def _meet(self, kind: str, name: str, tensor: mx.nd.NDArray) -> list[np.ndarray]:
        return self._exchange.meet(self.rank, (kind, name), tensor.asnumpy())

    def _all_gather(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        parts = self._meet("all_gather", name, tensor)
        return mx.nd.array(np.concatenate(parts), dtype=tensor.dtype)

    def _all_reduce(self, tensor: mx.nd.NDArray, name: str, op: str, priority: int) -> mx.nd.NDArray:
        parts = self._meet(f"all_reduce_{op}", name, tensor)
        tensor[:] = mx.nd.array(sum(parts[1:], parts[0]) if op == "sum" else np.max(parts, 0), dtype=tensor.dtype)
        return tensor

    def _reduce_scatter(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        parts = self._meet("reduce_scatter", name, tensor)
        rows = tensor.shape[0] // self.size
        own = slice(self.rank * rows, (self.rank + 1) * rows)
        return mx.nd.array(sum((part[own] for part in parts[1:]), parts[0][own]), dtype=tensor.dtype)

    def _broadcast(self, tensor: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        tensor[:] = mx.nd.array(self._meet("broadcast", name, tensor)[0], dtype=tensor.dtype)
        return tensor


# Threads stay for the next world of ranks: the 16 MiB that MXNet takes for each new one it never gives back.
_RANK_THREADS = ThreadPoolExecutor(max_workers=1024, thread_name_prefix="rank")


def run_thread_ranks(size: int, function: Callable[[Collectives], Any], timeout_seconds: float = 60.0) -> list[Any]:
    """Runs ``function(collectives)`` on ``size`` ranks, each a thread, and returns their results in rank order.

    The first exception of any rank is raised here; the others then leave their collectives with PeerLostError.
    """
    exchange = _Exchange(size, timeout_seconds)
    results: list[Any] = [None] * size
    errors: list[BaseException | None] = [None] * size

    all_have_a_thread = threading.Barrier(size)

    def run(rank: int) -> None:
        all_have_a_thread.wait()  # a rank that is done at once would lend its thread to the next
        try:
            with mx.name.NameManager():  # as in a process of its own, layers without a name are counted from 0 on
                results[rank] = function(ThreadRank(rank, size, exchange))
        except BaseException as error:  # it is raised again, in the caller's thread
            errors[rank] = error
            exchange.break_off()

    wait([_RANK_THREADS.submit(run, rank) for rank in range(size)])
    raised = [error for error in errors if error is not None]
    first = next((error for error in raised if not isinstance(error, PeerLostError)), raised[0] if raised else None)
    if first is not None:
        raise first
    return results
