"""A copy of the launch scripts in a directory of its own, and stand-ins for the programs that they start."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SCRIPTS = ("setup.sh", "run.sh", "config.sh", "requirements.txt", "requirements-test.txt")

# What the scripts use of a bare Debian: nothing else is on the PATH of a `LaunchTree`.
BARE_TOOLS = (
    "bash basename cat chmod cp cut dirname env find flock grep id ls mkdir mv rm sed sha256sum sleep sort"
    " tail touch tr wc xargs"
).split()

# Writes what a program was called with to files, so that no quoting of ours can hide a difference.
RECORDER = """#!/usr/bin/env bash
printf '%s\\0' "$@" >"$RECORDS/{name}.arguments"
env -0 >"$RECORDS/{name}.environment"
pwd >"$RECORDS/{name}.directory"
exit {status}
"""


@dataclass
class LaunchTree:
    """A project directory with the real scripts; its PATH holds a bare Debian's tools and the test's own."""

    root: Path
    tools: Path
    records: Path
    variables: dict[str, str] = field(default_factory=dict)

    def add_tool(self, name: str, script: str, directory: Path | None = None) -> Path:
        path = (directory or self.tools) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(script)
        path.chmod(0o755)
        return path

    def add_recorder(self, name: str, status: int = 0) -> Path:
        return self.add_tool(name, RECORDER.format(name=name, status=status))

    def environment(self, **variables: str) -> dict[str, str]:
        own = {"PATH": str(self.tools), "HOME": str(self.root), "RECORDS": str(self.records)}
        return own | self.variables | variables

    def run(
        self, script: str, *arguments: str, directory: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.root / script), *arguments],
            env=self.environment(**variables),
            cwd=directory or self.root,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def arguments(self, name: str) -> list[str]:
        return (self.records / f"{name}.arguments").read_text().split("\0")[:-1]

    def variables_of(self, name: str) -> dict[str, str]:
        lines = (self.records / f"{name}.environment").read_text().split("\0")[:-1]
        return dict(line.split("=", 1) for line in lines)

    def was_called(self, name: str) -> bool:
        return (self.records / f"{name}.arguments").exists()


@pytest.fixture
def tree(tmp_path: Path) -> LaunchTree:
    """The scripts under a path with a space in it, with 12 cores and no GPU."""
    root, tools, records = tmp_path / "a project", tmp_path / "tools", tmp_path / "records"
    for directory in (root, tools, records, root / "src"):
        directory.mkdir()
    for name in SCRIPTS:
        shutil.copy(PROJECT / name, root / name)
    for name in BARE_TOOLS:
        path = shutil.which(name)
        assert path is not None, name
        os.symlink(path, tools / name)
    made = LaunchTree(root, tools, records)
    # As coreutils' own, it takes OMP_NUM_THREADS for the number of cores.
    made.add_tool("nproc", '#!/usr/bin/env bash\necho "${OMP_NUM_THREADS:-12}"\n')
    return made
