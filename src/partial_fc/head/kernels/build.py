"""Compiles the C form of the kernels for this machine: ``python -m partial_fc.head.kernels.build``.

The library is named after a digest of its source, the compiler's flags and the processor, so that one made from
another source or on another machine (a shared disk) is never loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("block_kernels.c")
LRU_SOURCE = Path(__file__).with_name("lru.c")

# Arithmetic stays IEEE's: a loss that is not finite must be seen as such, and (Z − max) − excess must not become
# Z − (max + excess). Only sums that the source marks (omp simd reduction) are reordered.
FLAGS = [
    "-std=gnu11", "-O3", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-fPIC", "-shared",
    "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra",
]  # fmt: skip


def library_path(source: Path = SOURCE) -> Path:
    """Where the library for this source, these flags and this processor is, or would be."""
    facts = [source.read_text(), *FLAGS, platform.machine(), _processor()]
    digest = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
    return source.with_name("_build") / f"{source.stem}-{digest}.so"


def build(source: Path = SOURCE) -> Path:
    """Compiles a source's library unless it is there, and returns its path.

    Raises:
        OSError: there is no C compiler, or it failed; the message holds its first words.
    """
    library = library_path(source)
    if library.exists():
        return library
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise OSError("no C compiler (cc or gcc) is on the PATH: install one, as by apt-get install gcc")
    library.parent.mkdir(exist_ok=True)
    partial = library.with_suffix(f".{os.getpid()}.partial")
    flags = FLAGS if platform.machine() in ("x86_64", "AMD64") else [f for f in FLAGS if "512" not in f]
    outcome = subprocess.run(
        [compiler, *flags, str(source), "-o", str(partial), "-lm"], capture_output=True, text=True, check=False
    )
    if outcome.returncode != 0:
        partial.unlink(missing_ok=True)
        raise OSError(f"{compiler} cannot compile {source.name}: {outcome.stderr.strip()[:500]}")
    os.replace(partial, library)
    return library


def _processor() -> str:
    """What -march=native depends on, as far as Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features"))), "")


def main() -> int:
    """Builds the libraries and says where they are."""
    try:
        print(build(SOURCE), build(LRU_SOURCE), sep="\n")
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
