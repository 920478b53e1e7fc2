"""From JSON to a policy: what is refused, what it is told, what a merge patch keeps and resets."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from service.errors import BadInput
from service.exits.merge import merge_policy, policy_from_json
from service.exits.policies import STRATEGIES
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy

NUM_LAYERS = 6
LIVE = Vee(tau=-0.02, patience=3)
NOT_A_TAU = [1e-9, 1, float("nan"), float("inf"), float("-inf"), -(10**400), True, False, "-0.1", [-0.1], {}]
NOT_A_PATIENCE = [0, -1, 1.5, 2.0, True, "1", [1], float("nan"), 10**400]


def merge(changes: dict[str, Any], current: ExitPolicy = LIVE) -> ExitPolicy:
    return merge_policy(current, changes, NUM_LAYERS)


def refusal(changes: dict[str, Any], current: ExitPolicy = LIVE) -> str:
    """What the caller of a change that cannot be is told."""
    with pytest.raises(BadInput) as error:
        merge(changes, current)
    return str(error.value)


def test_what_is_not_mentioned_stays() -> None:
    assert merge({"patience": 1}) == Vee(tau=-0.02, patience=1)
    assert merge({"tau": -0.5}) == Vee(tau=-0.5, patience=3)
    assert merge({}) == LIVE


def test_null_takes_a_parameter_back_to_its_default() -> None:
    assert merge({"tau": None}) == Vee(patience=3)
    assert merge({"tau": None, "patience": None}) == Vee()


def test_another_strategy_starts_from_its_own_defaults() -> None:
    assert merge({"strategy": "budgeted"}) == Budgeted()
    assert merge({"strategy": "budgeted", "layer": 5}) == Budgeted(5)
    assert merge({"strategy": "vee"}, FullDepth()) == Vee()
    assert merge({"strategy": "vee", "patience": 2}, Budgeted(1)) == Vee(patience=2)


def test_naming_the_strategy_in_force_changes_nothing_else() -> None:
    assert merge({"strategy": "vee", "patience": 1}) == Vee(tau=-0.02, patience=1)


@pytest.mark.parametrize("changes", [{"measure": "kl"}, {"pooling": "mean"}, {"measure": None}])
def test_a_measure_or_pooling_without_a_tau_takes_the_default_tau(changes: dict[str, Any]) -> None:
    assert merge(changes) == Vee(patience=3)


def test_a_measure_with_a_tau_keeps_that_tau() -> None:
    assert merge({"measure": "kl", "tau": -0.3}) == Vee(tau=-0.3, patience=3)


@pytest.mark.parametrize("strategy", ["eev", "", 3, None, ["vee"], {}])
def test_an_unknown_strategy_is_told_which_there_are(strategy: object) -> None:
    message = refusal({"strategy": strategy})
    assert all(name in message for name in STRATEGIES)


def test_an_unknown_parameter_is_told_which_the_strategy_has() -> None:
    message = refusal({"taw": -0.1})
    assert "taw" in message and "['measure', 'pooling', 'tau', 'patience']" in message


def test_a_parameter_of_another_strategy_is_refused() -> None:
    assert "'budgeted' has no parameter tau; it has ['layer']" in refusal({"strategy": "budgeted", "tau": -0.1})
    assert "'full_depth' has no parameter layer; it has none" in refusal({"layer": 2}, FullDepth())
    assert "'vee' has no parameter layer" in refusal({"layer": 2})


@pytest.mark.parametrize("tau", NOT_A_TAU, ids=lambda tau: f"{tau!r:.12}")
def test_a_tau_outside_the_range_of_its_measure_is_told_the_range(tau: object) -> None:
    assert re.search(r"tau is .*\[-inf, 0\.0\]", refusal({"tau": tau}))


@pytest.mark.parametrize("patience", NOT_A_PATIENCE, ids=lambda patience: f"{patience!r:.12}")
def test_a_patience_that_is_no_positive_integer_is_told_so(patience: object) -> None:
    assert f"patience is {patience!r}; expected an integer" in refusal({"patience": patience})


@pytest.mark.parametrize("layer", [0, 2.0, True, "3", NUM_LAYERS + 1])
def test_a_layer_that_does_not_exist_is_refused(layer: object) -> None:
    assert f"layer is {layer!r}" in refusal({"strategy": "budgeted", "layer": layer})


@pytest.mark.parametrize("name", ["measure", "pooling"])
@pytest.mark.parametrize("value", ["cosin", 1, ["kl"], True])
def test_an_unknown_measure_or_pooling_is_told_which_there_are(name: str, value: object) -> None:
    assert re.search(rf"{name} is .*; expected one of \['", refusal({name: value}))


@pytest.mark.parametrize("policy", [LIVE, Vee(tau=-1), FullDepth(), Budgeted(2)])
def test_a_policy_survives_the_way_to_json_and_back(policy: ExitPolicy) -> None:
    assert policy_from_json(json.loads(json.dumps(policy.to_json())), NUM_LAYERS) == policy


def test_a_policy_without_a_strategy_is_refused() -> None:
    with pytest.raises(BadInput, match="strategy is None; expected one of"):
        policy_from_json({"tau": -0.1}, NUM_LAYERS)
