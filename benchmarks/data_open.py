"""Opening a set of millions of records: seconds and memory, in a process of its own (part of `benchmarks/data.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from partial_fc.data.record_payload import pack_label, pack_range
from partial_fc.data.recordio import frame

RECORD_BYTES, IMAGE_BYTES = 4096, 4000
LINES_AT_ONCE = 1 << 18

OPEN = """
import json, re, time
from pathlib import Path
{imports}
start, processor_start = time.perf_counter(), time.process_time()
source = {source}
seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
order = permutation(len(source), 0, 0)
assert source.read(len(source) - 1)[1] == {last_label}
mebibytes = int(re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024
print(json.dumps([len(source), seconds, processor_seconds, mebibytes]))
"""


def write_sparse_rec(path: Path, records: int) -> None:
    """A header record and `records` images, of which the first and the last few alone take space on the disk.

    Past 2²⁴ the header's float32 says where the last image is to two records: the reader looks at these.
    """
    end = 1 + records
    with path.open("wb") as file:
        file.write(frame(pack_range(end, end, 0)))
        for key in (1, *range(max(2, records - 4), end)):
            file.seek(key * RECORD_BYTES)
            file.write(frame(pack_label(key - 1, key) + bytes(IMAGE_BYTES)))
    path.with_name("property").write_text(f"{records},112,112\n")
    with path.with_suffix(".idx").open("wb") as file:
        for start in range(0, end, LINES_AT_ONCE):
            keys = range(start, min(start + LINES_AT_ONCE, end))
            file.write(b"".join(b"%d\t%d\n" % (key, key * RECORD_BYTES) for key in keys))


def write_lmdb(path: Path, records: int) -> None:
    """A database of one image and a list of `records` keys, the last of which it holds."""
    import lmdb

    from partial_fc.data.lmdb_source import Datum

    path.mkdir()
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"%010d" % (records - 1), Datum(data=b"image").SerializeToString())
    with (path / "keys.txt").open("wb") as file:
        for start in range(0, records, LINES_AT_ONCE):
            keys = range(start, min(start + LINES_AT_ONCE, records))
            file.write(b"".join(b"%010d %d\n" % (key, key // 47) for key in keys))


def measure_opening(records: int, folder: Path) -> dict[str, object]:
    """Seconds to open, and the largest resident memory of a process that opens and holds the order of an epoch."""
    folder.mkdir(exist_ok=True)
    write_sparse_rec(folder / "train.rec", records)
    write_lmdb(folder / "lmdb", records)
    order = "from partial_fc.data.order import permutation\n"
    found: dict[str, object] = {"records": records}
    for name, imports, source, last_label in (
        (
            "rec",
            "from partial_fc.data.records import RecordSource",
            f"RecordSource({str(folder / 'train.rec')!r})",
            records - 1,
        ),
        (
            "lmdb",
            "from partial_fc.data.lmdb_source import LmdbSource",
            f"LmdbSource({str(folder / 'lmdb')!r}, {str(folder / 'lmdb' / 'keys.txt')!r})",
            (records - 1) // 47,
        ),
    ):
        program = OPEN.format(imports=order + imports, source=source, last_label=last_label)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        output = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        count, seconds, processor_seconds, mebibytes = json.loads(output)
        assert count == records
        found |= {
            f"{name}_open_seconds": seconds,
            f"{name}_open_processor_seconds": processor_seconds,
            f"{name}_mebibytes": mebibytes,
        }
    return found
