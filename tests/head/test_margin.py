from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.head.margin import Margin

ARCFACE, COSFACE, COMBINED = Margin(m2=0.5), Margin(m3=0.4), Margin(1.0, 0.3, 0.2)
MARGINS = [
    Margin(), ARCFACE, COSFACE, COMBINED, Margin(1.35), Margin(2.0, 0.5, 0.35), Margin(4.0),
    Margin(1.5, 3.0, 0.1), Margin(1.0, 3.1), Margin(3.0, 1e-3),
]  # fmt: skip

margins = st.builds(Margin, st.floats(1.0, 6.0), st.floats(0.0, 3.1), st.floats(0.0, 2.0))


def turning_angle(margin: Margin) -> float:
    """The θ at which m1·θ + m2 is π, and the plain cosine takes over; beyond π where it never does."""
    return (math.pi - margin.m2) / margin.m1


@pytest.mark.parametrize("margin", MARGINS)
def test_up_to_pi_it_is_the_equation_of_the_paper(margin: Margin) -> None:
    theta = np.linspace(1e-3, min(turning_angle(margin), math.pi - 1e-3), 1001)
    value, _ = margin(np.cos(theta))
    np.testing.assert_allclose(value, np.cos(margin.m1 * theta + margin.m2) - margin.m3, atol=1e-9)


@pytest.mark.parametrize("margin", [ARCFACE, COMBINED, Margin(2.0, 0.5, 0.35), Margin(4.0)])
def test_past_pi_it_falls_as_the_plain_cosine_does(margin: Margin) -> None:
    theta = np.linspace(turning_angle(margin) + 1e-6, math.pi - 1e-3, 1001)
    value, slope = margin(np.cos(theta))
    np.testing.assert_allclose(value - value[0], np.cos(theta) - math.cos(theta[0]), atol=1e-9)
    np.testing.assert_array_equal(slope, 1.0)


def assert_falls_without_a_jump(margin: Margin) -> None:
    theta = np.linspace(1e-3, math.pi - 1e-3, 20_001)
    value, slope = margin(np.cos(theta))
    step = -np.diff(value)
    assert (step > 0).all()
    # cos(m1·θ + m2) changes by at most m1 times the angle: a jump, were there one, would be larger.
    assert step.max() <= margin.m1 * (theta[1] - theta[0]) * (1 + 1e-6)
    assert (slope >= 0).all()


@pytest.mark.parametrize("margin", MARGINS)
def test_it_falls_with_the_angle_and_is_continuous(margin: Margin) -> None:
    assert_falls_without_a_jump(margin)


@settings(max_examples=50, deadline=None)
@given(margins)
def test_any_margin_falls_with_the_angle_and_is_continuous(margin: Margin) -> None:
    assert_falls_without_a_jump(margin)


@pytest.mark.parametrize("margin", MARGINS)
def test_the_slope_is_the_finite_difference(margin: Margin) -> None:
    cosine, half = np.linspace(-0.999, 0.999, 1999), 1e-7
    # At the turning angle itself the two sides have slopes of their own.
    cosine = cosine[np.abs(cosine - math.cos(turning_angle(margin))) > 2 * half]
    difference = (margin(cosine + half)[0] - margin(cosine - half)[0]) / (2 * half)
    np.testing.assert_allclose(margin(cosine)[1], difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("margin", MARGINS)
def test_a_cosine_that_rounding_carried_past_one_gives_finite_numbers(margin: Margin) -> None:
    value, slope = margin(np.array([1.0, -1.0, 1.0 + 3e-7, -1.0 - 3e-7]))
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    expected_at_0 = math.cos(margin.m2) - margin.m3
    np.testing.assert_allclose(value[[0, 2]], expected_at_0, atol=1e-2)


def test_no_margin_is_the_cosine_itself() -> None:
    cosine = np.array([-1.0, -0.3, 0.0, 1.0])
    value, slope = Margin()(cosine)
    np.testing.assert_array_equal(value, cosine)
    np.testing.assert_array_equal(slope, 1.0)


def test_the_cosines_passed_in_stay_as_they_are() -> None:
    cosine = np.linspace(-1, 1, 9)
    for margin in MARGINS:
        margin(cosine)
    np.testing.assert_array_equal(cosine, np.linspace(-1, 1, 9))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"m1": 0.9}, "m1 .* must be finite and at least 1, but is 0.9"),
        ({"m2": -0.1}, r"m2 .* in \[0, π\), but is -0.1"),
        ({"m2": math.pi}, "m2"),
        ({"m3": -0.4}, "m3 .* must be finite and not negative, but is -0.4"),
        ({"m1": math.nan}, "m1"),
        ({"m2": math.nan}, "m2"),
        ({"m3": math.nan}, "m3"),
        ({"m1": math.inf}, "m1"),
        ({"m3": math.inf}, "m3"),
    ],
)
def test_a_margin_out_of_range_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Margin(**values)
