"""Shallow-Deep (Kaya et al. 2019; section 5.2 of VEE-BERT): leave when the mean highest probability is high."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from service.exits.confidence_policy import ConfidencePolicy
from service.exits.declaration import Display, Style
from service.exits.parameters import Number, Scale, quantiles
from service.exits.reading import Reading
from service.spans.types import DoubleArray


@dataclass(frozen=True, slots=True)
class ShallowDeep(ConfidencePolicy):
    """Leaves when the highest probability of a cell, averaged over the valid cells, is above tau."""

    strategy: ClassVar[str] = "shallow_deep"
    title: ClassVar[str] = "Shallow-Deep"
    origin: ClassVar[str] = "Kaya et al. 2019"
    meaning: ClassVar[str] = "Leaves when the highest probability of a cell, on average, is above tau."
    style: ClassVar[Style] = Style("#999999", "p", "--")
    display: ClassVar[Display] = Display(
        title="Mean confidence",
        shown="evidence",
        thresholds=("tau",),
        leaves="above",
        note="{0}",
        why={"confidence": "The highest probability of its cells is {0} on average, above τ = {tau}."},
        held="no earlier layer came above τ = {tau}",
    )

    tau: Annotated[
        float,
        Number(
            meaning="a layer is confident when its mean highest probability is larger",
            unit="probability",
            scale=Scale(surest=1.0, farthest=0.0),
            grid=quantiles,
        ),
    ] = 0.995

    def confidence(self, reading: Reading) -> DoubleArray:
        """Return the mean highest probability, in [1 / K, 1]."""
        return reading.figure("confidence_mean")

    def is_confident(self, confidence: float) -> bool:
        """Tell whether the mean highest probability is above tau."""
        return confidence > self.tau
