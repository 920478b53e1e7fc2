"""Works out confidence intervals by the bootstrap: texts are drawn with replacement, and each draw is scored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.evaluation.replay import Replay
from service.exits.operating_points import Interval

DRAWS = 2_000
LEVEL = 0.95


class Bootstrap:
    """Draws texts of one data set with replacement: the same for every policy, so that differences are paired."""

    def __init__(self, num_texts: int, seed: int = 0, draws: int = DRAWS) -> None:
        drawn = np.random.default_rng(seed).multinomial(num_texts, np.full(num_texts, 1 / num_texts), draws)
        self._draws = drawn.astype(np.float64)  # how often each text is drawn

    def f1(self, replay: Replay) -> NDArray[np.float64]:
        """Return F1 x 100 of every draw: (draws,)."""
        totals = self._draws @ np.stack([replay.correct, replay.gold + replay.found], axis=1)
        return 100 * 2 * totals[:, 0] / np.maximum(totals[:, 1], 1)

    def average_exit_layer(self, replay: Replay, text_of_sequence: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the average exit layer per sequence of every draw: (draws,)."""
        num_texts = self._draws.shape[1]
        layers = np.bincount(text_of_sequence, weights=replay.layers_run, minlength=num_texts)
        counts = np.bincount(text_of_sequence, minlength=num_texts)
        return (self._draws @ layers) / np.maximum(self._draws @ counts, 1)


def interval(drawn: NDArray[np.float64]) -> Interval:
    """Return the interval that holds the middle LEVEL of what was drawn."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
