from contextlib import suppress

import pytest

from partial_fc import limited_child
from partial_fc.limited_child import try_in_child


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("", 0),
        ("import sys; sys.exit(len(sys.argv))", 3),
        ("raise ValueError", 1),
        ("import os; os.abort()", -6),
        ("bytearray(1 << 30)", 1),
    ],
)
def test_status(program, status):
    assert try_in_child(program, "a", "b", options=("-S",), memory_bytes=1 << 29) == status


def test_time_is_limited(monkeypatch):
    monkeypatch.setattr(limited_child, "_SECONDS", 1)
    with pytest.raises(TimeoutError, match="more than 1 s"):
        try_in_child("import time; time.sleep(60)")
    with suppress(TimeoutError):  # the processor's time, where this process has it to itself
        assert try_in_child("while True: pass") == -9
