"""Traffic follows a day: quiet at night, most at dinner, at random within the minute."""

from __future__ import annotations

from itertools import pairwise, takewhile
from random import Random

import pytest
from load.arrivals import DAY_S, NIGHT, arrival_times, share_of_peak


def test_the_rate_rises_to_its_peak_within_a_minute_and_a_half_of_the_start() -> None:
    shares = [share_of_peak(second) for second in range(int(DAY_S))]
    assert max(shares) == pytest.approx(1.0, abs=0.001)
    assert 60 <= shares.index(max(shares)) <= 90
    assert shares[0] < 0.5 and min(shares) == pytest.approx(NIGHT, abs=0.01)


def test_a_day_begins_where_the_last_one_ended() -> None:
    for second in (0.0, 75.0, 400.0, 899.5):
        assert share_of_peak(second + DAY_S) == pytest.approx(share_of_peak(second))


def test_as_many_requests_arrive_as_the_rate_says() -> None:
    times = list(takewhile(lambda time: time < DAY_S, arrival_times(50.0, Random(3))))
    expected = 50.0 * sum(share_of_peak(second + 0.5) for second in range(int(DAY_S)))
    assert len(times) == pytest.approx(expected, abs=4 * expected**0.5)  # of a Poisson count, four deviations


def test_gaps_at_one_rate_scatter_as_those_of_a_poisson_process() -> None:
    times = list(takewhile(lambda time: time < 2.0, arrival_times(5_000.0, Random(4))))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1)
