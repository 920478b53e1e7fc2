"""BranchyNet (Teerapittayanon et al. 2016; section 5.2 of VEE-BERT): leave when the mean entropy is low."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from service.exits.policies.one_layer import ConfidencePolicy
from service.exits.policy import require_number
from service.exits.reading import Figures, Reading


@dataclass(frozen=True, slots=True)
class BranchyNet(ConfidencePolicy):
    """Leaves when the mean normalised entropy over the valid cells (Eq. 6, without its sign slip) is below tau."""

    strategy: ClassVar[str] = "branchynet"

    tau: float = 0.01

    def __post_init__(self) -> None:
        require_number("tau", self.tau, 0.0, 1.0, "a layer is confident when its mean entropy is smaller")

    def confidence(self, reading: Reading) -> Figures:
        """Mean entropy, in [0, 1]."""
        return reading.figure("entropy_mean")

    def is_confident(self, confidence: float) -> bool:
        """Low entropy is high confidence."""
        return confidence < self.tau
