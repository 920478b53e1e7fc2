"""Over 2,000 simulated deployments each, the share that ever certifies a bad level stays below delta."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.simulated_traffic import Deployments, Traffic, bursty, drifting, independent, simulate
from service.promise.agreement import Promise
from service.promise.certificates import Terms
from service.promise.wealth import DroppedWealth, even_shares

DEPLOYMENTS, FEW, STEPS, DELTA = 2_000, 400, 1_000, 0.05
PROMISE = Promise(0.05)
WHOLE, PARTS = Terms(DELTA, window=STEPS), Terms(DELTA, horizon=2, window=STEPS // 2)
QUIET, PEAK = (0.965, 0.96), (0.93, 0.92)  # good in quiet times, bad on average
GOOD, BAD = (0.98, 0.97), (0.945, 0.9)


def run(traffic: Traffic, terms: Terms, deployments: int = DEPLOYMENTS, *, weigh: bool = True) -> Deployments:
    return simulate(
        traffic,
        terms,
        deployments=deployments,
        levels=2,
        steps=STEPS,
        most_payoff=PROMISE.most_payoff,
        weigh=weigh,
    )


def probability_of_so_few(false: int, share: float) -> float:
    """Of at most so many false deployments, were their true share this one."""
    log_choose = [
        math.lgamma(DEPLOYMENTS + 1) - math.lgamma(k + 1) - math.lgamma(DEPLOYMENTS - k + 1) for k in range(false + 1)
    ]
    terms = [c + k * math.log(share) + (DEPLOYMENTS - k) * math.log1p(-share) for k, c in enumerate(log_choose)]
    return math.fsum(map(math.exp, terms))


def is_below_delta(found: Deployments) -> bool:
    """Whether a true share of DELTA or more is refuted at 1 %."""
    return probability_of_so_few(int(found.is_false.sum()), DELTA) < 0.01


@pytest.mark.parametrize(
    ("traffic", "terms"),
    [
        (independent(PROMISE, DEPLOYMENTS, (0.9495, 0.94)), WHOLE),
        (bursty(PROMISE, DEPLOYMENTS, QUIET, PEAK, weight=4, mean_steps=40), WHOLE),
        (drifting(PROMISE, DEPLOYMENTS, GOOD, BAD, change=150, length=200), PARTS),
        (drifting(PROMISE, DEPLOYMENTS, BAD, GOOD, change=150, length=200), PARTS),
    ],
    ids=["independent", "bursty", "to worse", "to better"],
)
def test_the_share_of_deployments_that_ever_certify_a_bad_level_is_below_delta(traffic: Traffic, terms: Terms) -> None:
    assert is_below_delta(run(traffic, terms))


def test_without_weights_peaks_that_are_sampled_less_would_certify_bad_levels() -> None:
    traffic = bursty(PROMISE, DEPLOYMENTS, QUIET, PEAK, weight=4, mean_steps=40)
    assert not is_below_delta(run(traffic, WHOLE, weigh=False))


def test_good_levels_are_certified_and_the_better_one_first() -> None:
    found = run(independent(PROMISE, FEW, (0.99, 0.98)), WHOLE, FEW)
    assert (found.in_force.mean(axis=0) >= 0.99).all() and not found.is_false.any()
    first, second = np.median(found.certified_at, axis=0)
    assert first < second < 400 and (found.certified_at[:, 0] <= found.certified_at[:, 1]).mean() > 0.99


def test_after_a_sudden_drop_the_levels_go_out_of_force_within_a_fraction_of_the_window() -> None:
    change = 600
    found = run(drifting(PROMISE, FEW, (0.99, 0.985), (0.8, 0.75), change=change, length=1), WHOLE, FEW)
    was = found.certified_at[:, 0] < change
    assert was.mean() > 0.99 and not found.in_force[was].any()
    assert np.quantile(found.dropped_at[was].max(axis=1) - change, 0.99) < 150


def test_levels_that_keep_the_promise_are_called_broken_more_rarely_than_alarm_delta() -> None:
    traffic, draw = independent(PROMISE, DEPLOYMENTS, (0.9505,)), np.random.default_rng(0)
    dropped, was_broken = DroppedWealth(even_shares(DEPLOYMENTS, 1), STEPS), np.zeros((DEPLOYMENTS, 1), bool)
    for step in range(STEPS):
        dropped.settle(traffic(step, draw).payoffs / PROMISE.most_payoff, np.ones(1), np.ones(1))
        was_broken |= dropped.total >= WHOLE.alarm
    assert probability_of_so_few(int(was_broken.sum()), WHOLE.alarm_delta) < 0.01
