"""Estimates from a sample how often leaving early changes the answer, with bounds that hold at any time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

CONFIDENCE = 0.95
_PRIOR = 0.5  # a and b of the mixing Beta(a, b), which weighs rates near 0 and 1 most: rare events are bounded well
_HALVINGS = 50  # of a bisection: what is left is far smaller than any digit that is shown


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Counts sequences that left early and were run on to full depth, and how many of them had other entities there."""

    runs: int = 0
    disagreements: int = 0

    def plus(self, disagrees: bool) -> Disagreement:
        """Return the counts with one more run."""
        return Disagreement(self.runs + 1, self.disagreements + disagrees)

    @property
    def rate(self) -> float | None:
        """Disagreements per run; None before the first run."""
        return self.disagreements / self.runs if self.runs else None

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and upper bound of the true rate, from a confidence sequence: it may be read after every run.

        For runs that are independent and disagree with the same probability p, the mixture martingale

            M_n(p) = B(a + s, b + n - s) / (B(a, b) p^s (1 - p)^(n - s))

        of s disagreements in n runs, where B is the beta function, is a likelihood ratio with expectation 1. By
        Ville's inequality, the probability that it ever reaches 1 / alpha is at most alpha. So the set of all p with
        M_n(p) < 1 / alpha contains the true p, for all n at once, with probability CONFIDENCE = 1 - alpha. The set is
        an interval, since M_n falls up to p = s / n and rises after it. (Robbins, 1970, "Statistical methods related
        to the law of the iterated logarithm", has it for a = b = 1; the 1/2 taken here is Krichevsky and Trofimov's,
        1981.)
        """
        if not self.runs:
            return 0.0, 1.0
        others = self.runs - self.disagreements
        peak = self.disagreements / self.runs
        mixture = _log_beta(_PRIOR + self.disagreements, _PRIOR + others) - _log_beta(_PRIOR, _PRIOR)
        highest = mixture + math.log(1 - CONFIDENCE)  # log(alpha M_n(p)) < 0  <=>  highest < log-likelihood of p

        def is_inside(rate: float) -> bool:
            likelihood = _times_log(self.disagreements, rate) + _times_log(others, 1 - rate)
            return highest < likelihood

        return _edge(is_inside, peak, 0.0), _edge(is_inside, peak, 1.0)


def _edge(is_inside: Callable[[float], bool], inside: float, end: float) -> float:
    """Find by bisection where the interval that contains `inside` ends towards `end`; rounded outwards."""
    if is_inside(end):
        return end
    outside = end
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
    return outside


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _times_log(count: int, rate: float) -> float:
    """Return count * log(rate), where 0 * log(0) is 0."""
    if not count:
        return 0.0
    return count * math.log(rate) if rate > 0 else -math.inf
