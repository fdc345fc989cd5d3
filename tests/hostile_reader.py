"""Reads mutations of a valid file in a process of its own: hostile_reader.py READER FILE COUNT SEED

Ends with status 0 when every one gave a ValueError, an OSError or an answer, within a second and in the memory of
twice the file and 64 MiB; else the mutation lies beside the file.
"""

from __future__ import annotations

import faulthandler
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: bits, bytes, whole numbers at the ends of their range, pieces lost, moved or repeated."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        kind, at = rng.integers(7), int(rng.integers(len(data) + 1))
        # Heads of files hold what the rest is read by: half of the changes are there.
        at = at % min(len(data) + 1, 256) if rng.random() < 0.5 else at
        size = int(rng.choice([1, 2, 4, 8, 64]))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + size] = rng.bytes(size)
        elif kind == 2:
            width = int(rng.choice([1, 2, 4, 8]))
            data[at : at + width] = (int(rng.choice(NUMBERS)) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + size]
        elif kind == 5:
            data[at:at] = data[at : at + size]
        else:
            source = int(rng.integers(len(data) + 1))
            data[at : at + size] = data[source : source + size]
        if not data:
            break
    return bytes(data)


def read_records(path: Path) -> None:
    from partial_fc.data.records import RecordSource

    source = RecordSource(path.with_suffix(".rec"))
    try:
        for index in range(min(len(source), 3)):
            source.read(index)
    finally:
        source.close()


def read_list_file(path: Path) -> None:
    from partial_fc.data.list_source import read_list

    list(read_list(path))


def read_key_list(path: Path) -> None:
    from partial_fc.data.key_list import KeyList

    KeyList(path)


def read_bin(path: Path) -> None:
    from partial_fc.evaluation.verification_set import load_bin

    load_bin(path)


def read_params_file(path: Path) -> None:
    from partial_fc.params_file import read_params

    for array in read_params(path).values():
        array.sum()


def read_manifest_file(path: Path) -> None:
    from partial_fc.checkpoint.manifest import read_manifest

    read_manifest(path.parent)


def read_symbol(path: Path) -> None:
    from partial_fc.symbol_file import check_symbol

    check_symbol(path)


READERS: dict[str, Callable[[Path], None]] = {
    "rec": read_records,
    "idx": read_records,
    "list": read_list_file,
    "keys": read_key_list,
    "bin": read_bin,
    "params": read_params_file,
    "manifest": read_manifest_file,
    "symbol": read_symbol,
}


def main(reader: str, name: str, count: str, seed: str) -> int:
    read, path = READERS[reader], Path(name)
    content = path.read_bytes()
    read(path)  # the file is valid, and what is imported is imported
    rng = np.random.default_rng(int(seed))
    limit = psutil.Process().memory_info().vms + 2 * len(content) + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    faulthandler.enable()
    answers = 0
    for _ in range(int(count)):
        path.write_bytes(mutate(content, rng))
        signal.setitimer(signal.ITIMER_REAL, 5.0)  # its signal ends the process
        try:
            read(path)
            answers += 1
        except (ValueError, OSError):
            continue
    print(f"{count} mutations, {answers} of them read")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
