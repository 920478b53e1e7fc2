"""Which words of a sequence go on to the next layer: the window criterion of TOKEE (Li et al. 2021)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Uncertainty = NDArray[np.float32]
HIGHEST_DELTA = 0.5  # beyond which a threshold is not doubled in the upper half


def threshold(delta: float, layer: int, num_layers: int) -> float:
    """Of the lower half of the layers delta, of the upper half twice as much, up to HIGHEST_DELTA (their code)."""
    return delta if 2 * layer <= num_layers else max(delta, min(2 * delta, HIGHEST_DELTA))


def still_active(uncertainty: Uncertainty, active: Flags, window: int, threshold: float) -> Flags:
    """(words,) which words go on: those that are active and near an uncertain word.

    uncertainty  (words,) in [0, 1]; of a halted word, what it was when it last moved
    window       how many words, an odd number, the word itself in the middle, all have to be below the threshold
    """
    unsure = uncertainty >= threshold
    if window > 1 and unsure.any():
        reach, words = window // 2, len(unsure)
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(unsure)])
        last = np.minimum(np.arange(words) + reach + 1, words)
        unsure = before[last] > before[np.maximum(np.arange(words) - reach, 0)]
    return active & unsure


def simulate(uncertainties: Uncertainty, window: int, delta: float) -> NDArray[np.int64]:
    """(words,) the layer after which each word would halt, had halting changed nothing.

    uncertainties: (layers, words)
    """
    num_layers, words = uncertainties.shape
    active, latest = np.ones(words, dtype=bool), uncertainties[0].copy()
    layers = np.full(words, num_layers)
    for layer in range(1, num_layers):
        latest[active] = uncertainties[layer - 1][active]
        going_on = still_active(latest, active, window, threshold(delta, layer, num_layers))
        layers[active & ~going_on] = layer
        active = going_on
    return layers
