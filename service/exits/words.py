"""What becomes of the words of one sequence under a strategy that halts them one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.spans.types import IntArray
from service.text.types import SequenceInput

Flags = NDArray[np.bool_]
Uncertainty = NDArray[np.float32]
KEYS_AND_VALUES = 6  # a halted row costs a layer one part in so many: 2 of the 12 hidden * hidden products


@dataclass(frozen=True, slots=True, eq=False)
class WordProgress:
    """How far each word of a sequence has come, between two layers.

    layers       (words,) the layer after which each one halted, or the latest one while it moves
    moving       (words,) whether it moves on
    uncertainty  (words,) each one's when it last moved; of no meaning where the strategy does not ask for it
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
        """Return the words after one more layer; uncertainty: (words,) what the exit there says, if it ran."""
        layers = np.where(self.moving, layer, self.layers)
        if uncertainty is None:
            return replace(self, layers=layers)
        return replace(self, layers=layers, uncertainty=np.where(self.moving, uncertainty, self.uncertainty))

    def step_pieces(self, sequence: SequenceInput) -> int:
        """Return what the next layer costs, in pieces that move."""
        halted = int((sequence.last_piece - sequence.first_piece + 1)[~self.moving].sum())
        return work_of_pieces(sequence.num_pieces - halted, halted)


def work_of_pieces(moving: int, halted: int) -> int:
    """Return what a layer costs for rows that move and halted rows, in rows that move."""
    return moving + -(-halted // KEYS_AND_VALUES)
