"""What all tests share: where modules are found, the threads they get, and real faces if there are any."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before any import of MXNet: a result must not depend on the machine's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The root comes first: `symbol` and `default` live there and are never installed.
for _directory in (ROOT / "src", ROOT):
    if str(_directory) in sys.path:
        sys.path.remove(str(_directory))
    sys.path.insert(0, str(_directory))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "real_ranks: starts ranks with mpirun or horovodrun; takes seconds a test"
    )
    config.addinivalue_line(
        "markers", "takes_minutes: begins before all others, so that they run beside it and nobody waits for its end"
    )
    # MXNet 1.9.1's own use of NumPy and SciPy warns some thirty times a test.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:mxnet")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("takes_minutes") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have to tell of their success, one that is random above all: `record_property`."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.section(name)
            terminalreporter.line(str(value))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real faces and published models that lies beside the project, where there is one."""
    folder = Path(os.environ.get("PARTIAL_FC_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}: set PARTIAL_FC_TEST_DATA to the one with the real faces")
    return folder
