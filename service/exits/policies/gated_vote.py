"""The gated vote (ours): leave when confidence is overwhelming, or when layers agree and confidence is fair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from service.exits.consistency import entity_set
from service.exits.declaration import Display, Style
from service.exits.parameters import Count, Evidence, Number, Scale, earlier_layers
from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason
from service.exits.reading import Reading
from service.spans.types import DoubleArray

TAUS = (0.01, 0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
GATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class GatedVote(ExitPolicy):
    """Leaves when the largest entropy of a cell is below `tau`, or below `gate` with `patience` votes.

    A vote is an earlier layer, consecutive or not, that decoded the same entities.
    """

    strategy: ClassVar[str] = "gated_vote"
    title: ClassVar[str] = "gated vote (ours)"
    origin: ClassVar[str] = "ours"
    meaning: ClassVar[str] = (
        "Leaves when the least certain cell's entropy is below tau; or below the gate, with as many earlier layers "
        "that found the same entities as patience says."
    )
    reasons: ClassVar[tuple[ExitReason, ...]] = ("vote", "confidence")
    decided_by: ClassVar[tuple[str, ...]] = ("tau", "gate", "patience")
    style: ClassVar[Style] = Style("#D55E00", "s", "-")
    display: ClassVar[Display] = Display(
        title="Least certain cell, and votes",
        shown="evidence",
        thresholds=("tau", "gate"),
        note="{0}, {1|vote}",
        why={
            "vote": "{1|earlier layer} found the same entities, and the least certain cell’s entropy {0} is below the "
            "gate {gate}.",
            "confidence": "The entropy of its least certain cell is {0}, below τ = {tau}.",
        },
        held="no earlier layer was certain enough for τ = {tau}, nor had votes within the gate",
    )

    tau: Annotated[
        float,
        Number(
            meaning="a layer leaves alone when its largest entropy is smaller",
            unit="normalised entropy",
            scale=Scale(),
            grid=TAUS,
        ),
    ] = 0.15
    gate: Annotated[
        float,
        Number(
            meaning="a layer with votes leaves when its largest entropy is smaller",
            unit="normalised entropy",
            scale=Scale(),
            grid=GATES,
        ),
    ] = 0.5
    patience: Annotated[
        int,
        Count(
            meaning="how many earlier layers have to have found the same entities",
            unit="votes",
            useful=earlier_layers,
            grid=(1, 2),
            ends=("leaves earlier", "leaves later"),
        ),
    ] = 1

    @property
    def is_worth_trying(self) -> bool:
        """Whether the gate is wider than tau; otherwise votes make no difference."""
        return self.tau < self.gate

    def evidence(self, readings: Sequence[Reading]) -> DoubleArray:
        """Return (sequences, 2): the largest entropy, and how many earlier layers decoded the same."""
        *earlier, current = readings
        entropy_max = current.figure("entropy_max")
        votes = np.zeros(len(entropy_max))
        for reading in earlier:
            votes += entity_set(reading, current)
        return np.stack([entropy_max, votes], axis=1)

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave by confidence, else by votes within the gate."""
        if len(history) == num_layers:
            return LAST_LAYER
        entropy_max, votes = history[-1]
        if entropy_max < self.tau:
            return "confidence"
        return "vote" if votes >= self.patience and entropy_max < self.gate else None
