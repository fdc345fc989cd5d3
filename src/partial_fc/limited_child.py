"""What a library must parse though it comes from outside: tried in a child process with limits first."""

from __future__ import annotations

import resource
import subprocess
import sys

_SECONDS, _MEMORY_BYTES = 60, 8 << 30


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
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    command = [sys.executable, *options, "-c", program, *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=2 * _SECONDS, preexec_fn=limit).returncode
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"it takes more than {_SECONDS} s") from None
