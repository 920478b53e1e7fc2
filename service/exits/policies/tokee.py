"""TOKEE (Li et al. 2021): words halt one by one, each when it and its neighbours are certain enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from service.errors import BadInput
from service.exits.halting import Flags, still_active, threshold
from service.exits.policy import HIGHEST_INT, ExitReason, require_int, require_number
from service.exits.sentence import Sentence
from service.exits.words import WordPolicy, Words


@dataclass(frozen=True, slots=True)
class Tokee(WordPolicy):
    """A word halts when the largest uncertainty within `window` words, itself in the middle, is below tau.

    A word's uncertainty is the largest normalised entropy of a cell that it begins or ends. tau is their delta: in the
    upper half of the layers it counts twice, up to .5.
    """

    strategy: ClassVar[str] = "tokee"
    thresholds: ClassVar[tuple[str, ...]] = ("tau", "window")

    tau: float = 0.1
    window: int = 5

    def __post_init__(self) -> None:
        require_number("tau", self.tau, 0.0, 1.0, "a word halts when its neighbourhood's entropy is smaller")
        require_int("window", self.window, 1)
        if self.window % 2 == 0:
            raise BadInput(f"window is {self.window}; expected an odd number of words up to {HIGHEST_INT - 1}")

    def go_on(self, layer: int, num_layers: int, sequence: Sentence, words: Words) -> Flags:
        """By the window criterion."""
        return still_active(words.uncertainty, words.moving, self.window, threshold(self.tau, layer, num_layers))

    @property
    def reason(self) -> ExitReason:
        """All words are certain."""
        return "confidence"
