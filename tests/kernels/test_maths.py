"""Elementary functions against float64, over all numbers that they promise something for."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from service.kernels import maths
from tests.kernels.kernels_ import Floats

Doubles = NDArray[np.float64]


@njit  # not kept on disk: nothing there would be made anew when a function that it calls is changed
def _exps(values: Floats, out: Floats) -> None:
    for index in range(len(values)):
        out[index] = maths.exp(values[index])


@njit
def _logs(values: Floats, out: Floats) -> None:
    for index in range(len(values)):
        out[index] = maths.log(values[index])


@njit
def _gelus(values: Floats, out: Floats) -> None:
    for index in range(len(values)):
        out[index] = maths.gelu(values[index])


def apply(function: Callable[[Floats, Floats], None], values: Doubles | list[float]) -> tuple[Doubles, Doubles]:
    """-> the values as float32 holds them, and what the function makes of them."""
    single = np.asarray(values, dtype=np.float32)
    out = np.full_like(single, np.nan)
    function(single, out)
    return single.astype(np.float64), out.astype(np.float64)


def test_exp_is_right_to_3e_7_of_its_value() -> None:
    x, found = apply(_exps, np.linspace(-87, 88, 700_001))
    assert np.all(np.abs(found / np.exp(x) - 1) < 3e-7)


def test_exp_far_below_is_that_of_minus_87_and_far_above_finite() -> None:
    _, found = apply(_exps, [-87, -88, -1e30, -math.inf, 88, 1e30])
    assert np.all(found[:4] == found[0]) and 1e-38 < found[0] < 2e-38
    assert found[4] == found[5] < np.finfo(np.float32).max
    assert apply(_exps, [0.0])[1] == [1.0]


@pytest.mark.parametrize(("low", "high"), [(0.5, 2), (1, 1.0001), (1, 10)])
def test_log_near_1_is_right_to_2e_7(low: float, high: float) -> None:
    x, found = apply(_logs, np.linspace(low, high, 300_001))
    assert np.all(np.abs(found - np.log(x)) < 2e-7)
    assert apply(_logs, [1.0])[1] == [0.0]


def test_log_of_any_normal_number_is_right_to_a_few_units_in_the_last_place() -> None:
    x, found = apply(_logs, np.exp(np.linspace(-87, 88, 300_001)))
    assert np.all(np.abs(found - np.log(x)) <= 2e-7 + 1e-7 * np.abs(np.log(x)))


def test_gelu_is_right_to_1e_6_of_its_argument() -> None:
    x, found = apply(_gelus, np.concatenate([np.linspace(-12, 12, 40_001), np.geomspace(1e-30, 1e30, 400)]))
    expected = x * 0.5 * np.array([math.erfc(-value / math.sqrt(2)) for value in x])
    assert np.all(np.abs(found - expected) <= 1e-6 * np.abs(x))


def test_gelu_is_its_argument_far_above_and_vanishes_at_and_far_below_0() -> None:
    _, found = apply(_gelus, [0, 20, 1e30, -20, -1e15])
    assert found[:3].tolist() == [0, 20, np.float32(1e30)]
    assert np.all(np.abs(found[3:]) < 1e-20)
