"""Wealth of a gambler who bets that a mean is above 0, and of one who bets that it fell below 0 at some time.

Both spread their capital over fixed bets and never move it. That is what makes them valid for the *average* of a stream
that may drift in any way; a bet that adapts, such as aGRAPA or an online Newton step, would be valid only where every
single sentence's mean is the same. What is concluded from wealth, `certificates` knows.

The wealth of one fixed bet b after payoffs z_i with weights w_i is K_n = prod (1 + b w_i z_i), which stays positive as
b w_i <= MOST_STAKE < 1 and z_i >= -1 (Waudby-Smith and Ramdas, 2024, "Estimating means of bounded random variables by
betting", section 3). With m_i = E[w_i z_i | past], K_n exp(-b (m_1 + ... + m_n)) is a supermartingale since
1 + x <= e^x, and so is the mixture over bets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.spans.types import DoubleArray

Flags = NDArray[np.bool_]

MOST_STAKE = 0.97  # of the wealth that a bet may lose at once
BETS: DoubleArray = MOST_STAKE * np.array([0.6**k for k in range(7)])
BOLD: DoubleArray = np.array([0.46, 0.22, 0.13, 0.08, 0.05, 0.03, 0.03])
"""A spread of the capital over BETS. In hundreds of samples, large bets alone can prove anything; small ones are for
levels that are hardly good enough, and for times of which little is sampled."""
NUM_BETS = len(BETS)
MOST_WEALTH = 1e250  # of a bet, so that none overflows; less wealth never proves more


def even_shares(*shape: int) -> DoubleArray:
    """Return an even spread of the capital over BETS: (*shape, bets)."""
    return np.full((*shape, NUM_BETS), 1 / NUM_BETS)


def bold_shares(*shape: int) -> DoubleArray:
    """Return the spread BOLD of the capital: (*shape, bets)."""
    return np.tile(BOLD, (*shape, 1))


class Wealth:
    """Bets that the mean is above 0: the wealth grows where that is so. It starts at 1."""

    def __init__(self, shares: DoubleArray) -> None:
        """Start with the capital spread over BETS by `shares`, (..., bets)."""
        self._shares = shares
        self._of_bets = np.array(shares)

    def settle(self, payoffs: DoubleArray, weights: DoubleArray, heaviest: DoubleArray) -> None:
        """Settle one sample's bets.

        payoffs   (...) of at least -1
        weights   that broadcast to (...), at least 1 and known before the payoff: how many sentences, of those that are
                  sampled most, this one stands for
        heaviest  likewise, the largest weight that a sentence would have had since the sample before, this one included

        A bet that the heaviest sentence could have made lose more than MOST_STAKE is given up, and its wealth with it.
        To lower the bet instead would count that time less than others.
        """
        self._of_bets = np.minimum(self._of_bets * _gains(payoffs, weights, heaviest), MOST_WEALTH)

    def restart(self, where: Flags) -> None:
        """Start anew where a mask of shape (...) says so."""
        self._of_bets = np.where(where[..., None], self._shares, self._of_bets)

    @property
    def total(self) -> DoubleArray:
        """The wealth of all bets together: (...)."""
        total: DoubleArray = self._of_bets.sum(axis=-1)
        return total


class DroppedWealth:
    """Bets that the mean has been below 0 since some time: with every sample it puts an equal part of its capital in.

    So it finds a drop soon, however long the mean was well above 0 before; the price is a factor of `window` in wealth.
    The sum over starts is the Shiryaev-Roberts recursion on betting gains, with an even prior over the start. It starts
    at 1, and has to be restarted after `window` samples, when all of its capital is in.
    """

    def __init__(self, shares: DoubleArray, window: int) -> None:
        """Start with the capital spread over BETS by `shares`, (..., bets), to be put in within `window` samples."""
        self._part = shares / window
        self._of_bets = np.zeros_like(shares)
        self._not_in = np.full(shares.shape[:-1], 1.0)
        self._window = window

    def settle(self, payoffs: DoubleArray, weights: DoubleArray, heaviest: DoubleArray) -> None:
        """Settle one sample's bets as `Wealth.settle` does, but against the payoffs; at most `window` times."""
        put_in = (self._of_bets + self._part) * _gains(-payoffs, weights, heaviest)
        self._of_bets = np.minimum(put_in, MOST_WEALTH)
        self._not_in = self._not_in - 1 / self._window

    def restart(self, where: Flags) -> None:
        """Start anew where a mask of shape (...) says so."""
        self._of_bets = np.where(where[..., None], 0.0, self._of_bets)
        self._not_in = np.where(where, 1.0, self._not_in)

    @property
    def total(self) -> DoubleArray:
        """The wealth of all bets together, what is not put in yet included: (...)."""
        total: DoubleArray = self._of_bets.sum(axis=-1) + np.maximum(self._not_in, 0.0)
        return total


def _gains(payoffs: DoubleArray, weights: DoubleArray, heaviest: DoubleArray) -> DoubleArray:
    """Return what every bet's wealth is multiplied by: (..., bets)."""
    gains: DoubleArray = 1 + (weights * payoffs)[..., None] * BETS
    if heaviest.max(initial=1.0) > 1:  # seldom
        gains = np.where(heaviest[..., None] * BETS <= MOST_STAKE, gains, 0.0)
    return gains
