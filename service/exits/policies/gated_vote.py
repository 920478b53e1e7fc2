"""The gated vote (ours): leave when confidence is overwhelming, or when layers agree and confidence is fair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from service.exits.consistency import entity_set
from service.exits.policy import Evidence, ExitPolicy, ExitReason, require_int, require_number
from service.exits.reading import Figures, Reading


@dataclass(frozen=True, slots=True)
class GatedVote(ExitPolicy):
    """Leaves when the largest entropy of a cell is below `tau`, or below `gate` with `patience` votes.

    A vote is an earlier layer, consecutive or not, that decoded the same entities.
    """

    strategy: ClassVar[str] = "gated_vote"

    tau: float = 0.15
    gate: float = 0.5
    patience: int = 1

    def __post_init__(self) -> None:
        require_number("tau", self.tau, 0.0, 1.0, "a layer leaves alone when its largest entropy is smaller")
        require_number("gate", self.gate, 0.0, 1.0, "a layer with votes leaves when its largest entropy is smaller")
        require_int("patience", self.patience, 1)

    def evidence(self, readings: Sequence[Reading]) -> Figures:
        """(sequences, 2): the largest entropy, and how many earlier layers decoded the same."""
        *earlier, current = readings
        entropy_max = current.figure("entropy_max")
        votes = np.zeros(len(entropy_max))
        for reading in earlier:
            votes += entity_set(reading, current)
        return np.stack([entropy_max, votes], axis=1)

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Confidence first."""
        if len(history) == num_layers:
            return "last_layer"
        entropy_max, votes = history[-1]
        if entropy_max < self.tau:
            return "confidence"
        return "vote" if votes >= self.patience and entropy_max < self.gate else None
