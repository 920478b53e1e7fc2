"""Strategies under which the words of a sequence halt one by one, and what becomes of one sequence's words."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.exits.halting import Flags, Uncertainty
from service.exits.policy import Evidence, ExitPolicy, ExitReason
from service.exits.sentence import Sentence
from service.spans.types import IntArray

KEYS_AND_VALUES = 6  # a halted row costs a layer one part in so many: 2 of the 12 hidden * hidden products


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """The words of one sequence between two layers.

    layers       (words,) the layer after which each one halted, or the latest one while it moves
    moving       (words,)
    uncertainty  (words,) each one's when it last moved; of no meaning where the strategy does not ask for it
    """

    layers: IntArray
    moving: Flags
    uncertainty: Uncertainty

    @classmethod
    def of(cls, sequence: Sentence) -> Words:
        """Before the first layer."""
        count = sequence.num_words
        zeros = np.zeros(count, dtype=np.int64)
        return cls(zeros, np.ones(count, dtype=bool), np.zeros(count, dtype=np.float32))

    def after(self, layer: int, uncertainty: Uncertainty | None) -> Words:
        """Those that moved are after `layer`; uncertainty: (words,) what the exit there says."""
        layers = np.where(self.moving, layer, self.layers)
        if uncertainty is None:
            return replace(self, layers=layers)
        return replace(self, layers=layers, uncertainty=np.where(self.moving, uncertainty, self.uncertainty))


class WordPolicy(ExitPolicy):
    """A sequence leaves when none of its words moves any more; the layers that it ran are the mean over its words.

    Evidence is how many words go on.
    """

    @abstractmethod
    def go_on(self, layer: int, num_layers: int, sequence: Sentence, words: Words) -> Flags:
        """(words,) which of the words that moved go on after `layer`."""

    def needs_exit_of(self, layer: int, num_layers: int, sequence: Sentence) -> bool:
        """Whether the exit after `layer` must be computed for a sequence."""
        return True

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """By the latest layer alone."""
        if len(history) == num_layers:
            return "last_layer"
        return None if history[-1][0] else self.reason

    @property
    @abstractmethod
    def reason(self) -> ExitReason:
        """Why a sequence leaves early."""


def work_of_pieces(moving: int, halted: int) -> int:
    """What a layer costs for rows that move and halted rows, in rows that move."""
    return moving + -(-halted // KEYS_AND_VALUES)
