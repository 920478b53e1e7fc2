"""BranchyNet (Teerapittayanon et al. 2016; section 5.2 of VEE-BERT): leave when the mean entropy is low."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from service.exits.confidence_policy import ConfidencePolicy
from service.exits.declaration import Display, Style
from service.exits.parameters import Number, Scale, quantiles
from service.exits.reading import Reading
from service.spans.types import DoubleArray


@dataclass(frozen=True, slots=True)
class BranchyNet(ConfidencePolicy):
    """Leaves when the mean normalised entropy over the valid cells (Eq. 6, without its sign slip) is below tau."""

    strategy: ClassVar[str] = "branchynet"
    title: ClassVar[str] = "BranchyNet"
    origin: ClassVar[str] = "Teerapittayanon et al. 2016"
    meaning: ClassVar[str] = "Leaves when the mean entropy of the cells is below tau."
    style: ClassVar[Style] = Style("#E69F00", "X", "--")
    display: ClassVar[Display] = Display(
        title="Mean entropy",
        shown="evidence",
        thresholds=("tau",),
        note="{0}",
        why={"confidence": "The mean entropy of its cells is {0}, below τ = {tau}."},
        held="no earlier layer came below τ = {tau}",
    )

    tau: Annotated[
        float,
        Number(
            meaning="a layer is confident when its mean entropy is smaller",
            unit="normalised entropy",
            scale=Scale(),
            grid=quantiles,
        ),
    ] = 0.01

    def confidence(self, reading: Reading) -> DoubleArray:
        """Return the mean entropy, in [0, 1]."""
        return reading.figure("entropy_mean")

    def is_confident(self, confidence: float) -> bool:
        """Tell whether the mean entropy is below tau."""
        return confidence < self.tau
