"""Goals to operating points, what a calibration knows, and how it is kept."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadInput, ModelRefused
from service.exits.operating_points import GOALS, PRESETS, Calibration, OperatingPoint, catalog_of
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from tests.exits.calibrations_ import (
    ACCURATE,
    BALANCED,
    CALIBRATION,
    FAST,
    NUM_LAYERS,
    SLOW_TO_DECIDE,
    VEE_BY_MEAN_KL,
    point,
)
from tests.exits.strategies_ import model_of
from tests.exits.tables_ import seeded

MODEL = model_of(NUM_LAYERS)

NUMBERS = ("speedup", "max_f1_loss", "average_exit_layer")


# goals


@pytest.mark.parametrize(
    ("goal", "wish", "expected"),
    [
        ("speedup", 1, ACCURATE),
        ("speedup", 1.512, ACCURATE),
        ("speedup", 1.6, BALANCED),
        ("speedup", 2.2, FAST),
        ("speedup", 2.847, FAST),
        ("max_f1_loss", -0.127, ACCURATE),
        ("max_f1_loss", 0.6, ACCURATE),  # not the point that loses just so much: it is slower
        ("max_f1_loss", 1, BALANCED),
        ("max_f1_loss", 4.0, FAST),
        ("max_f1_loss", 10**400, FAST),
        ("average_exit_layer", 1.312, FAST),
        ("average_exit_layer", 1.9, BALANCED),
        ("average_exit_layer", 2.1, SLOW_TO_DECIDE),
        ("average_exit_layer", 4, ACCURATE),
        ("preset", "fast", FAST),
        ("preset", "balanced", BALANCED),
        ("preset", "accurate", ACCURATE),
    ],
)
def test_a_goal_takes_the_best_point_that_reaches_it(goal: str, wish: object, expected: ExitPolicy) -> None:
    assert CALIBRATION.choose(goal, wish).parameters == expected.to_json()


def test_equal_points_are_told_apart_by_their_other_figure() -> None:
    slow, fast = point(Vee(), 80.0, 2.5, 1.5), point(FullDepth(), 80.0, 2.25, 2.0)
    accurate = point(Vee(patience=2), 81.0, 2.25, 2.0)
    for points in ((slow, fast), (fast, slow)):
        assert Calibration(points).choose("speedup", 1) is Calibration(points).choose("average_exit_layer", 3) is fast
    for points in ((accurate, fast), (fast, accurate)):
        assert Calibration(points).choose("max_f1_loss", 9) is accurate


# the ladder


def speeds(*figures: tuple[float, float], max_f1_loss: float) -> list[float]:
    """Of the ladder over points of these F1 and speeds."""
    points = tuple(point(Vee(patience=number), f1, 2.0, speed) for number, (f1, speed) in enumerate(figures, 1))
    return [level.speedup_latency for level in Calibration(points).ladder(max_f1_loss)]


def test_a_ladder_leads_from_the_most_accurate_point_to_the_fastest_that_the_loss_allows() -> None:
    assert [level.parameters for level in CALIBRATION.ladder(1.0)] == [ACCURATE.to_json(), BALANCED.to_json()]
    assert [level.parameters for level in CALIBRATION.ladder(100)] == [
        policy.to_json() for policy in (ACCURATE, BALANCED, FAST)
    ]
    assert [level.parameters for level in CALIBRATION.ladder(0)] == [ACCURATE.to_json()]


def test_full_depth_is_the_first_level_where_nothing_is_as_accurate() -> None:
    points = (point(Vee(), 82.0, 2.0, 2.0), point(FullDepth(), 83.0, 4.0, 1.0))
    assert Calibration(points).ladder(2)[0].parameters == FullDepth().to_json()


def test_a_point_that_is_no_faster_is_no_level() -> None:
    assert speeds((83, 2.0), (82, 1.5), (81, 2.0), (80, 3.0), max_f1_loss=9) == [2.0, 3.0]


def test_small_steps_are_thinned_and_the_fastest_point_stays() -> None:
    tenths = [(83 - step / 10, 1 + step / 20) for step in range(11)]
    assert speeds(*tenths, max_f1_loss=9) == pytest.approx([1.0, 1.1, 1.25, 1.4, 1.5])
    assert speeds((83, 1.0), (82, 1.01), max_f1_loss=9) == [1.0, 1.01]


def test_no_ladder_for_a_loss_that_no_point_keeps() -> None:
    with pytest.raises(BadInput, match=r"max_f1_loss is -1; this model's operating points reach -0\.12 or more"):
        CALIBRATION.ladder(-1)


figures = st.floats(-5, 95).map(lambda value: round(value, 3))
fronts = st.lists(
    st.builds(
        lambda f1, layer, speed: point(Vee(), f1, 1 + layer / 32, 1 + speed / 32), figures, *[figures.map(abs)] * 2
    ),
    min_size=1,
    max_size=6,
).map(lambda points: Calibration(tuple(points)))


def fits(of: OperatingPoint, goal: str, wish: float) -> bool:
    if goal == "speedup":
        return of.speedup_latency >= wish
    return (of.f1_loss if goal == "max_f1_loss" else of.average_exit_layer) <= wish


@pytest.mark.parametrize("goal", NUMBERS)
@seeded
@given(calibration=fronts, wish=st.floats(-5, 100))
def test_no_other_point_that_fits_is_better_and_what_is_refused_fits_none(
    goal: str, calibration: Calibration, wish: float
) -> None:
    fitting = [one for one in calibration.points if fits(one, goal, wish)]
    if not fitting or (goal == "speedup" and wish < 1):
        with pytest.raises(BadInput, match=goal):
            calibration.choose(goal, wish)
        return
    value = (lambda one: one.speedup_latency) if goal == "max_f1_loss" else (lambda one: one.f1)
    chosen = calibration.choose(goal, wish)
    assert chosen in fitting and value(chosen) == max(map(value, fitting))


def refusal(goal: str, wish: object, calibration: Calibration = CALIBRATION) -> str:
    with pytest.raises(BadInput) as error:
        calibration.choose(goal, wish)
    return str(error.value)


@pytest.mark.parametrize(
    ("goal", "wish", "reach"),
    [
        ("speedup", 2.848, "1 to 2.84 times full depth's measured speed"),
        ("speedup", 0.99, "1 to 2.84 times"),
        ("speedup", 10**400, "1 to 2.84 times"),
        ("max_f1_loss", -0.128, "-0.12 or more F1 x 100 below full depth"),
        ("average_exit_layer", 1.311, "1.32 or more layers per sequence"),
        ("average_exit_layer", -math.inf, "1.32 or more"),
    ],
)
def test_what_is_out_of_reach_is_told_what_is_not(goal: str, wish: object, reach: str) -> None:
    assert f"{goal} is {reprlib.repr(wish)}; this model's operating points reach {reach}" in refusal(goal, wish)


@pytest.mark.parametrize("goal", NUMBERS)
@seeded
@given(calibration=fronts)
def test_the_range_that_a_refusal_names_can_be_had(goal: str, calibration: Calibration) -> None:
    named = re.search(r"reach (\S+) (?:to (\S+)|or more) ", refusal(goal, None, calibration))
    assert named is not None
    for bound in filter(None, named.groups()):
        assert calibration.choose(goal, float(bound)) in calibration.points


@pytest.mark.parametrize("wish", [True, False, "2", None, [2], {}, math.nan, {"value": 2}], ids=repr)
@pytest.mark.parametrize("goal", NUMBERS)
def test_a_wish_that_is_no_number_is_refused(goal: str, wish: object) -> None:
    assert refusal(goal, wish).startswith(f"{goal} is {wish!r}; ")


@pytest.mark.parametrize("wish", ["slow", "", "Fast", None, True, 2, ["fast"], {"preset": "fast"}], ids=repr)
def test_an_unknown_preset_is_told_which_there_are(wish: object) -> None:
    assert refusal("preset", wish) == f"preset is {wish!r}; expected one of {list(PRESETS)}"


@pytest.mark.parametrize("goal", ["preset", "speedup"])
def test_a_wish_is_told_in_few_words_however_deep_or_large_it_is(goal: str) -> None:
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    assert len(refusal(goal, deep)) < 200 and len(refusal(goal, [1] * 1_000_000)) < 200


def test_there_is_a_goal_for_every_figure_and_for_presets() -> None:
    assert GOALS.keys() == {*NUMBERS, "preset"}


# what it knows of policies


def test_what_is_expected_of_a_policy_is_what_was_measured_for_exactly_this_one() -> None:
    for measured in (*CALIBRATION.points, *CALIBRATION.others):
        expected = CALIBRATION.expected(catalog_of(CALIBRATION.to_json(), MODEL).policy(measured.parameters))
        assert expected == measured.expected() and expected["f1"] == measured.f1
        assert not expected.keys() & {"parameters", "preset"}
    assert CALIBRATION.expected(replace(FAST, tau=0.41)) is None
    assert CALIBRATION.expected(replace(VEE_BY_MEAN_KL, ensemble=True)) is None


def test_only_a_policy_that_is_a_preset_has_its_name() -> None:
    policies = (FAST, BALANCED, ACCURATE, SLOW_TO_DECIDE, VEE_BY_MEAN_KL, replace(FAST, tau=0.41))
    assert [CALIBRATION.preset_of(policy) for policy in policies] == ["fast", "balanced", "accurate", None, None, None]


def test_defaults_are_those_of_the_others_and_of_the_balanced_preset() -> None:
    defaults = CALIBRATION.catalog(MODEL).defaults
    assert defaults["gated_vote"] == BALANCED.to_json() and defaults["vee/kl/mean"] == VEE_BY_MEAN_KL.to_json()
    assert not defaults.keys() & {"sentee", "learned", "vee/js/max"}  # extremes of the front are no defaults


def test_the_balanced_preset_is_its_strategys_default_whatever_else_was_measured() -> None:
    other = replace(CALIBRATION.points[1], parameters={**BALANCED.to_json(), "tau": 0.9}, preset=None)
    calibration = replace(CALIBRATION, others=(*CALIBRATION.others, other))
    assert calibration.catalog(MODEL).policy({"strategy": "gated_vote"}) == BALANCED


# how it is kept


def test_a_calibration_survives_the_way_to_json_and_back() -> None:
    stored = json.loads(json.dumps(CALIBRATION.to_json()))
    back = Calibration.from_json(stored, MODEL)
    assert back.to_json() == CALIBRATION.to_json()
    assert (back.points, back.others, back.provenance) == (
        CALIBRATION.points,
        CALIBRATION.others,
        CALIBRATION.provenance,
    )


def test_a_point_measured_before_a_parameter_existed_is_still_expected_of_its_policy() -> None:
    document = json.loads(json.dumps(CALIBRATION.to_json()))
    for measured in document["points"]:
        measured["parameters"].pop("deepest_exit", None)
    assert Calibration.from_json(document, model_of(4)).expected(SLOW_TO_DECIDE) == CALIBRATION.expected(SLOW_TO_DECIDE)
    assert CALIBRATION.expected(SLOW_TO_DECIDE) is not None


def test_a_point_on_the_wire_has_a_preset_only_if_it_is_one() -> None:
    first, *_, other = (one.to_json() for one in (*CALIBRATION.points, *CALIBRATION.others))
    assert first["preset"] == "fast" and "preset" not in other
    assert first["parameters"] == {"strategy": "sentee", "tau": 0.4} and first["f1_interval"] == (78.0, 80.0)


def test_a_model_without_operating_points_has_the_built_in_defaults() -> None:
    catalog = catalog_of(None, MODEL)
    assert (catalog.model, catalog.defaults) == (MODEL, {})
    assert catalog_of(CALIBRATION.to_json(), MODEL).defaults == CALIBRATION.catalog(MODEL).defaults


def set_parameters(index: int, **parameters: object) -> Callable[[dict[str, Any]], object]:
    return lambda stored: stored["points"][index]["parameters"].update(parameters)


REFUSED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no points": lambda stored: stored.pop("points"),
    "no others": lambda stored: stored.pop("others"),
    "no rule": lambda stored: stored.pop("rule"),
    "no provenance": lambda stored: stored.pop("provenance"),
    "a point without an F1": lambda stored: stored["points"][0].pop("f1"),
    "a point with a field too many": lambda stored: stored["others"][0].update(colour="red"),
    "a point that is a list": lambda stored: stored["points"].append([1, 2]),
    "a point that is null": lambda stored: stored["points"].append(None),
    "points that are null": lambda stored: stored.update(points=None),
    "an unknown strategy": set_parameters(0, strategy="eev"),
    "an unknown parameter": set_parameters(0, taw=1),
    "a tau out of range": set_parameters(0, tau=7),
    "a layer that the model has not": lambda stored: stored["others"][2]["parameters"].update(layer=NUM_LAYERS + 1),
    "a learned point without a rule": lambda stored: stored.update(rule=None),
    "an empty front": lambda stored: stored["points"].clear(),
    "a missing preset": lambda stored: stored["points"].pop(0),
    "a preset that is a list": lambda stored: stored["points"][2].update(preset=["fast"]),
    "an interval of one end": lambda stored: stored["points"][0].update(f1_interval=[80.0]),
    "an interval that is a number": lambda stored: stored["points"][0].update(f1_interval=80.0),
    "a figure that is an interval": lambda stored: stored["points"][0].update(f1=[79.0, 80.0]),
    "a figure that is a text": lambda stored: stored["points"][0].update(speedup_latency="fast"),
    "a preset that there is not": lambda stored: stored["points"][2].update(preset="fastest"),
}


@pytest.mark.parametrize("spoil", REFUSED.values(), ids=REFUSED.keys())
def test_operating_points_that_do_not_fit_are_refused(spoil: Callable[[dict[str, Any]], object]) -> None:
    stored = json.loads(json.dumps(CALIBRATION.to_json()))
    spoil(stored)
    with pytest.raises(ModelRefused, match=r"operating points .*calibrate"):
        Calibration.from_json(stored, MODEL)


@pytest.mark.parametrize("rule", [[], {"features": []}, "heavy"])
def test_a_rule_that_cannot_be_read_is_refused(rule: object) -> None:
    with pytest.raises(ModelRefused, match="learned exit rule"):
        Calibration.from_json(CALIBRATION.to_json() | {"rule": rule}, MODEL)


def test_operating_points_of_a_deeper_model_are_refused() -> None:
    with pytest.raises(ModelRefused, match=r"for 4 layers; expected .* for 6"):
        Calibration.from_json(CALIBRATION.to_json(), model_of(6))
