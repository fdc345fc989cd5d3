from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from partial_fc.log_files import LogFiles, lines_until


def record(update: int) -> dict[str, object]:
    return {"update": update, "loss": 1.5 / update, "milliseconds": {"data": 2.0}}


def updates_of(path: Path) -> list[int]:
    return [json.loads(line)["update"] for line in path.open()]


def test_a_resumed_log_keeps_the_lines_up_to_its_update(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    for update in range(1, 6):
        files.write(record(update))
    files.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"update": 6, "lo')
    resumed = LogFiles(tmp_path, 3)
    resumed.write(record(4))
    resumed.close()
    assert updates_of(tmp_path / "log.jsonl") == [1, 2, 3, 4]
    LogFiles(tmp_path).close()
    assert (tmp_path / "log.jsonl").read_text() == "", "a run from its first update begins anew"


def test_what_is_no_record_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"update": 1}\n[1]\nnull\n{"update": "2"}\n' + "[" * 10_000 + '\n{"update": 2}\n{"update": 3}\n')
    assert list(lines_until(path, 2)) == ['{"update": 1}\n', '{"update": 2}\n']


PROGRAM = """
import logging, resource, signal, sys
from pathlib import Path
from partial_fc.log_files import LogFiles
logging.basicConfig(format="%(levelname)s: %(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
files = LogFiles(Path(sys.argv[1]))
for update in range(1, 501):
    files.write({"update": update, "loss": 1.5, "numbers": {str(i): i / 7 for i in range(20)}})
files.close()
print("500 records")
"""


def test_a_full_disk_is_told_once_and_nobody_waits(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.stdout == "500 records\n", run.stderr
    warnings = [line for line in run.stderr.splitlines() if line.startswith("WARNING")]
    assert sorted(line.split()[1] for line in warnings) == ["log.jsonl", "tensorboard"], run.stderr
    assert all("training goes on without it" in line for line in warnings)
