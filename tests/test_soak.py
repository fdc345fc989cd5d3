"""The short form of tests/soak.sh: the toy recipe under random SIGKILLs of its ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))

from soak import ends_of_outputs, soak  # noqa: E402


@pytest.mark.real_ranks
@pytest.mark.takes_minutes
@pytest.mark.timeout(1800)
def test_training_under_random_kills_is_the_run_that_was_left_alone(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    try:
        record_property("soak", soak(minutes=1.5, seed=0, directory=tmp_path))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{ends_of_outputs(tmp_path)}") from error
