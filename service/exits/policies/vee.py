"""VEE (vote early exiting, section 4.2 of VEE-BERT): leave when enough earlier layers agree with this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, ClassVar

import numpy as np

from service.exits.assets import ModelAssets
from service.exits.consistency import CONSISTENCIES, MEASURES_OF_ENTITIES
from service.exits.declaration import Display, Family, Style
from service.exits.ensemble import average
from service.exits.parameters import (
    Choice,
    Count,
    Evidence,
    Evidences,
    Flag,
    Number,
    Parameter,
    earlier_layers,
    patiences,
    quantiles,
)
from service.exits.policy import LAST_LAYER, ExitPolicy, ExitReason
from service.exits.reading import Reading
from service.spans.types import DoubleArray

MEASURES = sorted({measure for measure, _ in CONSISTENCIES})
POOLINGS = sorted({pooling for _, pooling in CONSISTENCIES})
CURVES = {
    ("kl", "mean"): ("VEE, mean KL (the paper's)", Style("#0072B2", "^", "-")),
    ("kl", "max"): ("VEE, max KL", Style("#0072B2", "v", ":")),
    ("entity_set", "mean"): ("VEE, entity sets", Style("#56B4E9", "<", ":")),
}


@dataclass(frozen=True, slots=True)
class Vee(ExitPolicy):
    """Leaves at layer m when it has `patience` votes; every earlier layer i with C(T_i, T_m) > tau is one vote.

    Votes are counted anew at every layer and need not be consecutive, so the earliest exit is layer patience + 1, and
    patience >= num_layers - 1 never leaves early. The comparison is strict: under KL, tau = 0 never leaves early.
    `ensemble` decodes the average of T_1, ..., T_m instead (section 5.5.1); the vote stays the same.
    """

    strategy: ClassVar[str] = "vee"
    title: ClassVar[str] = "VEE"
    origin: ClassVar[str] = "section 4.2 of VEE-BERT"
    meaning: ClassVar[str] = "Leaves when as many earlier layers as patience says agree with this one by more than tau."
    reasons: ClassVar[tuple[ExitReason, ...]] = ("vote",)
    calibrated_by: ClassVar[tuple[str, ...]] = ("measure", "pooling")
    decided_by: ClassVar[tuple[str, ...]] = ("tau", "patience")
    display: ClassVar[Display] = Display(
        title="Votes",
        shown="consistency",
        thresholds=("tau",),
        leaves="above",
        note="{votes} of {patience|vote}",
        why={"vote": "{votes|earlier layer} agreed with it by more than τ = {tau}, and patience is {patience}."},
        held="no earlier layer had {patience|vote} above τ = {tau}",
    )

    measure: Annotated[str, Choice(meaning="how the consistency of two layers is measured", choices=MEASURES)] = "kl"
    pooling: Annotated[
        str,
        Choice(
            meaning="how a table's cells become one number: by their mean (the paper's), or by the least alike",
            choices=POOLINGS,
        ),
    ] = "mean"
    tau: Annotated[
        float,
        Number(
            lowest=min(consistency.lowest for consistency in CONSISTENCIES.values()),
            highest=max(consistency.highest for consistency in CONSISTENCIES.values()),
            meaning="an earlier layer votes when its consistency is larger than tau",
            unit="consistency",
        ),
    ] = -0.001
    patience: Annotated[
        int,
        Count(
            meaning="how many earlier layers, consecutive or not, have to agree",
            unit="votes",
            useful=earlier_layers,
            ends=("leaves earlier", "leaves later"),
        ),
    ] = 1
    ensemble: Annotated[bool, Flag(meaning="answer with the average of the exits so far")] = False

    def parameter(self, name: str) -> Parameter:
        """Return a parameter; the ranges of pooling and tau depend on the measure."""
        if name == "pooling":
            poolings = sorted(pooling for measure, pooling in CONSISTENCIES if measure == self.measure)
            return Choice(meaning=self.parameters()[name].meaning, choices=poolings)
        if name == "tau":
            consistency = CONSISTENCIES[self.measure, self.pooling]
            return Number(
                lowest=consistency.lowest,
                highest=consistency.highest,
                meaning=f"{self.measure} pooled by {self.pooling}; an earlier layer votes when it is larger than tau",
                unit="consistency",
                scale=consistency.scale,
            )
        return self.parameters()[name]

    @classmethod
    def variants(cls) -> list[ExitPolicy]:
        """Return one policy for every measure and pooling."""
        return [cls(*kind, tau=consistency.tau) for kind, consistency in CONSISTENCIES.items()]

    @classmethod
    def families(cls, model: ModelAssets) -> list[Family]:
        """Return one family for every measure and pooling, each with all patiences and taus."""
        return [cls._family(model, *kind) for kind in CONSISTENCIES]

    @classmethod
    def _family(cls, model: ModelAssets, measure: str, pooling: str) -> Family:
        consistency = CONSISTENCIES[measure, pooling]

        def members(seen: Evidences) -> list[ExitPolicy]:
            taus = [tau for tau in quantiles(model, seen) if consistency.lowest <= tau <= consistency.highest]
            pairs = product(patiences(model, seen), taus or [consistency.tau])
            return [cls(measure, pooling, tau, patience) for patience, tau in pairs]

        title, style = CURVES.get((measure, pooling), (f"VEE, {pooling} {measure}", None))
        prototype = cls(measure, pooling, consistency.tau)
        return Family(f"{cls.strategy}/{measure}/{pooling}", title, prototype, members, style)

    @property
    def compares_tables(self) -> bool:
        """Whether the measure or the ensemble needs tables; only measures of entities do not."""
        return self.ensemble or self.measure not in MEASURES_OF_ENTITIES

    def needs_exit(self, layer: int, num_layers: int) -> bool:
        """Tell whether the exit is needed: every one is, unless patience rules out leaving before the last layer."""
        return layer == num_layers or self.ensemble or self.patience < num_layers - 1

    def evidence(self, readings: Sequence[Reading]) -> DoubleArray:
        """Return (sequences, m - 1): the consistency of layer m with layers 1, 2, ..., m - 1."""
        compare = CONSISTENCIES[self.measure, self.pooling].compare
        *earlier, current = readings
        if not earlier:
            return ExitPolicy.evidence(self, readings)
        return np.stack([compare(reading, current) for reading in earlier], axis=1)

    def carried_over(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a merge patch keeps; the pooling is dropped if the new measure does not have it."""
        kept = super(Vee, self).carried_over(changes)
        measure = changes.get("measure", self.measure) or "kl"
        if (str(measure), self.pooling) not in CONSISTENCIES:
            kept.pop("pooling", None)
        return kept

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults; that of tau depends on the measure and pooling in `given`."""
        built_in = super(Vee, cls).defaults(given)
        kind = str(given.get("measure", built_in["measure"])), str(given.get("pooling", built_in["pooling"]))
        consistency = CONSISTENCIES.get(kind)
        return built_in if consistency is None else {**built_in, "tau": consistency.tau}

    def votes(self, consistency: Evidence) -> int:
        """Return how many earlier layers agree with a layer, given its consistencies with them."""
        return sum(value > self.tau for value in consistency)

    def decide(self, history: Sequence[Evidence], num_layers: int) -> ExitReason | None:
        """Leave if the latest layer has `patience` votes."""
        if len(history) == num_layers:
            return LAST_LAYER
        return "vote" if self.votes(history[-1]) >= self.patience else None

    def prediction(self, readings: Sequence[Reading]) -> Reading:
        """Return T_m, or with `ensemble` the average of T_1, ..., T_m."""
        return average(readings) if self.ensemble else readings[-1]
