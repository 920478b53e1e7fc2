"""From a policy and a JSON merge patch to the next policy. Knows the registry, not where policies are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from service.errors import BadInput
from service.exits.policies import STRATEGIES
from service.exits.policy import ExitPolicy, require_choice


def policy_from_json(data: Mapping[str, Any], num_layers: int) -> ExitPolicy:
    """A policy from strategy and parameters; what is left out takes its default. Raises BadInput."""
    values = dict(data)
    strategy = values.pop("strategy", None)
    require_choice("strategy", strategy, sorted(STRATEGIES))
    policy_type = STRATEGIES[str(strategy)]
    known = [f.name for f in fields(policy_type)]
    if unknown := sorted(values.keys() - set(known)):
        raise BadInput(f"strategy {strategy!r} has no parameter {', '.join(unknown)}; it has {known or 'none'}")
    policy = policy_type(**values)
    policy.check(num_layers)
    return policy


def merge_policy(current: ExitPolicy, changes: Mapping[str, Any], num_layers: int) -> ExitPolicy:
    """`current` with `changes` (RFC 7396: null takes a parameter back to its default).

    Another strategy starts from that strategy's defaults; another measure or pooling without a tau takes the default
    tau. Raises BadInput for a parameter that the strategy lacks or a value outside its range.
    """
    merged = current.to_json()
    switched = changes.get("strategy", current.strategy) != current.strategy
    if switched:
        merged = {}
    elif changes.keys() & {"measure", "pooling"}:
        merged.pop("tau", None)
    merged.update(changes)
    return policy_from_json({name: value for name, value in merged.items() if value is not None}, num_layers)
