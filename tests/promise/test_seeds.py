"""Capital that is spread by other data: it favours what would have won there, and a misleading seed costs little."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.promise_seeds import seeded_shares
from service.promise.wealth import NUM_BETS, Wealth, even_shares
from service.spans.types import DoubleArray


def settled(wealth: Wealth, payoffs: list[float]) -> float:
    for payoff in payoffs:
        wealth.settle(np.array(payoff), np.array(1.0), np.array(1.0))
    return float(wealth.total)


def seeded_from(payoffs: DoubleArray) -> DoubleArray:
    shares = seeded_shares(payoffs)
    assert shares.sum(axis=-1) == pytest.approx(np.ones(payoffs.shape[1]))
    assert shares.min() >= 0.5 / NUM_BETS
    return shares


def test_a_seed_favours_the_bets_that_would_have_won_and_leaves_half_of_the_capital_even() -> None:
    draw = np.random.default_rng(0)
    safe, risky = np.full(800, 0.02), np.where(draw.random(800) < 0.1, -0.6, 0.08)
    shares = seeded_from(np.stack([safe, risky], axis=1))
    assert shares[0].argmax() == 0 < shares[1].argmax()


def test_a_seed_spreads_the_capital_and_adds_none() -> None:
    assert float(Wealth(seeded_from(np.full((2_000, 1), 0.5))).total[0]) == pytest.approx(1.0)


def test_a_misleading_seed_costs_no_more_than_half_of_the_wealth() -> None:
    payoffs = [-0.05] * 20
    misled = Wealth(seeded_shares(np.full((500, 1), 0.2))[0])
    assert settled(misled, payoffs) >= 0.5 * settled(Wealth(even_shares()), payoffs)
