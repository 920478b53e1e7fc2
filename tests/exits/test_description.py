"""What is told of strategies: every one of them, with values that the catalog takes and bounds that it keeps."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import BadInput
from service.exits.catalog import PolicyCatalog
from service.exits.description import ParameterDescription, StrategyDescription, describe
from service.exits.policies import STRATEGIES
from tests.exits.strategies_ import model_of
from tests.exits.tables_ import random_rule

NUM_LAYERS = 6
CATALOG = PolicyCatalog(
    model_of(NUM_LAYERS, random_rule(NUM_LAYERS)), {"sentee": {"strategy": "sentee", "tau": 0.33}, "vee/js/max": {}}
)
TOLD = {told.strategy: told for told in describe(CATALOG)}
SUPPORTED = [told for told in TOLD.values() if told.lacks is None]
of_every_strategy = pytest.mark.parametrize("told", SUPPORTED, ids=lambda told: told.strategy)


def policy(told: StrategyDescription, **values: Any) -> dict[str, Any]:
    return CATALOG.policy({"strategy": told.strategy, **values}).to_json()


def beyond(parameter: ParameterDescription) -> list[object]:
    """Values that a parameter must not take."""
    values: list[object] = [None, [], {}]
    if parameter.kind in ("number", "integer"):
        values += ["1", True]
        values += [] if parameter.lowest is None else [parameter.lowest - 1]
        values += [] if parameter.highest is None else [parameter.highest + 1]
    if parameter.kind == "integer":
        values += [1.5, *([2] if parameter.step == 2 else [])]
    return values + (["unheard of"] if parameter.kind in ("choice", "flag") else [])


def test_every_strategy_is_told_of_and_those_that_the_model_lacks_something_for_say_what() -> None:
    assert TOLD.keys() == STRATEGIES.keys()
    assert sorted(told.strategy for told in SUPPORTED) == CATALOG.strategies
    assert {name for name, told in TOLD.items() if told.lacks} == {"tokee", "hashee", "de3"}


@of_every_strategy
def test_the_defaults_told_are_those_that_the_catalog_takes(told: StrategyDescription) -> None:
    assert policy(told) == {"strategy": told.strategy, **{one.name: one.default for one in told.parameters}}


@of_every_strategy
def test_the_ends_of_what_is_told_are_taken_and_nothing_beyond(told: StrategyDescription) -> None:
    for one in told.parameters:
        for value in (one.lowest, one.highest, one.useful_highest, *one.choices):
            is_of_variant = any(variant.parameter.name == one.name for variant in told.variants)
            if value is not None and not is_of_variant and value != 1_000_000 and value != 999_999:
                assert policy(told, **{one.name: value})[one.name] == value
        for value in beyond(one):
            with pytest.raises(BadInput, match=one.name):
                STRATEGIES[told.strategy].of_model(CATALOG.model, **{one.name: value})


def test_a_variant_tells_the_range_and_default_beside_certain_values_of_other_parameters() -> None:
    vee = TOLD["vee"]
    taus = {(v.when["measure"], v.when["pooling"]): v.parameter for v in vee.variants if v.parameter.name == "tau"}
    assert (taus["kl", "mean"].lowest, taus["kl", "mean"].highest, taus["kl", "mean"].default) == (None, 0.0, -0.001)
    assert (taus["cosine", "max"].lowest, taus["cosine", "max"].highest) == (0.0, 1.0)
    for (measure, pooling), tau in taus.items():
        made = policy(vee, measure=measure, pooling=pooling)
        assert made["tau"] == tau.default
        assert tau.highest is not None and policy(vee, measure=measure, pooling=pooling, tau=tau.highest)
        with pytest.raises(BadInput, match=f"tau is .*: {measure} pooled by {pooling}"):
            policy(vee, measure=measure, pooling=pooling, tau=tau.highest + 1e-6)


def test_calibrated_defaults_are_told_before_built_in_ones() -> None:
    (tau,) = TOLD["sentee"].parameters
    assert tau.default == 0.33


def test_what_makes_a_difference_depends_on_the_model() -> None:
    for layers in (4, 12):
        told = {one.strategy: one for one in describe(PolicyCatalog(model_of(layers)))}
        assert told["budgeted"].parameters[0].useful_highest == layers
        assert told["pabee"].parameters[0].useful_highest == layers - 1


def test_an_odd_number_is_told_by_its_step() -> None:
    steps = {one.name: one.step for told in TOLD.values() for one in told.parameters if one.kind == "integer"}
    assert steps == {"layer": 1, "patience": 1, "deepest_exit": 1, "window": 2, "fit": 1}
