"""The exit policies that one model can have: from JSON and merge patches to policies. Knows not where they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.errors import BadInput
from service.exits.policies import STRATEGIES
from service.exits.policies.learned import Learned
from service.exits.policy import ExitPolicy, require_choice
from service.exits.rule import ExitRule


@dataclass(frozen=True, slots=True)
class PolicyCatalog:
    """What depends on the model: its depth, its calibrated defaults, its learned rule if it has one.

    defaults  by `default_key`: the calibrated parameters of a strategy, or of one of its measures
    """

    num_layers: int
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rule: ExitRule | None = None

    @property
    def strategies(self) -> list[str]:
        """Names of the strategies that this model supports."""
        return sorted(STRATEGIES.keys() - ({Learned.strategy} if self.rule is None else set()))

    def policy(self, parameters: Mapping[str, Any]) -> ExitPolicy:
        """A policy from strategy and parameters; what is left out takes its default. Raises BadInput."""
        values = dict(parameters)
        strategy = values.pop("strategy", None)
        if strategy == Learned.strategy and self.rule is None:
            raise BadInput("strategy learned needs a rule trained for this model, which it has not: calibrate it first")
        require_choice("strategy", strategy, self.strategies)
        policy_type = STRATEGIES[str(strategy)]
        known = policy_type.parameters()
        if unknown := sorted(values.keys() - set(known)):
            raise BadInput(f"strategy {strategy!r} has no parameter {', '.join(unknown)}; it has {known or 'none'}")
        if policy_type is Learned:
            values["rule"] = self.rule
        policy = policy_type(**{**self._defaults(policy_type, values), **values})
        policy.check(self.num_layers)
        return policy

    def merge(self, current: ExitPolicy, changes: Mapping[str, Any]) -> ExitPolicy:
        """`current` with `changes` (RFC 7396: null takes a parameter back to its default).

        Another strategy starts from that strategy's defaults; another measure or pooling without a tau takes its
        default tau. Raises BadInput for a parameter that the strategy lacks or a value outside its range.
        """
        merged = {**current.carried_over(changes), **changes}
        return self.policy({name: value for name, value in merged.items() if value is not None})

    def _defaults(self, policy_type: type[ExitPolicy], given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Calibrated parameters where there are some, else the strategy's own."""
        built_in = policy_type.defaults(given)
        calibrated = self.defaults.get(default_key(policy_type.strategy, {**built_in, **given}), {})
        return {**built_in, **{name: value for name, value in calibrated.items() if name != "strategy"}}


def default_key(strategy: str, parameters: Mapping[str, Any]) -> str:
    """Under which name the calibrated defaults of a strategy, or of one of its measures, are kept: `vee/kl/mean`."""
    return "/".join([strategy, *(str(parameters[name]) for name in STRATEGIES[strategy].calibrated_by)])
