"""Keeps track of the words of one sequence under a strategy that halts them one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.spans.types import IntArray
from service.text.types import SequenceInput

Flags = NDArray[np.bool_]
Uncertainty = NDArray[np.float32]
KEYS_AND_VALUES = 6  # a halted row costs 1 / 6 of a moving one: 2 of the 12 hidden * hidden products of a layer


@dataclass(frozen=True, slots=True, eq=False)
class WordProgress:
    """Holds how far each word of a sequence has come, between two layers.

    layers       (words,) the layer after which each word halted; for a word that moves, the latest layer
    moving       (words,) whether each word moves
    uncertainty  (words,) the uncertainty of each word when it last moved; without meaning if the strategy has none
    """

    layers: IntArray
    moving: Flags
    uncertainty: Uncertainty

    @classmethod
    def of(cls, sequence: SequenceInput) -> WordProgress:
        """Return the words before the first layer."""
        count = sequence.num_words
        zeros = np.zeros(count, dtype=np.int64)
        return cls(zeros, np.ones(count, dtype=bool), np.zeros(count, dtype=np.float32))

    def after(self, layer: int, uncertainty: Uncertainty | None) -> WordProgress:
        """Return the words after one more layer; uncertainty: (words,) by the exit there, None if it did not run."""
        layers = np.where(self.moving, layer, self.layers)
        if uncertainty is None:
            return replace(self, layers=layers)
        return replace(self, layers=layers, uncertainty=np.where(self.moving, uncertainty, self.uncertainty))

    def step_pieces(self, sequence: SequenceInput) -> int:
        """Return the work of the next layer, in moving pieces."""
        halted = int((sequence.last_piece - sequence.first_piece + 1)[~self.moving].sum())
        return work_of_pieces(sequence.num_pieces - halted, halted)


def work_of_pieces(moving: int, halted: int) -> int:
    """Return the work of a layer for moving and halted rows (a row per piece), in moving rows, rounded up."""
    return moving + -(-halted // KEYS_AND_VALUES)
