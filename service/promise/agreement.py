"""The promise, agreement with full depth, as a bounded payoff per sentence; and what it says of F1 against gold.

How payoffs are bet on, `wealth` knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.errors import BadInput
from service.promise.scoring import Scores
from service.spans.types import DoubleArray, IntArray

MAX_ERRORS = 3  # at levels worth promising, one error in a hundred is beyond that, or none (see docs/promise.md)
MAX_CORRECT = 32
LEAST_DISAGREEMENT, MOST_DISAGREEMENT = 0.0005, 0.5


@dataclass(frozen=True, slots=True)
class Promise:
    """Promises that the micro-F1 of the answers against full depth's answers is at least 1 - `max_disagreement`.

    max_disagreement  a fraction, from LEAST_DISAGREEMENT to MOST_DISAGREEMENT
    max_errors        how many errors of a sentence count at most; see `payoffs`
    Raises BadInput for values beyond these.
    """

    max_disagreement: float
    max_errors: int = MAX_ERRORS

    def __post_init__(self) -> None:
        if not LEAST_DISAGREEMENT <= self.max_disagreement <= MOST_DISAGREEMENT:
            raise BadInput(
                f"max_disagreement is {self.max_disagreement!r}; expected a number from {LEAST_DISAGREEMENT} to "
                f"{MOST_DISAGREEMENT}: 1 - F1 of the answers against full depth's"
            )
        if self.max_errors < 1:
            raise BadInput(f"max_errors is {self.max_errors!r}; expected at least 1: errors that count in a sentence")

    @property
    def agreement(self) -> float:
        """The F1 against full depth that is promised, a fraction: c."""
        return 1.0 - self.max_disagreement

    @property
    def most_payoff(self) -> float:
        """The largest payoff that there can be; the smallest is -1."""
        return 2 * (1 - self.agreement) * MAX_CORRECT / self._most_lost

    def payoffs(self, scores: Scores) -> DoubleArray:
        """Return what every sample pays for every level, from -1 to `most_payoff`: (samples, levels).

        F1 = 2 TP / (2 TP + FP + FN) of sums over sentences is at least c if and only if the sum of
        2 (1 - c) TP - c (FP + FN) over sentences is at least 0. A bet must know the most that it may lose, and without
        a limit one sentence in a million might break any promise, unseen. So at most `max_errors` errors of a sentence
        count, which is part of the promise, and at most MAX_CORRECT of the entities in common, which can only make it
        harder to prove; `uncounted` of the estimates says what is left out. The payoff is that, divided by the most
        that can be lost: a bet need not know what it may gain.
        """
        return _payoffs(scores.true_positives, scores.errors, self.agreement, self.max_errors) / self._most_lost

    @property
    def _most_lost(self) -> float:
        return self.agreement * self.max_errors


def payoffs_above(scores: Scores, agreements: DoubleArray, max_errors: int) -> DoubleArray:
    """Return what one sample pays for bets that F1 is above each of some agreements, at least -1: (levels, agreements).

    scores      of one sample
    agreements  (agreements,) fractions between 0 and 1
    For every sample, the payoffs fall as the agreement rises.
    """
    correct, errors = scores.true_positives[0, :, None], scores.errors[0, :, None]
    return _payoffs(correct, errors, agreements, max_errors) / (agreements * max_errors)


def payoffs_below(scores: Scores, agreements: DoubleArray, max_errors: int) -> DoubleArray:
    """Return the same for bets that F1 is below each of the agreements: they rise as the agreement rises."""
    correct, errors = scores.true_positives[0, :, None], scores.errors[0, :, None]
    return -_payoffs(correct, errors, agreements, max_errors) / (2 * (1 - agreements) * MAX_CORRECT)


def excess(scores: Scores, max_errors: int) -> IntArray:
    """Return the errors beyond those that count: (samples, levels)."""
    beyond: IntArray = np.maximum(scores.errors - max_errors, 0)
    return beyond


def _payoffs(correct: IntArray, errors: IntArray, agreement: DoubleArray | float, max_errors: int) -> DoubleArray:
    counted, wrong = np.minimum(correct, MAX_CORRECT), np.minimum(errors, max_errors)
    gains: DoubleArray = 2 * (1 - agreement) * counted - agreement * wrong
    return gains


def worst_scores(num_levels: int, num_layers: int, max_errors: int = MAX_ERRORS) -> Scores:
    """Return scores of one sample at which every level goes to full depth and yet errs as much as can count.

    They stand for a sample that could not be run: what is proven with them holds whatever it would have shown.
    """
    none = np.zeros((1, num_levels), dtype=np.int64)
    return Scores(none + num_layers, none, none, none + max_errors)


def least_gold_f1(full_f1: float, disagreement: float) -> float:
    """Return the least F1 against gold of answers whose F1 against full depth's is 1 - `disagreement`; all fractions.

    full_f1: F1 of full depth against gold

    The Jaccard distance 1 - |A & B| / |A | B| of finite sets is a metric (Levandowsky and Winter, 1971, "Distance
    between sets"), and of sets whose F1 is f it is j(f) = 2 (1 - f) / (2 - f), which falls in f. So
    j(gold F1) <= j(full_f1) + j(1 - disagreement).
    """
    return _f1_at(_jaccard_distance(full_f1) + _jaccard_distance(1 - disagreement))


def disagreement_for_loss(full_f1: float, max_f1_loss: float) -> float:
    """Return the largest disagreement that lets gold F1 be at most `max_f1_loss` below `full_f1`; all fractions.

    It is 0 where no loss is allowed. The reverse of `least_gold_f1`.
    """
    distance = _jaccard_distance(max(full_f1 - max_f1_loss, 0.0)) - _jaccard_distance(full_f1)
    return max(0.0, distance / (2 - distance))


def _jaccard_distance(f1: float) -> float:
    return 2 * (1 - f1) / (2 - f1)


def _f1_at(jaccard_distance: float) -> float:
    distance = min(jaccard_distance, 1.0)
    return 2 * (1 - distance) / (2 - distance)
