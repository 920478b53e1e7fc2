"""DE3-BERT (He et al. 2024): leave when the least certain cell is certain by entropy and distance together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from service.exits.policy import Evidence, ExitPolicy, ExitReason, require_number
from service.exits.prototypes import Prototypes, largest_edr
from service.exits.reading import Figures, Reading


@dataclass(frozen=True, slots=True)
class De3(ExitPolicy):
    """Leaves when the largest EDR of a candidate cell is below tau; `weight` is the paper's lambda.

    Over which cells, and that the largest decides, is our choice: the paper classifies sentences.
    """

    strategy: ClassVar[str] = "de3"

    tau: float = 0.2
    weight: float = 1.0
    prototypes: Prototypes = field(kw_only=True, repr=False, metadata={"on_the_wire": False})

    def __post_init__(self) -> None:
        require_number("tau", self.tau, 0.0, 1.0, "a layer is confident when its largest EDR is smaller")
        require_number("weight", self.weight, 0.0, 1e6, "0: entropy alone; the larger, the more the distances count")

    @property
    def compares_tables(self) -> bool:
        """The entropy of single cells is in the table alone."""
        return True

    def evidence(self, readings: Sequence[Reading]) -> Figures:
        """(sequences, 1): the latest layer's EDR."""
        points = self.prototypes.points[len(readings) - 1]
        return largest_edr(readings[-1], points, self.weight)[:, None]

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """By the latest layer alone."""
        if len(history) == num_layers:
            return "last_layer"
        return "confidence" if history[-1][0] < self.tau else None
