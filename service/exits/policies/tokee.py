"""TOKEE (Li et al. 2021): words halt one by one, each when it and its neighbours are certain enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from service.exits.declaration import EXIT_AFTER_EVERY_LAYER, Display, Need
from service.exits.parameters import Count, Number, Scale
from service.exits.policy import ExitReason
from service.exits.word_policy import WordPolicy
from service.exits.words import Flags, Uncertainty, WordProgress
from service.spans.types import IntArray
from service.text.types import SequenceInput

HIGHEST_DELTA = 0.5  # doubling in the upper half of the layers does not raise a threshold above this
TAUS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.4, 0.5)
WINDOWS = (1, 3, 5, 9)


class HaltingTraining:
    """Marks, as an asset, a model that was trained with words that halt: its later layers can read halted words."""


@dataclass(frozen=True, slots=True)
class Tokee(WordPolicy):
    """Halts a word when the largest uncertainty within `window` words, the word itself in the middle, is below tau.

    A word's uncertainty is the largest normalised entropy of a cell that it begins or ends. tau is the paper's delta:
    in the upper half of the layers it is doubled, up to .5.
    """

    strategy: ClassVar[str] = "tokee"
    title: ClassVar[str] = "TOKEE"
    origin: ClassVar[str] = "Li et al. 2021"
    meaning: ClassVar[str] = (
        "A word halts when the largest entropy of a cell that a word of its window begins or ends is below tau. In the "
        "upper half of the layers tau counts double. A sentence leaves when all its words have halted."
    )
    reasons: ClassVar[tuple[ExitReason, ...]] = ("confidence",)
    needs: ClassVar[tuple[Need, ...]] = (
        EXIT_AFTER_EVERY_LAYER,
        Need(
            lambda model: model.get(HaltingTraining) is not None,
            "a model trained with words that halt (recipe field halting), which this one was not",
        ),
    )
    decided_by: ClassVar[tuple[str, ...]] = ("tau", "window")
    display: ClassVar[Display] = Display(
        title="Words that go on",
        note="{0|word} of it",
        why={
            "confidence": "All its words have halted: within {window|word} nothing was less certain than τ = {tau} "
            "allows."
        },
        held="some words never had a window that was certain enough for τ = {tau}",
    )

    tau: Annotated[
        float,
        Number(
            meaning="a word halts when its neighbourhood's entropy is smaller",
            unit="normalised entropy",
            scale=Scale(),
            grid=TAUS,
        ),
    ] = 0.1
    window: Annotated[
        int,
        Count(
            meaning="how many neighbouring words, itself in the middle, have to be certain before a word halts",
            unit="words",
            is_odd=True,
            grid=WINDOWS,
        ),
    ] = 5

    def go_on(self, layer: int, num_layers: int, sequence: SequenceInput, words: WordProgress) -> Flags:
        """Return which words go on by the window criterion: (words,), see `still_active`."""
        return still_active(words.uncertainty, words.moving, self.window, threshold(self.tau, layer, num_layers))


def threshold(delta: float, layer: int, num_layers: int) -> float:
    """Return the threshold of a layer, as in the code of Li et al.

    It is delta in the lower half of the layers, and twice delta, but not above HIGHEST_DELTA, in the upper half.
    """
    return delta if 2 * layer <= num_layers else max(delta, min(2 * delta, HIGHEST_DELTA))


def still_active(uncertainty: Uncertainty, active: Flags, window: int, threshold: float) -> Flags:
    """Return which words go on: those that are active and have an uncertain word in their window, (words,).

    uncertainty  (words,) in [0, 1]; that of a halted word is from the layer after which it halted
    active       (words,) whether each word moves
    window       the size of a window in words, an odd number; the word itself is in the middle
    threshold    a word is uncertain if its uncertainty is not below this
    """
    unsure = uncertainty >= threshold
    if window > 1 and unsure.any():
        reach, words = window // 2, len(unsure)
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(unsure)])
        last = np.minimum(np.arange(words) + reach + 1, words)
        unsure = before[last] > before[np.maximum(np.arange(words) - reach, 0)]
    return active & unsure


def simulate(uncertainties: Uncertainty, window: int, delta: float) -> IntArray:
    """Return the layer after which each word would halt if halting changed no uncertainty: (words,).

    uncertainties: (layers, words) at full depth
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
