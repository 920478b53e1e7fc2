"""The exit policies that one model can have: from JSON and merge patches to policies. Knows not where they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.errors import BadInput
from service.exits.hashing import HashedLayers
from service.exits.policies import STRATEGIES
from service.exits.policies.de3 import De3
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.hashee import HashEE
from service.exits.policies.learned import Learned
from service.exits.policies.tokee import Tokee
from service.exits.policy import ExitPolicy, require_choice
from service.exits.prototypes import Prototypes
from service.exits.rule import ExitRule

_OF_ONE_EXIT = (HashEE.strategy, FullDepth.strategy)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a model's training prepared it for, beside the strategies that every model has.

    halting     words that halt one by one (recipe field halting)
    layers      what a hash says of words (recipe field hash): such a model has one exit
    prototypes  of its exits (recipe field distance_weight)
    """

    halting: bool = False
    layers: HashedLayers | None = None
    prototypes: Prototypes | None = None


@dataclass(frozen=True, slots=True)
class PolicyCatalog:
    """What depends on the model: its depth, its calibrated defaults, its learned rule if it has one, its training.

    defaults  by `default_key`: the calibrated parameters of a strategy, or of one of its measures
    """

    num_layers: int
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rule: ExitRule | None = None
    trained: Trained = field(default_factory=Trained)

    @property
    def strategies(self) -> list[str]:
        """Names of the strategies that this model supports."""
        return sorted(strategy for strategy in STRATEGIES if self._lacks(strategy) is None)

    def _lacks(self, strategy: str) -> str | None:
        """What a strategy needs that this model has not; None for one that the model supports."""
        trained = self.trained
        if trained.layers is not None and strategy not in _OF_ONE_EXIT:
            return "an exit after every layer, and this model, trained under a hash, has one for all"
        if strategy == Learned.strategy and self.rule is None:
            return "a rule trained for this model, which it has not: calibrate it first"
        if strategy == Tokee.strategy and not trained.halting:
            return "a model trained with words that halt (recipe field halting), which this one was not"
        if strategy == HashEE.strategy and trained.layers is None:
            return "a model trained under a hash (recipe field hash), which this one was not"
        if strategy == De3.strategy and trained.prototypes is None:
            return "a model trained with prototypes (recipe field distance_weight), which this one was not"
        return None

    def policy(self, parameters: Mapping[str, Any]) -> ExitPolicy:
        """A policy from strategy and parameters; what is left out takes its default. Raises BadInput."""
        values = dict(parameters)
        strategy = values.pop("strategy", None)
        if isinstance(strategy, str) and strategy in STRATEGIES and (lack := self._lacks(strategy)):
            raise BadInput(f"strategy {strategy} needs {lack}; this model supports {', '.join(self.strategies)}")
        require_choice("strategy", strategy, self.strategies)
        policy_type = STRATEGIES[str(strategy)]
        known = policy_type.parameters()
        if unknown := sorted(values.keys() - set(known)):
            raise BadInput(f"strategy {strategy!r} has no parameter {', '.join(unknown)}; it has {known or 'none'}")
        of_model: dict[type[ExitPolicy], tuple[str, object]] = {
            Learned: ("rule", self.rule),
            HashEE: ("layers", self.trained.layers),
            De3: ("prototypes", self.trained.prototypes),
        }
        if policy_type in of_model:
            name, value = of_model[policy_type]
            values[name] = value
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
