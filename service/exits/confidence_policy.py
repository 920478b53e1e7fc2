"""The base of strategies that look at the latest layer alone: one number per sequence, compared with a threshold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from service.exits.parameters import Evidence
from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason
from service.exits.reading import Reading
from service.spans.types import DoubleArray


@dataclass(frozen=True, slots=True)
class ConfidencePolicy(ExitPolicy):
    """Leaves at the first layer that is confident by itself, whatever the layers before it said."""

    reasons: ClassVar[tuple[ExitReason, ...]] = ("confidence",)
    decided_by: ClassVar[tuple[str, ...]] = ("tau",)

    @abstractmethod
    def confidence(self, reading: Reading) -> DoubleArray:
        """Return (sequences,) float64: the number that `is_confident` compares with tau."""

    @abstractmethod
    def is_confident(self, confidence: float) -> bool:
        """Tell whether a number from `confidence` lets a sequence leave; a number equal to tau does not."""

    def evidence(self, readings: Sequence[Reading]) -> DoubleArray:
        """Return (sequences, 1): the latest layer's confidence."""
        return self.confidence(readings[-1])[:, None]

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave if the latest layer is confident."""
        if len(history) == num_layers:
            return LAST_LAYER
        return "confidence" if self.is_confident(history[-1][0]) else None
