"""Makes the exit policies that a model supports from JSON and merge patches. Where they are kept is not known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.errors import BadInput
from service.exits.assets import ModelAssets
from service.exits.parameters import Choice
from service.exits.policies import STRATEGIES
from service.exits.policy import ExitPolicy


@dataclass(frozen=True, slots=True)
class PolicyCatalog:
    """Makes the policies of one model.

    model     what the model offers to strategies
    defaults  the calibrated parameters of a strategy, or of one of its measures, by `default_key`
    """

    model: ModelAssets
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def strategies(self) -> list[str]:
        """The names of the strategies that this model supports, sorted."""
        return sorted(name for name, strategy in STRATEGIES.items() if strategy.lacks(self.model) is None)

    def policy(self, parameters: Mapping[str, Any]) -> ExitPolicy:
        """Make a policy from strategy and parameters; parameters that are left out take their defaults.

        Raises BadInput for a strategy that is unknown or needs what the model lacks, and for parameters that it does
        not take.
        """
        values = dict(parameters)
        strategy = values.pop("strategy", None)
        found = STRATEGIES.get(strategy) if isinstance(strategy, str) else None
        if found is not None and (lack := found.lacks(self.model)):
            raise BadInput(f"strategy {strategy} needs {lack}; this model supports {', '.join(self.strategies)}")
        if found is None:
            Choice(meaning="", choices=self.strategies).check("strategy", strategy)
            raise AssertionError("a strategy that is no name of one was taken for one")
        _check_names(found, values)
        return found.of_model(self.model, **{**self.defaults_of(found, values), **values})

    def merge(self, current: ExitPolicy, changes: Mapping[str, Any]) -> ExitPolicy:
        """Apply `changes` to `current` (RFC 7396: null takes a parameter back to its default).

        A strategy that is named starts from its defaults, also the one in force; a measure or pooling that is named
        without a tau takes its default tau. Raises BadInput for a parameter that the strategy lacks or a value outside
        its range.
        """
        merged = {**current.carried_over(changes), **changes}
        values = {name: value for name, value in merged.items() if value is not None}
        changed = self.policy(values)
        _check_names(
            type(changed), {name: value for name, value in changes.items() if name not in ("strategy", *values)}
        )
        return changed

    def defaults_of(self, strategy: type[ExitPolicy], given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the default parameters of a strategy: the calibrated ones, else its own.

        Where a default depends on other parameters, as VEE's tau does on its measure, their values are in `given`.
        """
        built_in = strategy.defaults(given)
        calibrated = self.defaults.get(default_key(strategy.strategy, {**built_in, **given}), {})
        return {**built_in, **{name: value for name, value in calibrated.items() if name != "strategy"}}


def _check_names(strategy: type[ExitPolicy], given: Mapping[str, Any]) -> None:
    """Raise BadInput for parameters that a strategy lacks, also those that are null."""
    known = list(strategy.parameters())
    if unknown := sorted(given.keys() - set(known)):
        name = strategy.strategy
        raise BadInput(f"strategy {name!r} has no parameter {', '.join(unknown)}; it has {known or 'none'}")


def default_key(strategy: str, parameters: Mapping[str, Any]) -> str:
    """Return the name under which calibrated defaults are kept: the strategy, or for VEE also its measure and pooling.

    For example: `learned`, `vee/kl/mean`.
    """
    return "/".join([strategy, *(str(parameters[name]) for name in STRATEGIES[strategy].calibrated_by)])
