from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from partial_fc.schedule import CosineSchedule, PolynomialSchedule, StepSchedule, WarmUp, make_schedule


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


def test_polynomial_falls_from_base_to_final() -> None:
    schedule = PolynomialSchedule(0.5, last=7, final=0.1, first=3, power=2.0)
    expected = [0.5, 0.5, 0.5, 0.5, 0.1 + 0.4 * (3 / 4) ** 2, 0.1 + 0.4 / 4, 0.1 + 0.4 / 16, 0.1, 0.1]
    assert [schedule(update) for update in range(9)] == pytest.approx(expected, rel=1e-12)


def test_cosine_falls_from_base_to_final() -> None:
    schedule = CosineSchedule(0.5, last=8, final=0.1, first=4)
    half = 0.4 * math.sqrt(0.5) / 2
    expected = [0.5, 0.5, 0.5, 0.5, 0.5, 0.3 + half, 0.3, 0.3 - half, 0.1, 0.1]
    assert [schedule(update) for update in range(10)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", ["steps", "polynomial", "cosine"])
def test_a_warm_up_rises_in_a_line_and_ends_where_the_schedule_begins(shape: str) -> None:
    schedule = make_schedule(shape, 0.4, last=21, warmup_updates=4, steps=(8,))
    assert [schedule(update) for update in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4], rel=1e-12)
    assert schedule(20) < schedule(4)


def test_without_a_warm_up_the_first_rate_is_the_base() -> None:
    assert [make_schedule(shape, 0.4, last=9)(0) for shape in ("steps", "polynomial", "cosine")] == [0.4] * 3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: make_schedule("linear", 0.1, last=9), "unknown schedule 'linear': choose one of steps, polynomial"),
        (lambda: make_schedule("cosine", 0.1, last=5, warmup_updates=5), "must be longer than its warm-up"),
        (lambda: PolynomialSchedule(0.1, last=5, final=0.2), r"must lie in \[0, 0.1\], but is 0.2"),
        (lambda: PolynomialSchedule(0.1, last=5, power=0.0), "power of the learning rate must be positive"),
        (lambda: WarmUp(0.1, -1, StepSchedule(0.1)), "must not be shorter than 0"),
    ],
)
def test_what_makes_no_schedule_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
