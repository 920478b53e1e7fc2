"""What every level gives on the traffic: agreement and exit layer, with intervals that hold whenever one looks.

An interval is the set of values that no bettor has refuted. It holds for the mean over the sentences of the traffic
from the first sample to the latest, and says nothing of sentences to come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from service.promise.agreement import MAX_ERRORS, excess, payoffs_above, payoffs_below
from service.promise.scoring import Scores
from service.promise.wealth import Wealth, even_shares
from service.spans.types import DoubleArray

DELTA = 0.05  # the probability that an interval ever misses
AGREEMENTS: DoubleArray = 1 - np.geomspace(0.5, 0.001, 60)  # the values between which bounds of an agreement are found
LAYER_STEP = 0.05  # likewise, of an average exit layer


@dataclass(frozen=True, slots=True)
class Estimate:
    """Holds what one level gives on the traffic.

    agreement            F1 against full depth, a fraction; None before an entity was seen
    average_exit_layer   mean over sentences; None before the first sample
    ..._interval         95 % interval of the figure, for all times at once
    speedup_layers       layers of the model / average exit layer
    uncounted            share of entities (F1's denominator) that are errors beyond those that count in a sentence
    samples              how many it is estimated from
    """

    agreement: float | None
    agreement_interval: tuple[float, float]
    average_exit_layer: float | None
    average_exit_layer_interval: tuple[float, float]
    speedup_layers: float | None
    uncounted: float
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain JSON types, rounded to four digits."""
        return {name: _rounded(getattr(self, name)) for name in self.__slots__}


class TrafficEstimates:
    """Adds up samples by their weights, and bets on where the figures of every level lie."""

    def __init__(self, num_levels: int, num_layers: int, max_errors: int = MAX_ERRORS) -> None:
        """Start without samples; `max_errors` of a sentence count in the interval of the agreement."""
        self._num_layers = num_layers
        self._max_errors = max_errors
        self._sums = np.zeros((4, num_levels))
        self._weight = 0.0
        self.samples = 0
        """How many have been added."""
        self._agreement = _Bounds(AGREEMENTS, num_levels, lowest=0.0, highest=1.0)
        layers = np.linspace(1, num_layers, 1 + round((num_layers - 1) / LAYER_STEP))
        self._layer = _Bounds(layers, num_levels, lowest=1.0, highest=float(num_layers))

    def add(self, scores: Scores, weight: float, heaviest: float | None = None) -> None:
        """Add one sample.

        scores    of one sample
        weight    how many sentences, of those that are sampled most, it stands for
        heaviest  the largest weight that a sentence would have had since the sample before; by default its own
        """
        figures = (2 * scores.true_positives, scores.answered, scores.exit_layers, excess(scores, self._max_errors))
        self._sums += weight * np.concatenate(figures)
        self._weight += weight
        self.samples += 1
        most = weight if heaviest is None else heaviest
        above, below = (pay(scores, AGREEMENTS, self._max_errors) for pay in (payoffs_above, payoffs_below))
        self._agreement.settle(above, below, weight, most)
        deeper = (scores.exit_layers[0, :, None] - self._layer.grid) / max(1, self._num_layers - 1)  # (levels, grid)
        self._layer.settle(deeper, -deeper, weight, most)

    def estimates(self) -> list[Estimate]:
        """Return what every level gives."""
        agreements, layers = self._agreement.intervals(), self._layer.intervals()
        return [
            Estimate(
                agreement=float(common / answered) if answered else None,
                agreement_interval=agreements[level],
                average_exit_layer=float(layer / self._weight) if self._weight else None,
                average_exit_layer_interval=layers[level],
                speedup_layers=float(self._num_layers * self._weight / layer) if self._weight else None,
                uncounted=float(beyond / answered) if answered else 0.0,
                samples=self.samples,
            )
            for level, (common, answered, layer, beyond) in enumerate(self._sums.T)
        ]


class _Bounds:
    """Bounds a mean by bets that it is above, and that it is below, each value of a grid.

    A value is refuted by a wealth of 2 / DELTA. Payoffs of "above" have to fall along the grid for every sample, and
    those of "below" to rise: so does the wealth, and of the values on the wrong side of the truth the one next to it is
    refuted first. So one bound for it covers them all.
    """

    def __init__(self, grid: DoubleArray, num_levels: int, *, lowest: float, highest: float) -> None:
        self.grid = grid
        self._ends = (lowest, highest)
        self._above = Wealth(even_shares(num_levels, len(grid)))
        self._below = Wealth(even_shares(num_levels, len(grid)))

    def settle(self, above: DoubleArray, below: DoubleArray, weight: float, heaviest: float) -> None:
        """Settle one sample's bets; the payoffs of each side are (levels, grid), at least -1."""
        weights, most = np.array([weight]), np.array([heaviest])
        self._above.settle(above, weights, most)
        self._below.settle(below, weights, most)

    def intervals(self) -> list[tuple[float, float]]:
        """Return the lower and the upper bound of every level."""
        proof = 2 / DELTA
        lowest, highest = self._ends
        above, below = self._above.total >= proof, self._below.total >= proof
        return [
            (max([lowest, *self.grid[is_above]]), min([highest, *self.grid[is_below]]))
            for is_above, is_below in zip(above, below, strict=True)
        ]


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value
