"""The base of strategies that halt the words of a sequence one by one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from service.exits.parameters import Evidence
from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason
from service.exits.reading import Reading
from service.exits.words import Flags, WordProgress
from service.text.types import SequenceInput


@dataclass(frozen=True, slots=True)
class WordPolicy(ExitPolicy):
    """Leaves when all words of a sequence have halted; the evidence is how many words go on.

    What deeper layers see depends on which words have halted before, so a trace cannot be replayed.
    """

    is_replayable: ClassVar[bool] = False

    @abstractmethod
    def go_on(self, layer: int, num_layers: int, sequence: SequenceInput, words: WordProgress) -> Flags:
        """Return which of the moving words go on after `layer`, which is not the last: (words,)."""

    def start(self, sequence: SequenceInput) -> WordProgress:
        """Return the words before the first layer: all move."""
        return WordProgress.of(sequence)

    def words_after(
        self, layer: int, num_layers: int, sequence: SequenceInput, words: WordProgress, reading: Reading | None
    ) -> WordProgress:
        """Return the words after `layer`; those for which `go_on` is False have halted."""
        words = ExitPolicy.words_after(self, layer, num_layers, sequence, words, reading)
        if layer == num_layers:
            return words
        return replace(words, moving=self.go_on(layer, num_layers, sequence, words))

    def word_evidence(self, words: WordProgress) -> Evidence:
        """Return how many of the words go on."""
        return (float(words.moving.sum()),)

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave if no word goes on."""
        if len(history) == num_layers:
            return LAST_LAYER
        return None if history[-1][0] else self.reasons[0]
