"""When requests come: at random, at a rate that changes, as on a day with lunch and dinner."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from service.spans.types import DoubleArray

DINNER, LUNCH = (19.0, 1.3, 0.93), (12.5, 1.2, 0.45)  # the middle and the width in hours, the height
NIGHT = 0.07
HOURS = 24

Rate = Callable[[DoubleArray], DoubleArray]
"""The rate at some moments, as a share of the highest: (moments,) seconds -> (moments,) in [0, 1]."""


def constant(moments: DoubleArray) -> DoubleArray:
    """Return the highest rate, always."""
    return np.ones_like(moments)


def of_day(hour_s: float, starts_at: float = 0.0) -> Rate:
    """Return the rate of a day whose hours last `hour_s` seconds, from an hour on; its highest is the dinner hour's."""

    def rate(moments: DoubleArray) -> DoubleArray:
        return share_of_peak(starts_at + moments / hour_s)

    return rate


def share_of_peak(hours: DoubleArray) -> DoubleArray:
    """Return the rate at some hours of the day, as a share of the highest."""
    share = np.full_like(hours, NIGHT)
    for middle, width, height in (DINNER, LUNCH):
        distance = np.abs((hours - middle + HOURS / 2) % HOURS - HOURS / 2)
        share += height * np.exp(-((distance / width) ** 2) / 2)
    return np.minimum(share, 1.0)


def arrivals(highest: float, seconds: float, seed: int, rate: Rate = constant) -> DoubleArray:
    """Return when requests come: a Poisson process of rate `highest` x `rate`, by thinning; (requests,) seconds."""
    draw = np.random.default_rng(seed)
    most = int(highest * seconds + 10 * math.sqrt(highest * seconds) + 10)
    moments = np.cumsum(draw.exponential(1 / highest, most))
    moments = moments[moments < seconds]
    kept: DoubleArray = moments[draw.random(len(moments)) < rate(moments)]
    return kept
