"""Disagreements with full depth, and bounds on their rate that hold whenever one looks."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.exits.disagreement import CONFIDENCE, Disagreement
from tests.exits.tables_ import seeded


def covers_throughout(rate: float, runs: int, seed: int) -> bool:
    """Whether the interval held the true rate after every single run."""
    draw, found = random.Random(seed), Disagreement()
    for _ in range(runs):
        found = found.plus(draw.random() < rate)
        lower, upper = found.interval
        if not lower <= rate <= upper:
            return False
    return True


def test_runs_and_disagreements_add_up() -> None:
    found = Disagreement().plus(False).plus(True).plus(False).plus(False)
    assert (found, found.rate) == (Disagreement(4, 1), 0.25)


def test_before_the_first_run_nothing_is_known() -> None:
    assert (Disagreement().rate, Disagreement().interval) == (None, (0.0, 1.0))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_looking_after_every_run_the_bounds_fail_no_more_often_than_promised(rate: float) -> None:
    trials = 200
    failed = sum(not covers_throughout(rate, 600, seed) for seed in range(trials))
    assert failed <= trials * (1 - CONFIDENCE)


def test_an_interval_for_one_look_would_fail_when_it_is_looked_at_all_the_time() -> None:
    def leaves_the_usual_interval(seed: int, rate: float = 0.3) -> bool:
        draw, found = random.Random(seed), 0
        for runs in range(1, 601):
            found += draw.random() < rate
            if runs > 30 and abs(found / runs - rate) > 1.96 * math.sqrt(rate * (1 - rate) / runs):
                return True
        return False

    assert sum(leaves_the_usual_interval(seed) for seed in range(200)) > 3 * 200 * (1 - CONFIDENCE)


def test_the_bounds_are_where_the_mixture_martingale_reaches_its_limit() -> None:
    found = Disagreement(7, 2)
    mixture = math.gamma(2.5) * math.gamma(5.5) / math.gamma(8) / math.pi  # B(1/2, 1/2) = pi
    for rate in found.interval:
        assert mixture / (rate**2 * (1 - rate) ** 5) == pytest.approx(1 / (1 - CONFIDENCE), rel=1e-6)


def test_hundreds_of_agreeing_runs_bound_the_rate_by_a_few_per_cent() -> None:
    lower, upper = Disagreement(300).interval
    assert lower == 0 and 0.01 < upper < 0.025  # 1 % is what one look alone would give
    assert Disagreement(3_000).interval[1] < 0.003


@seeded
@given(st.integers(1, 10**7), st.floats(0, 1))
def test_the_interval_holds_what_was_observed_and_mirrors_its_opposite(runs: int, share: float) -> None:
    found = Disagreement(runs, round(share * runs))
    lower, upper = found.interval
    assert 0 <= lower <= found.disagreements / runs <= upper <= 1
    mirrored = Disagreement(runs, runs - found.disagreements).interval
    assert mirrored == pytest.approx((1 - upper, 1 - lower), abs=1e-9)
