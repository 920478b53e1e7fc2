"""SENTEE (Li et al. 2021): leave when even the least certain cell is certain enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from service.exits.policies.one_layer import ConfidencePolicy
from service.exits.policy import require_number
from service.exits.reading import Figures, Reading


@dataclass(frozen=True, slots=True)
class Sentee(ConfidencePolicy):
    """Leaves when the largest normalised entropy of a valid cell is below tau."""

    strategy: ClassVar[str] = "sentee"

    tau: float = 0.2

    def __post_init__(self) -> None:
        require_number("tau", self.tau, 0.0, 1.0, "a layer is confident when its largest entropy is smaller")

    def confidence(self, reading: Reading) -> Figures:
        """Largest entropy, in [0, 1]."""
        return reading.figure("entropy_max")

    def is_confident(self, confidence: float) -> bool:
        """Low entropy is high confidence."""
        return confidence < self.tau
