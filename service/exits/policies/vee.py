"""VEE (vote early exiting, section 4.2 of VEE-BERT): leave when enough earlier layers agree with this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from service.exits.consistency import CONSISTENCIES, MEASURES_OF_ENTITIES
from service.exits.ensemble import average
from service.exits.policy import (
    Evidence,
    ExitPolicy,
    ExitReason,
    require_choice,
    require_flag,
    require_int,
    require_number,
)
from service.exits.reading import Figures, Reading


@dataclass(frozen=True, slots=True)
class Vee(ExitPolicy):
    """Every earlier layer i with C(T_i, T_m) > tau is one vote for layer m; with `patience` votes T_m is decoded.

    The count is fresh at every layer and votes need not be consecutive, so the earliest exit is layer patience + 1, and
    patience >= num_layers - 1 never leaves early. The comparison is strict: tau = 0 never leaves early under KL.
    `ensemble` decodes the average of T_1, ..., T_m instead (section 5.5.1); the vote stays the same.
    """

    strategy: ClassVar[str] = "vee"
    calibrated_by: ClassVar[tuple[str, ...]] = ("measure", "pooling")

    measure: str = "kl"
    pooling: str = "mean"
    tau: float = -0.001
    patience: int = 1
    ensemble: bool = False

    def __post_init__(self) -> None:
        require_choice("measure", self.measure, sorted({measure for measure, _ in CONSISTENCIES}))
        poolings = sorted(pooling for measure, pooling in CONSISTENCIES if measure == self.measure)
        require_choice("pooling", self.pooling, poolings)
        require_int("patience", self.patience, 1)
        require_flag("ensemble", self.ensemble)
        consistency = CONSISTENCIES[self.measure, self.pooling]
        meaning = f"{self.measure} pooled by {self.pooling}; an earlier layer votes when it is larger than tau"
        require_number("tau", self.tau, consistency.lowest, consistency.highest, meaning)

    @property
    def compares_tables(self) -> bool:
        """All measures do but those of entities."""
        return self.ensemble or self.measure not in MEASURES_OF_ENTITIES

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Every layer votes, unless patience rules out that any vote is won before the last."""
        return layer == num_layers or self.ensemble or self.patience < num_layers - 1

    def evidence(self, readings: Sequence[Reading]) -> Figures:
        """(sequences, m - 1): the consistency of layer m with layers 1, 2, ..., m - 1."""
        compare = CONSISTENCIES[self.measure, self.pooling].compare
        *earlier, current = readings
        if not earlier:
            return ExitPolicy.evidence(self, readings)
        return np.stack([compare(reading, current) for reading in earlier], axis=1)

    def carried_over(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Nor a pooling that another measure has not."""
        kept = super(Vee, self).carried_over(changes)
        measure = changes.get("measure", self.measure) or "kl"
        if (str(measure), self.pooling) not in CONSISTENCIES:
            kept.pop("pooling", None)
        return kept

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every measure has a tau of its own."""
        built_in = super(Vee, cls).defaults(given)
        kind = str(given.get("measure", built_in["measure"])), str(given.get("pooling", built_in["pooling"]))
        consistency = CONSISTENCIES.get(kind)
        return built_in if consistency is None else {**built_in, "tau": consistency.tau}

    def votes(self, evidence: Evidence) -> int:
        """How many earlier layers agree with the layer that `evidence` was taken at."""
        return sum(consistency > self.tau for consistency in evidence)

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Count the votes of the latest layer."""
        if len(history) == num_layers:
            return "last_layer"
        return "vote" if self.votes(history[-1]) >= self.patience else None

    def prediction(self, readings: Sequence[Reading]) -> Reading:
        """T_m, or with `ensemble` the average of T_1, ..., T_m."""
        return average(readings) if self.ensemble else readings[-1]
