"""`tests/install_chromium.sh`: a browser for the tests, from apt where it may; training does without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = "tests/install_chromium.sh"
LINE = "sudo apt-get update && sudo apt-get install -y chromium fonts-dejavu-core"
APT = '#!/usr/bin/env bash\necho "apt $*" >>"$RECORDS/calls"\n'
BROWSER = "#!/usr/bin/env bash\n"


@pytest.fixture
def bare(tree):
    """A machine without a browser."""
    (tree.root / "tests").mkdir()
    shutil.copy(PROJECT / SCRIPT, tree.root / SCRIPT)
    return tree


def add_machine(tree, user: int, apt: str | None = APT) -> None:
    tree.add_tool("id", f"#!/usr/bin/env bash\necho {user}\n")
    if apt is not None:
        tree.add_tool("apt-get", apt)


def calls(tree) -> list[str]:
    path = tree.records / "calls"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "other"])
def test_a_browser_that_is_there_is_taken(bare, name):
    add_machine(bare, user=0)
    browser = bare.add_tool(name, BROWSER)
    done = bare.run(SCRIPT, CI="true", **({"CHROMIUM": str(browser)} if name == "other" else {}))
    assert (done.returncode, done.stderr, calls(bare)) == (0, "", [])


def test_root_installs_it(bare):
    made = f'{APT}[ "$1" = update ] || {{ echo "#!/bin/sh" >"$TOOLS/chromium"; chmod +x "$TOOLS/chromium"; }}\n'
    add_machine(bare, user=0, apt=made)
    done = bare.run(SCRIPT, CI="true", TOOLS=str(bare.tools))
    assert done.returncode == 0, done.stderr
    assert calls(bare) == ["apt update", "apt install -y --no-install-recommends chromium fonts-dejavu-core"]
    assert bare.run(SCRIPT, CI="true").stderr == "" and len(calls(bare)) == 2


@pytest.mark.parametrize(
    ("user", "apt", "says"),
    [
        (1000, APT, LINE),
        (0, None, "install one, or set CHROMIUM to it"),
        (0, APT + "echo no network; exit 100\n", "no network\ntests: Chromium could not be installed: the log is"),
        (0, APT, "there is no Chromium on the PATH: set CHROMIUM to it"),
    ],
)
def test_without_it_the_tests_go_on_and_continuous_integration_does_not(bare, user, apt, says):
    add_machine(bare, user, apt)
    for variables, status in (({}, 0), ({"CI": "true"}, 1)):
        done = bare.run(SCRIPT, **variables)
        assert done.returncode == status
        assert says in done.stderr and done.stdout == ""


def test_training_is_free_of_it():
    for name in ("setup.sh", "run.sh", "config.sh"):
        assert "chromium" not in (PROJECT / name).read_text().lower()
    lines = (PROJECT / "tests" / "run.sh").read_text().splitlines()
    assert lines.index('bash "$root/tests/install_chromium.sh"') == lines.index('bash "$root/setup.sh"') + 1
