"""SENTEE (Li et al. 2021): leave when even the least certain cell is certain enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from service.exits.confidence_policy import ConfidencePolicy
from service.exits.declaration import Display, Style
from service.exits.parameters import Number, Scale, quantiles
from service.exits.reading import Reading
from service.spans.types import DoubleArray


@dataclass(frozen=True, slots=True)
class Sentee(ConfidencePolicy):
    """Leaves when the largest normalised entropy of a valid cell is below tau."""

    strategy: ClassVar[str] = "sentee"
    title: ClassVar[str] = "SENTEE"
    origin: ClassVar[str] = "Li et al. 2021"
    meaning: ClassVar[str] = "Leaves when even the least certain cell has an entropy below tau."
    style: ClassVar[Style] = Style("#009E73", "D", "--")
    display: ClassVar[Display] = Display(
        title="Least certain cell",
        shown="evidence",
        thresholds=("tau",),
        note="{0}",
        why={"confidence": "The entropy of its least certain cell is {0}, below τ = {tau}."},
        held="no earlier layer came below τ = {tau}",
    )

    tau: Annotated[
        float,
        Number(
            meaning="a layer is confident when its largest entropy is smaller",
            unit="normalised entropy",
            scale=Scale(),
            grid=quantiles,
        ),
    ] = 0.2

    def confidence(self, reading: Reading) -> DoubleArray:
        """Return the largest entropy of a cell, in [0, 1]."""
        return reading.figure("entropy_max")

    def is_confident(self, confidence: float) -> bool:
        """Tell whether the largest entropy is below tau."""
        return confidence < self.tau
