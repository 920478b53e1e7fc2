"""Certificates: which levels are proven to keep the promise on this traffic, and which are proven to break it.

It turns payoffs into decisions and knows neither what a payoff is made of nor what is done about a decision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.errors import BadInput
from service.promise.wealth import DroppedWealth, Flags, Wealth, bold_shares
from service.spans.types import DoubleArray, IntArray


@dataclass(frozen=True, slots=True)
class Terms:
    """Says how sure certificates and alarms have to be, and for how long they look back.

    delta        highest probability that a level is certified falsely in any of `horizon` windows
    horizon      windows for which `delta` holds jointly; each gets an equal part of it
    alarm_delta  highest probability that a level is called broken falsely in one window
    window       samples after which the evidence starts anew
    """

    delta: float = 0.05
    horizon: int = 1
    alarm_delta: float = 0.05
    window: int = 2_000

    def __post_init__(self) -> None:
        for name in ("delta", "alarm_delta"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)!r}; expected a probability between 0 and 1")
        for name in ("horizon", "window"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)!r}; expected at least 1")

    @property
    def proof(self) -> float:
        """The wealth that proves that a level keeps the promise."""
        return self.horizon / self.delta

    @property
    def alarm(self) -> float:
        """The wealth that proves that a level broke the promise."""
        return 1 / self.alarm_delta


class Certificates:
    """Tests all levels on one stream of samples, or on many streams at once.

    Levels are ordered from the safest to the fastest, by other data than these samples. A level is certified by the
    wealth of its own bets, and only once all safer ones are: in a fixed sequence, no level's test costs another's.
    A certificate is in force for one window of samples after the one in which it was proven, or until an alarm.

    An alarm is raised when the fastest level in force is proven to have been broken since some moment of the current
    window. So the traffic is not what it was: all certificates go out of force at once, since what they prove is of
    other text, and the evidence for all levels starts anew.
    """

    def __init__(
        self,
        num_levels: int,
        terms: Terms,
        *,
        most_payoff: float = 1.0,
        shares: DoubleArray | None = None,
        streams: tuple[int, ...] = (),
    ) -> None:
        """Start without evidence: nothing is certified.

        most_payoff  the largest payoff that there can be, which is what a bet against a level may lose
        shares       (levels, bets) how each level's capital is spread over the bets, if not as usual
        streams      shape of the streams that are tested side by side; () for one
        """
        if num_levels < 1:
            raise BadInput("no level is given; expected at least one, the safest first")
        self.terms = terms
        self._most_payoff = most_payoff
        shape = (*streams, num_levels)
        spread = bold_shares(num_levels) if shares is None else shares
        self._wealth = Wealth(np.broadcast_to(spread, (*shape, spread.shape[-1])))
        self._dropped = DroppedWealth(bold_shares(*shape), terms.window)
        self._reached = np.zeros(shape, dtype=bool)
        self._left = np.full(shape, -1)  # samples for which a certificate is in force beyond its own window
        self.samples: IntArray = np.zeros(streams, dtype=np.int64)
        """In this window: (*streams,)."""
        self.window: IntArray = np.zeros(streams, dtype=np.int64)
        """How many windows have ended before this one, by their length or by an alarm: (*streams,)."""
        self.proven_after: IntArray = np.zeros(shape, dtype=np.int64)
        """Samples of this window after which each level's own wealth was a proof, 0 where it was not: (..., levels)."""
        self.alarms: IntArray = np.zeros(streams, dtype=np.int64)
        """Raised so far: (*streams,)."""

    def settle(
        self,
        payoffs: DoubleArray,
        weights: DoubleArray | float = 1.0,
        heaviest: DoubleArray | float | None = None,
    ) -> None:
        """Take the next sample of every stream, in the order in which samples were drawn.

        payoffs   (*streams, levels) from -1 to `most_payoff`
        weights   (*streams,) at least 1: how many sentences, of those that are sampled most, each stands for
        heaviest  (*streams,) the largest weight that a sentence would have had since the sample before; by default the
                  sample's own
        """
        self._start_windows(self.samples == self.terms.window)
        weight = np.asarray(weights, dtype=np.float64)[..., None]
        most = weight if heaviest is None else np.asarray(heaviest, dtype=np.float64)[..., None]
        self._wealth.settle(payoffs, weight, most)
        self._dropped.settle(payoffs / self._most_payoff, weight, most)
        self.samples = self.samples + 1
        newly = (self._wealth.total >= self.terms.proof) & ~self._reached
        if newly.any():
            self.proven_after = np.where(newly, self.samples[..., None], self.proven_after)
            self._reached = self._reached | newly
        self._left = np.where(self.proven, self.terms.window, np.maximum(self._left - 1, -1))
        self._raise_alarms()

    @property
    def proven(self) -> Flags:
        """Which levels are proven by the samples of this window, all safer ones included: (*streams, levels)."""
        return np.logical_and.accumulate(self._reached, axis=-1)

    @property
    def in_force(self) -> Flags:
        """Which levels have a certificate in force: (*streams, levels). They are always the first ones."""
        return self._left >= 0

    @property
    def fastest(self) -> IntArray:
        """The fastest level in force, -1 where there is none and full depth is all that is certain: (*streams,)."""
        fastest: IntArray = self.in_force.sum(axis=-1) - 1
        return fastest

    @property
    def broken(self) -> Flags:
        """Which levels are proven to have been broken since some moment of this window: (*streams, levels)."""
        return self._dropped.total >= self.terms.alarm

    @property
    def wealth(self) -> DoubleArray:
        """The wealth of the bets on each level in this window; `terms.proof` of it proves: (*streams, levels)."""
        return self._wealth.total

    def _raise_alarms(self) -> None:
        served = self.fastest
        is_broken = np.take_along_axis(self.broken, np.maximum(served, 0)[..., None], axis=-1)[..., 0]
        alarm = (served >= 0) & is_broken
        if not alarm.any():
            return
        self._left = np.where(self._of_levels(alarm), -1, self._left)
        self._start_windows(alarm)
        self.alarms = self.alarms + alarm

    def _start_windows(self, where: Flags) -> None:
        """Let the evidence start anew where a mask of shape (*streams,) says so."""
        if not where.any():
            return
        of_levels = self._of_levels(where)
        self._reached = self._reached & ~of_levels
        self.proven_after = np.where(of_levels, 0, self.proven_after)
        self._wealth.restart(of_levels)
        self._dropped.restart(of_levels)
        self.samples = np.where(where, 0, self.samples)
        self.window = self.window + where

    def _of_levels(self, where: Flags) -> Flags:
        return np.broadcast_to(where[..., None], self._reached.shape)
