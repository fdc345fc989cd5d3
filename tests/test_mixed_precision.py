from __future__ import annotations

from partial_fc.mixed_precision import LARGEST_LOSS_SCALE, LossScale, loss_scale_for


def values_after(scale: LossScale, finite: list[bool]) -> list[float]:
    values = []
    for update_is_finite in finite:
        scale.after_update(update_is_finite)
        values.append(scale.value)
    return values


def test_an_overflow_halves_the_scale_at_once_and_down_to_1() -> None:
    assert values_after(LossScale(value=5.0), [False] * 4) == [2.5, 1.25, 1.0, 1.0]


def test_the_scale_doubles_after_so_many_updates_without_an_overflow_in_a_row() -> None:
    scale = LossScale(value=8.0, growth_interval_updates=3)
    assert values_after(scale, [True] * 6) == [8, 8, 16, 16, 16, 32]


def test_an_overflow_starts_the_count_anew() -> None:
    scale = LossScale(value=8.0, growth_interval_updates=3)
    assert values_after(scale, [True, True, False, True, True, True]) == [8, 8, 4, 4, 4, 8]


def test_the_scale_stays_below_its_ceiling() -> None:
    scale = LossScale(value=LARGEST_LOSS_SCALE / 2, growth_interval_updates=1)
    assert values_after(scale, [True] * 3) == [LARGEST_LOSS_SCALE] * 3


def test_fp32_keeps_the_scale_1_whatever_happens() -> None:
    assert values_after(loss_scale_for(fp16=False), [False, True] * 1001) == [1.0] * 2002


def test_without_an_interval_an_overflow_leaves_the_scale_where_it_is() -> None:
    assert values_after(LossScale(value=8.0, growth_interval_updates=0), [False, True, False]) == [8.0] * 3


def test_fp16_starts_with_a_power_of_two_that_moves() -> None:
    scale = loss_scale_for(fp16=True)
    assert scale.value == 2.0**10
    assert values_after(scale, [False] + [True] * scale.growth_interval_updates)[-1] == 2.0**10
