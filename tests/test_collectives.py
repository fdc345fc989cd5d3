from __future__ import annotations

import threading
import time

import mxnet as mx
import numpy as np
import pytest

from partial_fc.collectives import (
    Collectives,
    PeerLostError,
    RankError,
    SingleProcess,
    run_thread_ranks,
    together,
)


def rank_rows(collectives: Collectives, rows: int = 2) -> mx.nd.NDArray:
    """(rows, 3), other numbers on each rank."""
    return mx.nd.arange(rows * 3).reshape((rows, 3)) + 100.0 * collectives.rank


ALL = [np.arange(6, dtype=np.float32).reshape(2, 3) + 100 * rank for rank in range(3)]


def test_all_gather_is_in_rank_order() -> None:
    for gathered in run_thread_ranks(3, lambda c: c.all_gather(rank_rows(c), "g").asnumpy()):
        np.testing.assert_array_equal(gathered, np.concatenate(ALL))


@pytest.mark.parametrize(("op", "expected"), [("sum", sum(ALL)), ("max", ALL[2])])
def test_all_reduce_replaces_the_tensor(op: str, expected: np.ndarray) -> None:
    def reduce(collectives: Collectives) -> tuple[np.ndarray, np.ndarray]:
        tensor = rank_rows(collectives)
        returned = collectives.all_reduce(tensor, "r", op)
        return tensor.asnumpy(), returned.asnumpy()

    for in_place, returned in run_thread_ranks(3, reduce):
        np.testing.assert_array_equal(in_place, expected)
        np.testing.assert_array_equal(returned, expected)


def test_max_is_by_element_and_takes_negative_numbers() -> None:
    def largest(collectives: Collectives) -> list[float]:
        tensor = mx.nd.array([[-5.0, -1.0], [-2.0, -7.0]][collectives.rank])
        return collectives.all_reduce(tensor, "m", "max").asnumpy().tolist()

    assert run_thread_ranks(2, largest) == [[-2.0, -1.0]] * 2


def test_reduce_scatter_gives_each_rank_its_rows_of_the_sum() -> None:
    def scatter(collectives: Collectives) -> np.ndarray:
        return collectives.reduce_scatter(rank_rows(collectives, rows=6), "s").asnumpy()

    total = 3 * np.arange(18).reshape(6, 3) + 300
    for rank, part in enumerate(run_thread_ranks(3, scatter)):
        np.testing.assert_array_equal(part, total[2 * rank : 2 * rank + 2])


def test_broadcast_takes_rank_0s() -> None:
    def broadcast(collectives: Collectives) -> np.ndarray:
        tensor = rank_rows(collectives)
        collectives.broadcast(tensor, "b")
        return tensor.asnumpy()

    for received in run_thread_ranks(3, broadcast):
        np.testing.assert_array_equal(received, ALL[0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64"])
def test_tensors_keep_their_type(dtype: str) -> None:
    def types(collectives: Collectives) -> set[np.dtype]:
        tensor = mx.nd.ones((4, 2), dtype=dtype)
        results = (
            collectives.all_gather(tensor, "g"),
            collectives.reduce_scatter(tensor, "s"),
            collectives.broadcast(tensor, "b"),
            collectives.all_reduce(tensor, "r"),
            collectives.all_reduce(tensor, "m", "max"),
        )
        return {np.dtype(result.dtype) for result in results}

    assert run_thread_ranks(2, types) == [{np.dtype(dtype)}] * 2


def test_a_sum_in_float64_keeps_what_float32_would_lose() -> None:
    def total(collectives: Collectives) -> float:
        tensor = mx.nd.array([[1e-300, 1.0][collectives.rank], 2.0**60 + 2.0**10], dtype="float64")
        return float(collectives.all_reduce(tensor, "r").asnumpy()[1] - 2.0**61)

    assert run_thread_ranks(2, total) == [2.0**11] * 2


def test_objects_are_gathered_in_rank_order() -> None:
    gathered = run_thread_ranks(3, lambda c: c.gather_objects({"rank": c.rank, "name": "é"}, "o"))
    assert gathered == [[{"rank": rank, "name": "é"} for rank in range(3)]] * 3


def test_one_process_is_a_world_of_its_own() -> None:
    collectives = SingleProcess()
    assert (collectives.rank, collectives.size, collectives.local_rank, collectives.local_size) == (
        0,
        1,
        0,
        1,
    )
    tensor = rank_rows(collectives)
    for result in (
        collectives.all_gather(tensor, "g"),
        collectives.all_reduce(tensor, "r"),
        collectives.all_reduce(tensor, "m", "max"),
        collectives.reduce_scatter(tensor, "s"),
        collectives.broadcast(tensor, "b"),
    ):
        np.testing.assert_array_equal(result.asnumpy(), ALL[0])
    assert collectives.gather_objects("x", "o") == ["x"]
    collectives.close()
    with pytest.raises(SystemExit) as left:
        collectives.abort(3)
    assert left.value.code == 3


def test_traffic_counts_calls_and_bytes_by_name() -> None:
    def traffic(collectives: Collectives) -> dict[str, tuple[str, int, int]]:
        collectives.all_gather(mx.nd.zeros((5,)), "forgotten")
        collectives.reset_traffic()
        for _ in range(3):
            collectives.all_gather(mx.nd.zeros((2, 3), dtype="float16"), "half")
        collectives.all_reduce(mx.nd.zeros((7,), dtype="float64"), "double", "max")
        collectives.reduce_scatter(mx.nd.zeros((4, 2)), "rows")
        collectives.broadcast(mx.nd.zeros((9,), dtype="int32"), "from rank 0")
        return {name: (entry.kind, entry.calls, entry.bytes) for name, entry in collectives.traffic.items()}

    expected = {
        "half": ("all_gather", 3, 36),
        "double": ("all_reduce", 1, 56),
        "rows": ("reduce_scatter", 1, 32),
        "from rank 0": ("broadcast", 1, 36),
    }
    assert run_thread_ranks(2, traffic) == [expected] * 2
    assert traffic(SingleProcess()) == expected


def test_an_error_of_one_rank_is_raised_on_all() -> None:
    def fail_on_rank_1(collectives: Collectives) -> str:
        with pytest.raises(RankError) as caught, together(collectives, "reading"):
            if collectives.rank == 1:
                raise FileNotFoundError("there is no file faces.rec")
        return str(caught.value)

    assert run_thread_ranks(3, fail_on_rank_1) == ["rank 1: there is no file faces.rec"] * 3


def test_several_errors_name_the_first_rank_and_the_number_of_others() -> None:
    def fail_on_two(collectives: Collectives) -> str:
        with pytest.raises(RankError) as caught, together(collectives, "reading"):
            if collectives.rank > 0:
                raise ValueError(f"disk {collectives.rank} is full")
        return str(caught.value)

    assert run_thread_ranks(3, fail_on_two) == ["rank 1 (and 1 more ranks): disk 1 is full"] * 3


def test_the_same_error_on_all_ranks_is_said_once() -> None:
    def fail_on_all(collectives: Collectives) -> str:
        with pytest.raises(RankError) as caught, together(collectives, "options"):
            raise ValueError("the batch size must be at least 1, but is 0")
        return str(caught.value)

    assert run_thread_ranks(3, fail_on_all) == ["the batch size must be at least 1, but is 0"] * 3
    assert fail_on_all(SingleProcess()) == "the batch size must be at least 1, but is 0"


def test_an_error_without_a_message_is_an_error_all_the_same() -> None:
    def fail(collectives: Collectives) -> str:
        with pytest.raises(RankError) as caught, together(collectives, "reading"):
            if collectives.rank == 0:
                raise ValueError
        return str(caught.value)

    assert run_thread_ranks(2, fail) == ["rank 0: ValueError"] * 2


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (mx.MXNetError("Traceback (most recent call last):\n  File x.h\nMXNetError: it is so\n"), "it is so"),
        (mx.MXNetError("MXNetError: Memory allocation failed"), r"out of memory \(Memory allocation failed\): set a"),
        (mx.MXNetError("std::bad_alloc"), "out of memory"),
        (MemoryError(), "out of memory .*: set a smaller --batch-size"),
    ],
)
def test_a_machine_too_small_is_told_to_all_in_one_line(error: Exception, text: str) -> None:
    def fail_on_rank_1(collectives: Collectives) -> str:
        with pytest.raises(RankError, match=f"^rank 1: {text}") as caught, together(collectives, "network"):
            if collectives.rank == 1:
                raise error
        return str(caught.value)

    (message,) = set(run_thread_ranks(3, fail_on_rank_1))
    assert "\n" not in message


def test_what_horovod_says_of_a_lost_rank_is_called_that() -> None:
    collectives = SingleProcess()
    with pytest.raises(PeerLostError, match="waited in 'sum'"), collectives.waiting("sum"):
        raise mx.MXNetError("Horovod has been shut down. This was caused by an exception on one of the ranks")
    with pytest.raises(mx.MXNetError, match="another"), collectives.waiting("sum"):
        raise mx.MXNetError("another error")
    assert collectives.waits_in == ""


def test_together_without_an_error_goes_on() -> None:
    def go_on(collectives: Collectives) -> int:
        with together(collectives, "reading"):
            value = collectives.rank
        return value

    assert run_thread_ranks(3, go_on) == [0, 1, 2]


def test_an_error_of_the_program_itself_is_not_told_to_others_as_the_users() -> None:
    def fail(collectives: Collectives) -> None:
        with together(collectives, "reading"):
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        run_thread_ranks(3, fail)


def test_a_rank_that_fails_leaves_no_other_waiting() -> None:
    lost, start = [], time.perf_counter()

    def fail_on_rank_2(collectives: Collectives) -> None:
        if collectives.rank == 2:
            raise KeyError("rank 2 has a bug")
        try:
            collectives.all_reduce(rank_rows(collectives), "r")
        except PeerLostError as error:
            lost.append(str(error))
            raise

    with pytest.raises(KeyError, match="rank 2 has a bug"):
        run_thread_ranks(3, fail_on_rank_2)
    assert lost == ["a rank did not come to all_reduce_sum 'r'"] * 2
    assert time.perf_counter() - start < 30  # they were told, and did not wait out the minute


def test_a_rank_that_never_comes_is_given_up() -> None:
    with pytest.raises(PeerLostError, match="did not come to all_gather 'g'"):
        run_thread_ranks(2, lambda c: c.rank == 0 and c.all_gather(rank_rows(c), "g"), timeout_seconds=0.05)


def test_abort_ends_all_ranks() -> None:
    def abort_on_rank_0(collectives: Collectives) -> None:
        if collectives.rank == 0:
            collectives.abort(4)
        collectives.gather_objects(None, "o")

    with pytest.raises(SystemExit) as left:
        run_thread_ranks(3, abort_on_rank_0)
    assert left.value.code == 4


@pytest.mark.parametrize("other", ["another name", "another kind", "another operation"])
def test_ranks_that_make_different_calls_are_told(other: str) -> None:
    def differ(collectives: Collectives) -> None:
        tensor = rank_rows(collectives)
        if collectives.rank == 0:
            collectives.all_reduce(tensor, "r")
        elif other == "another name":
            collectives.all_reduce(tensor, "q")
        elif other == "another kind":
            collectives.all_gather(tensor, "r")
        else:
            collectives.all_reduce(tensor, "r", "max")

    with pytest.raises(AssertionError, match="different calls"):
        run_thread_ranks(2, differ)


def test_our_own_mistakes_are_asserted() -> None:
    with pytest.raises(AssertionError):
        SingleProcess().all_reduce(mx.nd.zeros((2,)), "r", "mean")
    with pytest.raises(AssertionError):
        run_thread_ranks(2, lambda c: c.reduce_scatter(mx.nd.zeros((3,)), "s"))


def test_thread_ranks_are_threads_of_their_own_and_give_results_in_rank_order() -> None:
    results = run_thread_ranks(4, lambda c: (c.rank, c.size, c.local_rank, c.local_size, threading.current_thread()))
    assert [result[:4] for result in results] == [(rank, 4, rank, 4) for rank in range(4)]
    assert len({result[4] for result in results} | {threading.current_thread()}) == 5


def test_worlds_of_thread_ranks_one_after_another_share_their_threads() -> None:
    """MXNet keeps memory for every thread that it ever saw: 25 worlds have 100 ranks, and a few threads."""
    threads = {thread for _ in range(25) for thread in run_thread_ranks(4, lambda c: threading.current_thread())}
    assert 4 <= len(threads) < 50


def test_layers_without_a_name_have_the_same_one_on_every_rank_and_in_every_world() -> None:
    def name(collectives: Collectives) -> str:
        layers = [mx.sym.relu(mx.sym.Variable("x")) for _ in range(collectives.rank + 1)]
        return layers[0].name

    assert {*run_thread_ranks(3, name), *run_thread_ranks(3, name)} == {"relu0"}


def test_thread_ranks_may_start_thread_ranks() -> None:
    inner = run_thread_ranks(3, lambda outer: run_thread_ranks(2, lambda c: (outer.rank, c.rank)))
    assert inner == [[(rank, 0), (rank, 1)] for rank in range(3)]
