"""The traffic's rule (ours): the learned rule with weights that were fitted to the traffic of one server.

Fits are numbered, and several are kept, so that a policy of an earlier fit means today what it meant then. How a rule
is fitted to samples, `service.evaluation.traffic` knows; where fits are kept, `service.policy.traffic_fits` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from service.errors import BadInput
from service.exits.assets import ModelAssets
from service.exits.declaration import Family
from service.exits.parameters import Count, OfModel
from service.exits.policies.learned import ExitRule, LeavesByRule


@dataclass(frozen=True, slots=True, eq=False)
class TrafficRules:
    """Holds the rules that were fitted to the traffic, by the number of their fit."""

    rules: Mapping[int, ExitRule]

    def of(self, fit: int) -> ExitRule:
        """Return the rule of a fit. Raises BadInput for one that is not kept."""
        if fit not in self.rules:
            raise BadInput(f"fit is {fit}; expected one of the fits to the traffic that are kept: {sorted(self.rules)}")
        return self.rules[fit]


@dataclass(frozen=True, slots=True)
class LearnedOnTraffic(LeavesByRule):
    """Leaves when the worth of going on, by a rule that was fitted to this server's traffic, is below tau."""

    strategy: ClassVar[str] = "learned_on_traffic"
    title: ClassVar[str] = "learned rule, fitted to the traffic (ours)"
    origin: ClassVar[str] = "ours"
    meaning: ClassVar[str] = (
        "As the learned rule, but with weights and thresholds that were fitted to samples of this server's traffic, on "
        "agreement with full depth."
    )

    fit: Annotated[int, Count(meaning="the number of the fit to the traffic whose rule decides")] = 1
    rules: Annotated[
        TrafficRules, OfModel("a rule fitted to this server's traffic, which there is not: calibrate --from-traffic")
    ] = field(kw_only=True, repr=False, compare=False)  # a fit's number says which rule it is, as long as it is kept

    def exit_rule(self) -> ExitRule:
        """Return the rule of the fit."""
        return self.rules.of(self.fit)

    def check(self, num_layers: int) -> None:
        """Raise BadInput for a fit that is not kept."""
        self.exit_rule()

    @classmethod
    def families(cls, model: ModelAssets) -> list[Family]:
        """Return none: what suits the traffic is not found on annotated data."""
        return []
