"""Describes the exit strategies in plain values, as a model supports them, for GET /exit-policy/strategies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.exits.catalog import PolicyCatalog
from service.exits.declaration import Display
from service.exits.parameters import HIGHEST_INT, Choice, Count, Kind, Number, Parameter, Scale
from service.exits.policies import STRATEGIES
from service.exits.policy import ExitPolicy


@dataclass(frozen=True, slots=True)
class ParameterDescription:
    """Describes one parameter of a strategy.

    default          its value if it is left out: the calibrated one where there is one, else the strategy's own
    lowest, highest  the bounds of a number or an integer; null where there is no bound
    step             the distance between two values of an integer, from the lowest on; null for other kinds
    useful_highest   the highest integer that makes a difference on this model; null where that is not known
    choices          the names of which a choice is one; empty for other kinds
    scale            how a slider or a threshold is drawn; null for a parameter that is not drawn
    ends             what the two ends of a slider do, lowest value first; null for a threshold or without a slider
    """

    name: str
    kind: Kind
    meaning: str
    unit: str
    default: float | int | bool | str
    lowest: int | float | None
    highest: int | float | None
    step: int | None
    useful_highest: int | None
    choices: tuple[str, ...]
    scale: Scale | None
    ends: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Variant:
    """Describes a parameter's range and default for certain values of other parameters.

    when       the values of the other parameters, by name
    parameter  the parameter's description for these values
    """

    when: Mapping[str, str]
    parameter: ParameterDescription


@dataclass(frozen=True, slots=True)
class StrategyDescription:
    """Describes one exit strategy.

    lacks          what the strategy needs that this model does not have; null where the model supports it
    calibrated_by  parameters that change what tau means: where one gets another value, tau takes its default again,
                   and so may those named after it
    variants       parameters whose range and default depend on others
    """

    strategy: str
    title: str
    origin: str
    meaning: str
    lacks: str | None
    exit_reasons: tuple[str, ...]
    is_replayable: bool
    calibrated_by: tuple[str, ...]
    display: Display
    parameters: tuple[ParameterDescription, ...]
    variants: tuple[Variant, ...]


def describe(catalog: PolicyCatalog) -> list[StrategyDescription]:
    """Describe every strategy, also those that the model does not support."""
    return [_describe(strategy, catalog) for strategy in STRATEGIES.values()]


def _describe(strategy: type[ExitPolicy], catalog: PolicyCatalog) -> StrategyDescription:
    defaults = catalog.defaults_of(strategy, {})
    return StrategyDescription(
        strategy.strategy,
        strategy.title,
        strategy.origin,
        strategy.meaning,
        strategy.lacks(catalog.model),
        strategy.reasons,
        strategy.is_replayable,
        strategy.calibrated_by,
        strategy.display,
        tuple(
            _parameter(name, parameter, defaults[name], catalog) for name, parameter in strategy.parameters().items()
        ),
        tuple(variant for policy in strategy.variants() for variant in _variants(policy, catalog)),
    )


def _variants(policy: ExitPolicy, catalog: PolicyCatalog) -> list[Variant]:
    """Describe the parameters whose range or default differ for this policy from what its strategy declares."""
    when = {name: getattr(policy, name) for name in policy.calibrated_by}
    defaults = catalog.defaults_of(type(policy), when)
    own = {name: policy.parameter(name) for name, declared in policy.parameters().items() if name not in when}
    return [
        Variant(when, _parameter(name, parameter, defaults[name], catalog))
        for name, parameter in own.items()
        if parameter != policy.parameters()[name]
    ]


def _parameter(name: str, parameter: Parameter, default: Any, catalog: PolicyCatalog) -> ParameterDescription:
    lowest: int | float | None = None
    highest: int | float | None = None
    step: int | None = None
    useful: int | None = None
    if isinstance(parameter, Number):
        lowest, highest = (None if math.isinf(bound) else bound for bound in (parameter.lowest, parameter.highest))
    elif isinstance(parameter, Count):
        lowest, highest, step = parameter.lowest, HIGHEST_INT, 2 if parameter.is_odd else 1
        useful = None if parameter.useful is None else parameter.useful(catalog.model)
    return ParameterDescription(
        name,
        parameter.kind,
        parameter.meaning,
        parameter.unit,
        default,
        lowest,
        highest,
        step,
        useful,
        tuple(parameter.choices) if isinstance(parameter, Choice) else (),
        parameter.scale if isinstance(parameter, Number) else None,
        parameter.ends,
    )
