"""What levels are worth against gold: counts of sentences whose right entities somebody has told, and no more.

It knows neither texts nor files. How a level's entities are compared with the right ones, `scoring` knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from service.errors import BadInput
from service.promise.agreement import MAX_CORRECT, payoffs_above, payoffs_below
from service.promise.estimates import DELTA
from service.promise.scoring import Scores
from service.promise.wealth import BETS
from service.spans.types import DoubleArray, IntArray

MAX_GOLD_ERRORS = 8  # that count in a sentence: against gold there are more of them than against full depth
F1_GRID: DoubleArray = np.linspace(0.01, 0.99, 99)  # the values between which bounds are found
MOST_SENTENCES = 10**12  # of which counts are read, so that no sum overflows


@dataclass(frozen=True, slots=True)
class GoldEstimate:
    """Holds what one level is worth on the sentences that were told.

    f1           against gold, a fraction; None before an entity was seen
    f1_interval  95 % interval of it, for all times at once, if the sentences were drawn from the traffic at random
    """

    f1: float | None
    f1_interval: tuple[float, float]


class GoldCounts:
    """Counts, for every level, how many sentences had so many entities right and so many wrong.

    What bets on sentences have won does not depend on their order, so these counts are all that an interval needs.
    """

    def __init__(self, num_levels: int) -> None:
        """Start without sentences."""
        self.sentences = 0
        self._sums = np.zeros((num_levels, 3), dtype=np.int64)  # true positives, false positives, false negatives
        self._cells = np.zeros((num_levels, (MAX_CORRECT + 1) * (MAX_GOLD_ERRORS + 1)), dtype=np.int64)

    def add(self, scores: Scores) -> None:
        """Add sentences, scored against the right entities."""
        parts = (scores.true_positives, scores.false_positives, scores.false_negatives)
        self._sums += np.stack([part.sum(axis=0) for part in parts], axis=1)
        cells = np.minimum(scores.true_positives, MAX_CORRECT) * (MAX_GOLD_ERRORS + 1)
        cells += np.minimum(scores.errors, MAX_GOLD_ERRORS)
        np.add.at(self._cells, (np.arange(len(self._cells)), cells), 1)
        self.sentences += len(cells)

    def plus(self, other: GoldCounts) -> GoldCounts:
        """Return the counts of both, which are of the same levels."""
        both = GoldCounts(len(self._sums))
        both.sentences = self.sentences + other.sentences
        both._sums, both._cells = self._sums + other._sums, self._cells + other._cells
        return both

    def f1(self, level: int) -> float | None:
        """Return what a level is worth, a fraction; None before an entity was seen."""
        correct, wrong, missed = self._sums[level].tolist()
        return 2 * correct / answered if (answered := 2 * correct + wrong + missed) else None

    def estimates(self) -> list[GoldEstimate]:
        """Return what every level is worth."""
        above, below = (_log_wealth(self._cells, pay) >= np.log(2 / DELTA) for pay in (payoffs_above, payoffs_below))
        return [
            GoldEstimate(self.f1(level), (max([0.0, *F1_GRID[is_above]]), min([1.0, *F1_GRID[is_below]])))
            for level, (is_above, is_below) in enumerate(zip(above, below, strict=True))
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON types; of cells, those alone that are not 0."""
        return {
            "sentences": self.sentences,
            "levels": [
                {"sums": sums, "cells": {str(cell): cells[cell] for cell in np.flatnonzero(cells).tolist()}}
                for sums, cells in zip(self._sums.tolist(), self._cells.tolist(), strict=True)
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned. Raises BadInput for anything else."""
        try:
            counts = cls(len(data["levels"]))
            counts.sentences = _count(data["sentences"])
            for level, found in enumerate(data["levels"]):
                counts._sums[level] = [_count(value) for value in found["sums"]]
                for cell, value in found["cells"].items():
                    counts._cells[level, _count(int(cell))] = _count(value)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"these are no counts of sentences: {error!r}") from error
        if (counts._cells.sum(axis=1) != counts.sentences).any():
            raise BadInput("the counts of sentences do not add up")
        return counts


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST_SENTENCES:
        raise ValueError(f"{value!r} is no count")
    return value


def _log_wealth(cells: IntArray, pay: Any) -> DoubleArray:
    """Return the logarithm of what bets spread evenly over BETS have won: (levels, F1_GRID)."""
    correct, errors = np.divmod(np.arange(cells.shape[1]), MAX_GOLD_ERRORS + 1)
    every_cell = Scores(*(part[None] for part in (errors, correct, errors, np.zeros_like(errors))))
    payoffs = pay(every_cell, F1_GRID, MAX_GOLD_ERRORS)  # (cells, grid)
    logs = np.stack([cells @ np.log1p(bet * payoffs) for bet in BETS])  # (bets, levels, grid)
    highest = logs.max(axis=0)
    won: DoubleArray = np.log(np.exp(logs - highest).mean(axis=0)) + highest
    return won
