"""The learned exit rule's weights: what they make of the features, how they are kept, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.errors import ModelRefused
from service.exits.policies.learned import FEATURES, LARGEST_LOG_WORTH, ExitRule, Learned, features
from tests.exits import naive_
from tests.exits.tables_ import alone, random_readings, random_rule

NUM_WORDS = (4, 1, 3, 2, 6)
RULE = random_rule(5)


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_the_worth_of_going_on_is_the_exponential_of_a_dot_product(num_layers: int) -> None:
    readings = random_readings(NUM_WORDS, num_layers, 3, seed=num_layers, drift=0.1)
    weights, bias = RULE.weights[num_layers - 1], RULE.bias[num_layers - 1]
    tables = zip(*map(naive_.tables_of, readings), strict=True)
    columns = [zip(weights, naive_.features(own), strict=True) for own in tables]
    expected = [math.exp(sum(weight * value for weight, value in own) + bias) for own in columns]
    worth = RULE.worth_of_going_on(readings)
    assert worth.dtype == np.float64 and worth.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("index", range(len(FEATURES)), ids=FEATURES)
def test_more_weight_on_a_feature_is_worth_more_where_the_feature_is_large(index: int) -> None:
    readings = random_readings(NUM_WORDS, 2, 3, seed=2, drift=0.1)
    plain = RULE.worth_of_going_on(readings)
    heavier = [list(row) for row in RULE.weights]
    heavier[1][index] += 0.5
    more = replace(RULE, weights=tuple(map(tuple, heavier))).worth_of_going_on(readings)
    assert np.log(more / plain) == pytest.approx([0.5 * row[index] for row in features(readings)])


def test_every_layer_has_its_own_bias() -> None:
    readings = random_readings(NUM_WORDS, 4, 3, seed=0)
    for layer in range(1, 5):
        bias = tuple(value + 0.25 * (layer == index) for index, value in enumerate(RULE.bias, 1))
        more = [replace(RULE, bias=bias).worth_of_going_on(readings[:m]) for m in range(1, 5)]
        changed = [not np.array_equal(w, RULE.worth_of_going_on(readings[:m])) for m, w in enumerate(more, 1)]
        assert changed == [m == layer for m in range(1, 5)]


@pytest.mark.parametrize("bias", [-1e9, 1e9])
def test_the_worth_stays_above_zero_and_below_the_largest_tau(bias: float) -> None:
    rule = ExitRule(((0.0,) * len(FEATURES),), (bias,))
    (worth,) = rule.worth_of_going_on(random_readings([3], 1, 3, seed=0)).tolist()
    assert worth == pytest.approx(math.exp(math.copysign(LARGEST_LOG_WORTH, bias)))
    assert Learned(tau=0.0, rule=rule).decide([(worth,)], 2) is None
    assert Learned(tau=1_000.0, rule=rule).decide([(worth,)], 2) == "learned"


def test_the_worth_does_not_depend_on_batch_mates() -> None:
    for seed in range(20):
        readings = random_readings(NUM_WORDS, 3, 4, seed, drift=0.1)
        apart = [RULE.worth_of_going_on(own) for own in alone(readings)]
        assert RULE.worth_of_going_on(readings).tolist() == np.concatenate(apart).tolist()


def test_a_rule_survives_the_way_to_json_and_back() -> None:
    back = ExitRule.from_json(json.loads(json.dumps(RULE.to_json())), 5)
    assert (back.weights, back.bias, back.num_layers) == (RULE.weights, RULE.bias, 5)


def shorter(rows: list[Any]) -> None:
    rows.pop()


REFUSED: dict[str, Callable[[dict[str, Any]], object]] = {
    "other features": lambda rule: rule["features"].reverse(),
    "a feature less": lambda rule: shorter(rule["features"]),
    "a layer less": lambda rule: [shorter(rule["weights"]), shorter(rule["bias"])],
    "a bias less": lambda rule: shorter(rule["bias"]),
    "a layer's weights less": lambda rule: shorter(rule["weights"]),
    "a weight less": lambda rule: shorter(rule["weights"][2]),
    "a weight more": lambda rule: rule["weights"][0].append(0.0),
    "no features": lambda rule: rule.pop("features"),
    "no weights": lambda rule: rule.pop("weights"),
    "no bias": lambda rule: rule.pop("bias"),
    "a weight that is no number": lambda rule: rule["weights"][1].__setitem__(0, "heavy"),
    "a weight that is null": lambda rule: rule["weights"][1].__setitem__(0, None),
    "weights that are no rows": lambda rule: rule.update(weights=3),
}


@pytest.mark.parametrize("spoil", REFUSED.values(), ids=REFUSED.keys())
def test_a_rule_that_does_not_fit_is_refused(spoil: Callable[[dict[str, Any]], object]) -> None:
    rule = RULE.to_json()
    spoil(rule)
    with pytest.raises(ModelRefused, match=r"learned exit rule .*calibrate the model again"):
        ExitRule.from_json(rule, 5)


@pytest.mark.parametrize("num_layers", [4, 6])
def test_a_rule_of_another_depth_is_refused_with_both_depths(num_layers: int) -> None:
    with pytest.raises(ModelRefused, match=rf"for 5 layers; expected .* for {num_layers}"):
        ExitRule.from_json(RULE.to_json(), num_layers)
