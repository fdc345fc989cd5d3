from __future__ import annotations

import pytest

from partial_fc.schedule import StepSchedule


def test_the_rate_falls_at_each_step_and_counts_updates_from_0() -> None:
    schedule = StepSchedule(0.1, (3, 5), factor=0.1)
    rates = [schedule(update) for update in range(7)]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-12)


def test_no_steps_keep_the_rate() -> None:
    assert StepSchedule(0.25)(10**9) == 0.25


@pytest.mark.parametrize("base", [0.0, -0.1, float("nan")])
def test_a_rate_that_is_not_positive_is_refused(base: float) -> None:
    with pytest.raises(ValueError, match=f"must be positive, but is {base}"):
        StepSchedule(base)


@pytest.mark.parametrize("steps", [(5, 3), (3, 3), (0, 3), (-1,)])
def test_steps_that_do_not_ascend_from_1_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must ascend from 1"):
        StepSchedule(0.1, steps)
