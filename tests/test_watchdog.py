from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from partial_fc import watchdog as module
from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.exit_status import PEER_LOST, STALLED
from partial_fc.watchdog import Watchdog, watch


class Left(Exception):
    pass


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch):
    """What ranks leave with, in place of the end of the process: (rank's thread or watchdog's, status)."""
    left: list[int] = []
    told = threading.Event()

    def note(status: int) -> None:
        left.append(status)
        told.set()
        raise Left(status)

    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    monkeypatch.setattr(Watchdog.__init__, "__defaults__", (note,))
    note.left, note.told = left, told
    return note


def test_a_single_rank_has_none() -> None:
    assert watch(SingleProcess(), 10.0) is None


def test_ranks_that_take_their_leave_are_not_missed(leave, capsys: pytest.CaptureFixture[str]) -> None:
    def one_rank(collectives: Collectives) -> None:
        dog = watch(collectives, 5.0)
        collectives.gather_objects(None, "work")
        dog.close()

    run_thread_ranks(3, one_rank)
    assert leave.left == []
    assert "error" not in capsys.readouterr().err


def test_a_rank_whose_connection_ends_is_named_to_all(leave, capsys: pytest.CaptureFixture[str]) -> None:
    def one_rank(collectives: Collectives) -> None:
        dog = watch(collectives, 60.0)
        collectives.doing = f"update 7, head of {collectives.rank}"
        if collectives.rank == 1:
            pause = threading.Event()
            while dog._states.get("1", {}).get("doing") != collectives.doing:  # what it sent came back with all others'
                assert not pause.wait(0.05)
            dog._lines.socket.shutdown(socket.SHUT_RDWR)
        elif leave.told.wait(60):
            dog._thread.join(10)

    run_thread_ranks(3, one_rank)
    assert leave.left.count(PEER_LOST) >= 2
    assert "rank 1 (" in (errors := capsys.readouterr().err)
    assert "is gone; it was last seen at: update 7, head of 1" in errors


def test_a_wait_that_is_too_long_names_who_did_not_come(leave, capsys: pytest.CaptureFixture[str]) -> None:
    def one_rank(collectives: Collectives) -> None:
        watch(collectives, 2.0)
        collectives.doing = "update 3, data"
        if collectives.rank == 2:
            assert leave.told.wait(60)
            return
        collectives.calls += 1
        with collectives.waiting("trainer.labels"):
            assert leave.told.wait(60)

    run_thread_ranks(3, one_rank)
    assert STALLED in leave.left
    errors = capsys.readouterr().err
    assert "has waited for more than 2 s in 'trainer.labels' (update 3, data); these did not come: rank 2 (" in errors
    assert "rank 0 (" not in errors.split("these did not come")[1].splitlines()[0]


def test_work_between_collectives_may_take_any_time(leave) -> None:
    def one_rank(collectives: Collectives) -> None:
        dog = watch(collectives, 2.0)
        threading.Event().wait(3.5)
        for _ in range(6):
            collectives.calls += 1
            with collectives.waiting("another call each time"):
                threading.Event().wait(0.4)
        collectives.gather_objects(None, "all are here")
        dog.close()

    run_thread_ranks(2, one_rank)
    assert leave.left == []


def test_a_stranger_on_the_port_is_sent_away(leave) -> None:
    hub = module._Hub("the token", local=True)
    with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as stranger:
        stranger.sendall(json.dumps({"token": "another", "rank": 0}).encode() + b"\n")
        assert stranger.recv(100) == b""
    with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as stranger:
        stranger.sendall(b"\x00" * 100 + b"\n")
        assert stranger.recv(100) == b""
    assert hub._ranks == []
    hub._ended = True


def test_without_a_connection_time_alone_is_watched(leave, capsys: pytest.CaptureFixture[str]) -> None:
    collectives = SingleProcess()
    collectives.waits_in = "head.embeddings"
    start = time.monotonic()
    Watchdog(collectives, 1.0, None, "")
    assert leave.told.wait(60)
    assert leave.left == [STALLED]
    assert time.monotonic() - start >= 1.0
    assert "rank 0 has waited for more than 1 s in 'head.embeddings'" in capsys.readouterr().err
