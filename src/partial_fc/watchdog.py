"""Who is missing when ranks wait: each rank tells the others what it does, beside the library that carries tensors.

Rank 0 opens a TCP port; every rank, it too, sends it a line a second and gets back the lines of all. So each rank
knows of each other one what it was last doing, when

* a connection ends without a farewell: that rank is gone, and the others end at once (status 3), where the library
  of the collectives would wait for it, some for ever;
* this rank waits in a collective for more than the time that is allowed: the ranks that have not come to it are
  named, and all end (status 4);
* a rank meets an error that no other has: it says so to all before it leaves, with its own status.

Waiting is counted in the watchdog's own rounds, not by the clock: a machine that was suspended, and with it all ranks,
does not look like one that stands still.
"""

from __future__ import annotations

import json
import logging
import platform
import secrets
import select
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from partial_fc.collectives import Collectives, leave_at_once, together
from partial_fc.exit_status import PEER_LOST, STALLED

log = logging.getLogger("partial_fc")

Message = dict[str, Any]

_ROUND_SECONDS = 0.5
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 3.0  # how long a rank that gives up waits for rank 0 to tell the others
_LONGEST_LINE = 1 << 20


class _Lines:
    """JSON values, a line each, over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.rank = -1  # whose it is, once that is known
        self._rest = b""

    def send(self, message: Message) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def ready(self) -> bool:
        """Whether there is room to send."""
        return bool(select.select([], [self.socket], [], 0)[1])

    def receive(self) -> list[Message] | None:
        """The messages that are there; None when the other side is gone, or sends what is no message."""
        try:
            data = self.socket.recv(1 << 16)
            *lines, self._rest = (self._rest + data).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return None
        valid = data and len(self._rest) <= _LONGEST_LINE and all(isinstance(message, dict) for message in messages)
        return messages if valid else None


class _Hub:
    """Rank 0's meeting point: it keeps each rank's last line, and hands all of them to all."""

    def __init__(self, token: str, local: bool) -> None:
        self._token = token
        self._states: dict[str, Message] = {}
        self._selector = selectors.DefaultSelector()
        self._server = socket.create_server(("127.0.0.1" if local else "", 0), backlog=256)
        self._selector.register(self._server, selectors.EVENT_READ)
        self._ranks: list[_Lines] = []
        self._ended = False
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._run, name="watchdog hub", daemon=True).start()

    def _run(self) -> None:
        next_round = time.monotonic()
        while not self._ended or self._ranks:
            for key, _ in self._selector.select(_ROUND_SECONDS):
                if key.fileobj is self._server:
                    connection = self._server.accept()[0]
                    connection.settimeout(_ANSWER_SECONDS)
                    self._selector.register(connection, selectors.EVENT_READ, _Lines(connection))
                else:
                    self._receive(key.data)
            if time.monotonic() >= next_round:
                next_round = time.monotonic() + 2 * _ROUND_SECONDS
                self._tell({"states": self._states}, only_ready=True)
        self._selector.close()
        self._server.close()

    def _receive(self, lines: _Lines) -> None:
        messages = lines.receive()
        if messages is None:
            self._forget(lines)
            if lines.rank >= 0 and not self._ended:
                state = self._states.get(str(lines.rank), {})
                self._end(PEER_LOST, f"rank {lines.rank} ({state.get('place')}) is gone; it was last {_doing(state)}")
            return
        for message in messages:
            if lines.rank < 0:
                if message.get("token") != self._token or not isinstance(message.get("rank"), int):
                    self._forget(lines)  # somebody else's connection
                    return
                lines.rank = message["rank"]
                self._ranks.append(lines)
            elif "farewell" in message:
                self._forget(lines)
                self._ended = True  # it comes after the last collective: the others take their leave, too
            elif "end" in message:
                self._end(message["end"], message["why"])
            else:
                self._states[str(lines.rank)] = message

    def _end(self, status: int, why: str) -> None:
        if not self._ended:
            self._ended = True
            print(f"error: {why}", file=sys.stderr, flush=True)
            self._tell({"end": status})

    def _tell(self, message: Message, only_ready: bool = False) -> None:
        for lines in list(self._ranks):
            if only_ready and not lines.ready():
                continue  # it does not read: it may be stopped, and will get a later one
            try:
                lines.send(message)
            except OSError:
                continue  # its end is found by reading

    def _forget(self, lines: _Lines) -> None:
        self._selector.unregister(lines.socket)
        lines.socket.close()
        if lines in self._ranks:
            self._ranks.remove(lines)


class Watchdog:
    """This rank's part: tells what it does, and ends it when another is gone or does not come.

    Args:
        collectives: whose ``doing``, ``calls`` and ``waits_in`` it reads.
        stall_timeout_seconds: the longest wait in a collective.
        connection: to rank 0; None watches the time alone, and names no rank.
        token: what rank 0 knows its ranks by.
        leave: ends the process at once with a status.
    """

    def __init__(
        self,
        collectives: Collectives,
        stall_timeout_seconds: float,
        connection: socket.socket | None,
        token: str,
        leave: Callable[[int], None] = leave_at_once,
    ) -> None:
        self._collectives = collectives
        self._timeout = stall_timeout_seconds
        self._lines = _Lines(connection) if connection is not None else None
        self._leave = leave
        self._states: dict[str, Message] = {}
        self._closed = threading.Event()
        self._place = f"{platform.node()}, process {psutil.Process().pid}"
        self._waited_seconds = 0.0
        self._waited_in = (-1, "")
        if self._lines is not None:
            self._send({"token": token, "rank": collectives.rank})
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def end_all(self, status: int, why: str) -> None:
        """Tells all ranks why this one leaves, and ends it."""
        if self._lines is None or not self._send({"end": status, "why": why}):
            print(f"error: {why}", file=sys.stderr, flush=True)
            self._leave(status)
        self.await_verdict()  # rank 0's answer ends this process, unless there is none
        print(f"error: {why}", file=sys.stderr, flush=True)
        self._leave(status)

    def await_verdict(self) -> None:
        """Gives the others a moment to say who is gone, which ends this process, before it says something itself."""
        if threading.current_thread() is self._thread:
            self._listen(_ANSWER_SECONDS)
        else:
            self._closed.wait(_ANSWER_SECONDS)

    def close(self) -> None:
        """Takes leave: every rank calls it after the last collective."""
        self._closed.set()
        if self._send({"farewell": True}):
            self._lines.socket.shutdown(socket.SHUT_RD)  # wakes the thread
        self._thread.join(_ANSWER_SECONDS)

    def _run(self) -> None:
        while not self._closed.is_set():
            begin = time.monotonic()
            self._send(self._state())
            if self._lines is None:
                self._closed.wait(_ROUND_SECONDS)
            elif not self._listen(_ROUND_SECONDS):
                return
            self._note_wait(min(time.monotonic() - begin, 2 * _ROUND_SECONDS))
            if self._waited_seconds > self._timeout:
                self.end_all(STALLED, self._stall())

    def _state(self) -> Message:
        collectives = self._collectives
        return {
            "calls": collectives.calls,
            "waits_in": collectives.waits_in,
            "doing": collectives.doing,
            "place": self._place,
        }

    def _note_wait(self, seconds: float) -> None:
        wait = (self._collectives.calls, self._collectives.waits_in)
        self._waited_seconds = self._waited_seconds + seconds if wait == self._waited_in and wait[1] else 0.0
        self._waited_in = wait

    def _listen(self, seconds: float) -> bool:
        """Hears what rank 0 has to say for a while; False when there is nothing more to hear."""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._lines.socket, selectors.EVENT_READ)
            while not self._closed.is_set() and (left := end - time.monotonic()) > 0:
                if selector.select(left) and not self._hear(self._lines.receive()):
                    return False
        return True

    def _hear(self, messages: list[Message] | None) -> bool:
        if messages is None:
            if not self._closed.is_set():
                state = self._states.get("0", {})
                why = f"rank 0 ({state.get('place')}) is gone; it was last {_doing(state)}"
                print(f"error: {why} (seen by rank {self._collectives.rank})", file=sys.stderr, flush=True)
                self._leave(PEER_LOST)
            return False
        for message in messages:
            if "end" in message:
                self._leave(message["end"])
            self._states = message.get("states", self._states)
        return True

    def _stall(self) -> str:
        """Who has not come to the collective that this rank waits in, in words."""
        own = self._collectives
        missing = [
            f"rank {rank} ({state.get('place')}), last {_doing(state)}"
            for rank, state in sorted(self._states.items(), key=lambda item: int(item[0]))
            if state.get("calls", 0) < own.calls
        ]
        who = "these did not come: " + "; ".join(missing) if missing else "all came: what joins the ranks stands still"
        return (
            f"rank {own.rank} has waited for more than {self._timeout:g} s in {own.waits_in!r} ({own.doing}); "
            f"{who} (--stall-timeout-seconds sets how long it may wait)"
        )

    def _send(self, message: Message) -> bool:
        if self._lines is None:
            return False
        try:
            self._lines.send(message)
        except OSError:
            return False  # the end of the connection is found by reading
        return True


def _doing(state: Message) -> str:
    """What a rank said of itself, in words."""
    if not state:
        return "seen at the start"
    waiting = f", waiting in {state['waits_in']!r}" if state.get("waits_in") else ""
    return f"seen at: {state.get('doing')}{waiting}"


def watch(collectives: Collectives, stall_timeout_seconds: float) -> Watchdog | None:
    """Sets a watchdog on every rank; three object gathers. None for a single rank, which waits for nobody.

    Raises:
        RankError: rank 0 cannot open a port.
    """
    if collectives.size == 1:
        return None
    hosts = collectives.gather_objects(platform.node(), "watchdog.hosts")
    meeting: tuple[list[tuple[str, int]], str] = ([], "")
    with together(collectives, "watchdog"):
        if collectives.rank == 0:
            token = secrets.token_hex(16)
            hub = _Hub(token, local=len(set(hosts)) == 1)
            meeting = _own_addresses(hub.port), token
    addresses, token = collectives.gather_objects(meeting, "watchdog.address")[0]
    connection = _connect(addresses[:1] if platform.node() == hosts[0] else addresses[1:])
    if connection is None:
        log.warning("rank %d does not reach rank 0 (%s): it cannot name lost ranks", collectives.rank, addresses)
    return Watchdog(collectives, stall_timeout_seconds, connection, token)


def _own_addresses(port: int) -> list[tuple[str, int]]:
    """Where other ranks may reach this machine: first from itself, then by each of its networks."""
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET
    ]
    return [("127.0.0.1", port), *((address, port) for address in found if not address.startswith("127."))]


def _connect(addresses: list[tuple[str, int]]) -> socket.socket | None:
    for address in addresses:
        try:
            return socket.create_connection(tuple(address), timeout=_CONNECT_SECONDS)
        except OSError:
            continue
    return None
