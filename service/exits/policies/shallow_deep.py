"""Shallow-Deep (Kaya et al. 2019; section 5.2 of VEE-BERT): leave when the mean highest probability is high."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from service.exits.policies.one_layer import ConfidencePolicy
from service.exits.policy import require_number
from service.exits.reading import Figures, Reading


@dataclass(frozen=True, slots=True)
class ShallowDeep(ConfidencePolicy):
    """Leaves when the highest probability of a cell, averaged over the valid cells, is above tau."""

    strategy: ClassVar[str] = "shallow_deep"

    tau: float = 0.995

    def __post_init__(self) -> None:
        meaning = "a layer is confident when its mean highest probability is larger"
        require_number("tau", self.tau, 0.0, 1.0, meaning)

    def confidence(self, reading: Reading) -> Figures:
        """Mean highest probability, in [1 / K, 1]."""
        return reading.figure("confidence_mean")

    def is_confident(self, confidence: float) -> bool:
        """High probability is high confidence."""
        return confidence > self.tau
