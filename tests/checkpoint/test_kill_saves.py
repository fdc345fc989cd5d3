from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "program_kill_saves.py"


def test_the_newest_complete_checkpoint_loads_after_sigkill_at_twenty_random_moments(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, "20"], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    kills, interrupted = map(int, re.findall(r"(\d+) kills, (\d+) in the middle of a save", run.stdout)[0])
    assert kills == 20
    assert interrupted >= 3, "the kills do not meet a save"
