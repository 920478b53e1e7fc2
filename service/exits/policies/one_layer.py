"""What the one-layer strategies share: one number a sequence and layer, and a threshold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from service.exits.policy import Evidence, ExitPolicy, ExitReason
from service.exits.reading import Figures, Reading


@dataclass(frozen=True, slots=True)
class ConfidencePolicy(ExitPolicy):
    """Leaves at the first layer that is confident by itself, whatever the layers before it said."""

    @abstractmethod
    def confidence(self, reading: Reading) -> Figures:
        """(sequences,) float64: the number that `is_confident` compares with tau."""

    @abstractmethod
    def is_confident(self, confidence: float) -> bool:
        """The comparison, strict."""

    def evidence(self, readings: Sequence[Reading]) -> Figures:
        """(sequences, 1): the latest layer's confidence."""
        return self.confidence(readings[-1])[:, None]

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """By the latest layer alone."""
        if len(history) == num_layers:
            return "last_layer"
        return "confidence" if self.is_confident(history[-1][0]) else None
