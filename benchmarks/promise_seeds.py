"""Spreads the capital of bets by what each would have won on earlier data, to see what that is worth.

The server does not: `python -m benchmarks.promise --seeded` shows why.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from service.levels.on_traffic import TrafficLevels
from service.policy.promised import PromiseGoal
from service.promise.certificates import Certificates
from service.promise.scoring import Scores
from service.promise.wealth import BETS, NUM_BETS
from service.spans.types import DoubleArray

WARM_UP_SAMPLES = 500  # a seed of more samples counts as so many
UNSEEDED_SHARE = 0.5  # of the capital, spread evenly whatever the seed: a misleading seed costs a factor of 2 at most


def seeded_shares(payoffs: DoubleArray) -> DoubleArray:
    """Return a spread of the capital that favours the bets which would have won on earlier data: (levels, bets).

    payoffs: (samples, levels), of a dev set or of earlier traffic, never of the samples that are bet on afterwards

    Only the spread is taken over. Wealth won on other data proves nothing of this traffic, so the capital starts at 1.
    """
    log_won = np.log1p(payoffs[..., None] * BETS).sum(axis=0)  # (levels, bets)
    log_won *= min(1.0, WARM_UP_SAMPLES / max(1, len(payoffs)))
    won = np.exp(log_won - log_won.max(axis=-1, keepdims=True))
    mixed: DoubleArray = UNSEEDED_SHARE / NUM_BETS + (1 - UNSEEDED_SHARE) * won / won.sum(axis=-1, keepdims=True)
    return mixed


class SeededLevels(TrafficLevels):
    """TrafficLevels whose capital is spread by the scores that the levels to certify had on other data."""

    def __init__(self, seed: Scores, *levels: Any, **how: Any) -> None:
        """seed: (sentences, levels to certify); the rest as of TrafficLevels."""
        self._seed = seed
        super().__init__(*levels, **how)

    def _begin(self, goal: PromiseGoal) -> Certificates:
        payoffs, most = goal.promise.payoffs(self._seed), goal.promise.most_payoff
        return Certificates(payoffs.shape[1], goal.terms, most_payoff=most, shares=seeded_shares(payoffs))
