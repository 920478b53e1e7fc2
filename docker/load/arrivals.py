"""When requests arrive: at random, at the rate of a day with lunch and dinner that lasts a quarter of an hour."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

DAY_S = 900.0  # so that a day passes while somebody watches
STARTS_AT_HOUR = 17.5  # the peak comes after 75 seconds
DINNER = (19.5, 1.2, 1.0)  # hour, width in hours, height
LUNCH = (12.5, 1.0, 0.4)
NIGHT = 0.1


def share_of_peak(elapsed_s: float) -> float:
    """Return the rate `elapsed_s` seconds after the start, as a share of the highest rate, in (0, 1]."""
    hour = (STARTS_AT_HOUR + elapsed_s / DAY_S * 24) % 24
    return NIGHT + (1 - NIGHT) * sum(height * _bump(hour, middle, width) for middle, width, height in (DINNER, LUNCH))


def arrival_times(peak_rate: float, random: Random) -> Iterator[float]:
    """Yield arrivals, in seconds from the start: a Poisson process of rate `share_of_peak` x peak_rate, by thinning."""
    elapsed_s = 0.0
    while True:
        elapsed_s += random.expovariate(peak_rate)
        if random.random() < share_of_peak(elapsed_s):
            yield elapsed_s


def _bump(hour: float, middle: float, width: float) -> float:
    distance = min(abs(hour - middle), 24 - abs(hour - middle))
    return math.exp(-((distance / width) ** 2) / 2)
