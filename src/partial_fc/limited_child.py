"""What a library must parse though it comes from outside: tried in a child process with limits first."""

from __future__ import annotations

import subprocess
import sys

_SECONDS, _MEMORY_BYTES = 60, 8 << 30

# By the child itself: what runs between fork and exec may wait for ever for a lock that another thread held.
_LIMITS = """
import resource
for kind, limit in (resource.RLIMIT_CPU, {seconds}), (resource.RLIMIT_AS, {memory_bytes}), (resource.RLIMIT_CORE, 0):
    resource.setrlimit(kind, (limit, limit))
"""


def try_in_child(
    program: str, *arguments: str, options: tuple[str, ...] = (), memory_bytes: int = _MEMORY_BYTES
) -> int:
    """Runs a Python program, given as text; its exit status, negative where a signal ended it.

    Args:
        options: of the interpreter.
        memory_bytes: of addresses; MXNet's library alone takes 1 GiB of them.

    Raises:
        TimeoutError: it takes more than a minute of the processor, or two of time.
    """
    limits = _LIMITS.format(seconds=_SECONDS, memory_bytes=memory_bytes)
    command = [sys.executable, *options, "-c", limits + program, *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=2 * _SECONDS).returncode
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"it takes more than {_SECONDS} s") from None
