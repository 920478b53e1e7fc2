"""Calibration: a front, presets within their limits, and figures that a replay gives again. Time is made up here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from service.errors import DataRefused, ModelRefused
from service.evaluation import calibrate as module
from service.evaluation import fit_rule
from service.evaluation.bootstrap import Bootstrap, interval
from service.evaluation.calibrate import MAX_F1_LOSS, calibrate
from service.evaluation.fit_rule import cross_fitted_evidence
from service.evaluation.replay import Replayer
from service.evaluation.sweep import Outcome, cheapest, families, front, run
from service.evaluation.tables import format_operating_points
from service.exits.operating_points import PRESETS, Calibration, OperatingPoint
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.tokee import Tokee
from service.spans.score import Key
from tests.evaluation.traces_ import LayerMeter, drifting_trace, made_up_replay
from tests.exits.strategies_ import model_of

NUM_LAYERS = 4
TRACE = drifting_trace(60, drift=0.05)
REPLAYER = Replayer(TRACE)
METER = LayerMeter(NUM_LAYERS)


@pytest.fixture(scope="module", autouse=True)
def _few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_rule, "STEPS", 100)
        yield


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(TRACE, METER, {"device": "made up"})


def replayed(point: OperatingPoint, calibration: Calibration) -> Outcome:
    policy = calibration.catalog(model_of(NUM_LAYERS)).policy(point.parameters)
    return run(policy, REPLAYER, METER)


def test_a_calibration_survives_json(calibration: Calibration) -> None:
    document = json.loads(json.dumps(calibration.to_json()))
    again = Calibration.from_json(document, model_of(NUM_LAYERS))
    assert (again.points, again.others) == (calibration.points, calibration.others)
    assert again.to_json() == calibration.to_json()


def test_the_front_is_of_the_learned_rule_and_full_depth_cheapest_first(calibration: Calibration) -> None:
    strategies = {point.parameters["strategy"] for point in calibration.points}
    assert {"learned"} <= strategies <= {"learned", "budgeted", "full_depth"}
    speedups = [point.speedup_latency for point in calibration.points]
    assert speedups == sorted(speedups, reverse=True) and len(speedups) > 5


def test_no_point_of_the_front_is_beaten_in_both_f1_and_time(calibration: Calibration) -> None:
    assert all(cheap.f1 <= dear.f1 for cheap, dear in pairwise(calibration.points))  # equal only when rounded


def test_neighbours_on_the_front_differ_in_time_unless_one_is_a_preset(calibration: Calibration) -> None:
    for cheap, dear in pairwise(calibration.points):
        assert dear.preset or cheap.speedup_latency >= 1.029 * dear.speedup_latency


def test_every_preset_is_on_the_front_once_in_the_order_of_its_limit(calibration: Calibration) -> None:
    assert [point.preset for point in calibration.points if point.preset] == list(reversed(PRESETS))


def test_a_preset_loses_no_more_than_its_limit_and_nothing_cheaper_on_the_front_does_so_well(
    calibration: Calibration,
) -> None:
    taken: list[OperatingPoint] = []
    for point in calibration.points:
        limits = [MAX_F1_LOSS[preset] for preset in PRESETS if point.preset == preset]
        assert all(point.f1_loss <= limit for limit in limits)
        cheaper = [other for other in taken if not other.preset]
        assert not any(other.f1_loss < limit - 0.005 for other in cheaper for limit in limits)
        taken.append(point)


def test_every_points_figures_are_those_of_a_replay_of_its_parameters(calibration: Calibration) -> None:
    full, bootstrap = run(FullDepth(), REPLAYER, METER), Bootstrap(len(TRACE.texts))
    points = [*calibration.points, *calibration.others]
    checked = [point for point in points if point.parameters["strategy"] != "learned"]  # judged by cross-fitting
    assert len(checked) > 20
    for point in checked:
        found = replayed(point, calibration)
        draws = bootstrap.f1(found.replay)
        assert point.f1 == round(found.f1, 2)
        assert point.f1_loss == round(full.f1 - found.f1, 2)
        assert point.f1_interval == pytest.approx(interval(draws), abs=0.0051)
        assert point.f1_loss_interval == pytest.approx(interval(bootstrap.f1(full.replay) - draws), abs=0.0051)
        assert point.average_exit_layer == round(found.replay.average_exit_layer, 3)
        assert point.average_exit_layer_by_token == round(found.replay.average_exit_layer_by_token, 3)
        assert point.speedup_layers == round(NUM_LAYERS / found.replay.average_exit_layer, 3)
        assert point.speedup_latency == round(full.seconds / found.seconds, 3)


def test_a_learned_points_figures_are_those_of_rules_that_had_not_seen_the_text(calibration: Calibration) -> None:
    unseen = cross_fitted_evidence(REPLAYER)
    for point in (*calibration.points, *calibration.others):
        if point.parameters["strategy"] == "learned":
            policy = calibration.catalog(model_of(NUM_LAYERS)).policy(point.parameters)
            found = run(policy, REPLAYER, METER, unseen)
            assert (point.f1, point.average_exit_layer) == (
                round(found.f1, 2),
                round(found.replay.average_exit_layer, 3),
            )


def test_every_strategy_and_measure_has_calibrated_defaults(calibration: Calibration) -> None:
    known = families(model_of(NUM_LAYERS, calibration.rule)).keys()
    assert calibration.catalog(model_of(NUM_LAYERS)).defaults.keys() >= known


def test_a_strategys_default_is_its_cheapest_within_the_balanced_limit(calibration: Calibration) -> None:
    family = families(model_of(NUM_LAYERS))["sentee"]
    outcomes = [run(p, REPLAYER, METER) for p in family.members(REPLAYER.evidences(family.prototype))]
    (point,) = (point for point in calibration.others if point.parameters["strategy"] == "sentee")
    good = [found for found in outcomes if found.f1 >= run(FullDepth(), REPLAYER, METER).f1 - 0.3]
    assert point.f1_loss <= 0.3
    assert replayed(point, calibration).seconds == min(found.seconds for found in good)


def test_the_default_of_a_strategy_that_is_run_is_its_cheapest_within_the_balanced_limit() -> None:
    family, full = families(model_of(NUM_LAYERS))["sentee"], run(FullDepth(), REPLAYER, METER)
    members = family.members(REPLAYER.evidences(family.prototype))
    outcomes = [replace(run(member, REPLAYER, METER), policy=Tokee(member.to_json()["tau"])) for member in members]
    calibration = calibrate(TRACE, METER, {}, runs=lambda _: {"tokee": outcomes})
    *_, default = (point for point in calibration.others if point.parameters["strategy"] == "tokee")
    within, beyond = (cheapest(outcomes, full.f1 - MAX_F1_LOSS[preset]).policy for preset in ("balanced", "fast"))
    assert default.parameters == within.to_json() != beyond.to_json()


def test_all_defaults_of_vee_need_one_vote(calibration: Calibration) -> None:
    voting = [point for point in calibration.others if point.parameters["strategy"] == "vee"]
    assert {point.parameters["patience"] for point in voting} == {1} and len(voting) == 17


def test_the_provenance_says_what_the_figures_hold_for(calibration: Calibration) -> None:
    provenance = calibration.provenance
    assert provenance["device"] == "made up"
    assert (provenance["data"], provenance["weights_sha256"]) == (TRACE.data, TRACE.weights_sha256)
    assert (provenance["texts"], provenance["sequences"]) == (60, len(TRACE.sequences))
    assert provenance["full_depth_ms_per_sequence"] == pytest.approx(4_100)


def test_a_model_of_two_layers_can_be_calibrated() -> None:
    calibration = calibrate(drifting_trace(30, num_layers=2), LayerMeter(2), {})
    assert Calibration.from_json(calibration.to_json(), model_of(2)).points == calibration.points
    voting = [point for point in calibration.others if point.parameters["strategy"] in ("vee", "pabee")]
    assert {point.average_exit_layer for point in voting} == {2.0}


def test_a_handful_of_texts_and_a_model_of_one_layer_are_refused() -> None:
    with pytest.raises(DataRefused, match="made-up has 9 texts; calibrate on at least 10"):
        calibrate(drifting_trace(9), METER, {})
    with pytest.raises(ModelRefused, match="made-up@1 has one layer; there is no earlier exit"):
        calibrate(replace(TRACE, tables=TRACE.tables[:1]), METER, {})


def test_data_without_any_entity_can_be_calibrated_on() -> None:
    nothing = replace(TRACE, gold=tuple(frozenset[Key]() for _ in TRACE.gold))
    points = calibrate(nothing, METER, {}).points
    assert {(point.f1, point.f1_loss) for point in points} == {(0.0, 0.0)}


# where full depth is not the best

LOST_AT_THE_END = replace(TRACE, tables=(*TRACE.tables[:3], TRACE.tables[3].roll(1, dims=1)))


@pytest.fixture(scope="module")
def undertrained() -> Calibration:
    """Of a model whose last exit is far worse than the one before."""
    return calibrate(LOST_AT_THE_END, METER, {"device": "made up"})


def test_where_an_exit_is_clearly_better_than_full_depth_presets_are_measured_against_that_exit(
    undertrained: Calibration,
) -> None:
    replayer = Replayer(LOST_AT_THE_END)
    best, full = run(Budgeted(3), replayer, METER), run(FullDepth(), replayer, METER)
    assert best.f1 > full.f1 + 20
    fast, balanced, accurate = (point for point in undertrained.points if point.preset)
    assert accurate.f1 >= best.f1 - MAX_F1_LOSS["accurate"]
    assert min(fast.f1, balanced.f1) > best.f1 - 2  # the front may be too short for all three
    assert accurate.f1_loss == pytest.approx(full.f1 - accurate.f1, abs=0.0051)  # said against full depth
    (fixed,) = (point for point in undertrained.others if point.parameters["strategy"] == "budgeted")
    assert fixed.f1 >= best.f1 - MAX_F1_LOSS["balanced"]


def test_an_exit_that_is_clearly_better_than_full_depth_is_named_with_both_figures_and_a_warning(
    calibration: Calibration, undertrained: Calibration
) -> None:
    replayer = Replayer(LOST_AT_THE_END)
    figures = {
        "f1": round(run(Budgeted(3), replayer, METER).f1, 2),
        "full_depth_f1": round(run(FullDepth(), replayer, METER).f1, 2),
    }
    assert undertrained.provenance["better_exit"] == {"exit_layer": 3, **figures}
    assert "better_exit" not in calibration.provenance
    shown, usual = (
        format_operating_points("m@1", replace(one, provenance={**one.provenance, "executor": "", "threads": 1}))
        for one in (undertrained, calibration)
    )
    assert f"warning: exit 3 (F1 {figures['f1']}) is better than full depth (F1 {figures['full_depth_f1']})" in shown
    assert "warning" not in usual


# presets on made-up fronts


def outcome(f1: float, seconds: float) -> Outcome:
    return Outcome(Budgeted(1), made_up_replay([round(100 * f1)], found=10_000, gold=10_000), seconds)


FULL = outcome(80.0, 10.0)


def presets(*outcomes: Outcome) -> dict[str, tuple[float, float]]:
    """F1 and seconds of every preset."""
    chosen = module._presets(module._ladder([*outcomes, FULL]), lambda found: FULL.f1 - found.f1)
    return {name: (round(found.f1, 2), found.seconds) for name, found in chosen.items()}


def test_each_preset_takes_the_cheapest_within_its_loss() -> None:
    outcomes = [outcome(78.9, 1), outcome(79.1, 2), outcome(79.6, 3), outcome(79.75, 4), outcome(79.95, 5)]
    assert presets(*outcomes) == {"fast": (79.1, 2), "balanced": (79.75, 4), "accurate": (79.95, 5)}


def test_where_presets_want_the_same_point_the_stricter_takes_a_dearer_and_better_one() -> None:
    outcomes = [outcome(79.95, 2), outcome(79.97, 3), outcome(80.1, 4), outcome(79.9, 5)]
    assert presets(*outcomes) == {"fast": (79.95, 2), "balanced": (79.97, 3), "accurate": (80.1, 4)}


def test_where_nothing_else_is_accurate_enough_full_depth_is() -> None:
    outcomes = [outcome(79.5, 2), outcome(79.8, 3), outcome(79.85, 12)]
    assert presets(*outcomes) == {"fast": (79.5, 2), "balanced": (79.8, 3), "accurate": (80.0, 10)}


def test_where_too_little_is_accurate_enough_the_stricter_preset_gets_the_better_point() -> None:
    outcomes = [outcome(70.0, 1), outcome(75.0, 2), outcome(76.0, 3)]
    assert presets(*outcomes) == {"fast": (75.0, 2), "balanced": (76.0, 3), "accurate": (80.0, 10)}


def test_where_one_point_beats_all_others_every_preset_still_has_one() -> None:
    outcomes = [outcome(81.0, 1), outcome(79.0, 3), outcome(78.0, 2)]
    assert len(front([*outcomes, FULL])) == 1
    assert presets(*outcomes) == {"fast": (81.0, 1), "balanced": (78.0, 2), "accurate": (79.0, 3)}


def test_a_points_interval_holds_its_figure(calibration: Calibration) -> None:
    for point in calibration.points:
        assert point.f1_interval[0] <= point.f1 <= point.f1_interval[1]
        assert point.f1_loss_interval[0] <= point.f1_loss <= point.f1_loss_interval[1]
        assert point.average_exit_layer_interval[0] <= point.average_exit_layer <= point.average_exit_layer_interval[1]
    assert np.mean([point.f1_interval[1] - point.f1_interval[0] for point in calibration.points]) > 0.5


def split_outcome(of_a: list[int], of_b: list[int]) -> Outcome:
    return Outcome(Budgeted(1), made_up_replay([*of_a, *of_b]), 1.0)


SOURCES = ["a"] * 30 + ["b"] * 10


def test_the_loss_that_counts_is_the_largest_of_any_corpus() -> None:
    loss_of = module.LossOnEverySource(SOURCES, split_outcome([80] * 30, [80] * 10))
    assert loss_of(split_outcome([80] * 30, [80] * 10)) == 0
    assert loss_of(split_outcome([80] * 30, [70] * 10)) == pytest.approx(10)
    assert loss_of(split_outcome([79] * 30, [82] * 10)) == pytest.approx(1)


def test_what_few_texts_of_a_corpus_lose_by_chance_counts_less() -> None:
    loss_of = module.LossOnEverySource(SOURCES, split_outcome([80] * 30, [80] * 10))
    found = loss_of(split_outcome([80] * 30, [60, 80] * 5))
    error = 10 / 10**0.5  # the standard error of the mean of ten texts, of which half lose 20
    assert found == pytest.approx(10 - module.ALLOWANCE * error, abs=0.5)


def test_texts_of_one_corpus_lose_what_they_lose_together() -> None:
    loss_of = module.LossOnEverySource([""] * 40, split_outcome([80] * 30, [80] * 10))
    assert loss_of(split_outcome([80] * 30, [70] * 10)) == pytest.approx(2.5)


def test_a_preset_that_keeps_its_loss_on_every_corpus_is_never_cheaper(calibration: Calibration) -> None:
    mixed = replace(TRACE, sources=tuple("ab"[index % 2] for index in range(len(TRACE.texts))))
    of_mixed = {point.preset: point for point in calibrate(mixed, METER, {}).points if point.preset}
    of_one = {point.preset: point for point in calibration.points if point.preset}
    assert of_mixed.keys() == of_one.keys() == set(PRESETS)
    assert all(of_mixed[name].speedup_latency <= of_one[name].speedup_latency for name in PRESETS)
    assert of_mixed != of_one
