"""Families of policies and what is best of them, against brute force."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.evaluation.replay import Replayer
from service.evaluation.sweep import Outcome, cheapest, families, front, run, run_family
from service.exits.catalog import PolicyCatalog
from service.exits.consistency import CONSISTENCIES
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.learned import Learned
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from tests.evaluation.traces_ import LayerMeter, drifting_trace, made_up_replay
from tests.exits.strategies_ import WITHOUT_TRAFFIC, model_of
from tests.exits.tables_ import random_rule, seeded

RULE = random_rule(4)


def outcome(f1: int, seconds: int) -> Outcome:
    return Outcome(FullDepth(), made_up_replay([f1]), seconds)


def beats(one: Outcome, other: Outcome) -> bool:
    """At least as good in both, better in one."""
    pairs = (one.f1, other.f1), (-one.seconds, -other.seconds)
    return all(mine >= yours for mine, yours in pairs) and any(mine > yours for mine, yours in pairs)


some_outcomes = st.lists(st.builds(outcome, st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=14)


@seeded
@given(some_outcomes)
def test_the_front_is_what_nothing_beats_cheapest_first(outcomes: list[Outcome]) -> None:
    best = {(o.seconds, o.f1) for o in outcomes if not any(beats(other, o) for other in outcomes)}
    assert [(o.seconds, o.f1) for o in front(outcomes)] == sorted(best)


@seeded
@given(some_outcomes, st.integers(0, 10))
def test_the_cheapest_reaches_the_f1_and_nothing_cheaper_or_as_cheap_and_better_does(
    outcomes: list[Outcome], lowest: int
) -> None:
    chosen, good = cheapest(outcomes, lowest), [o for o in outcomes if o.f1 >= lowest]
    if good:
        assert chosen in good and not any((o.seconds, -o.f1) < (chosen.seconds, -chosen.f1) for o in good)
    else:
        assert not any((-o.f1, o.seconds) < (-chosen.f1, chosen.seconds) for o in outcomes)


def test_an_outcomes_f1_is_in_percent() -> None:
    assert outcome(37, 1).f1 == pytest.approx(37.0)


# families


@cache
def replayer() -> Replayer:
    return Replayer(drifting_trace(40))


@cache
def members(key: str) -> list[ExitPolicy]:
    family = families(model_of(4, RULE))[key]
    return list(family.members(replayer().evidences(family.prototype)))


every_family = pytest.mark.parametrize("key", families(model_of(4, RULE)))


def test_there_is_a_family_for_every_strategy_and_for_every_measure_and_pooling_of_vee() -> None:
    known = families(model_of(4, RULE))
    assert {key.partition("/")[0] for key in known} == WITHOUT_TRAFFIC - {FullDepth.strategy}
    assert {tuple(key.split("/")[1:]) for key in known if "/" in key} == set(CONSISTENCIES)
    assert families(model_of(4)).keys() == known.keys() - {Learned.strategy}


@every_family
def test_every_member_is_a_valid_policy_and_no_two_are_the_same(key: str) -> None:
    catalog = PolicyCatalog(model_of(4, RULE))
    assert [catalog.policy(policy.to_json()) for policy in members(key)] == members(key)
    assert len(set(members(key))) == len(members(key)) > 0


@every_family
def test_all_members_see_what_the_prototype_sees(key: str) -> None:
    prototype = families(model_of(4, RULE))[key].prototype
    layer = {"budgeted": "layer", "learned": "deepest_exit"}.get(key)  # in which alone members may differ from it
    alike = [replace(policy, **{layer: getattr(prototype, layer)}) if layer else policy for policy in members(key)]
    assert {policy.kind(4) for policy in alike} == {prototype.kind(4)}
    assert {policy.strategy for policy in members(key)} == {key.partition("/")[0]}


@pytest.mark.parametrize("kind", CONSISTENCIES, ids="/".join)
def test_vee_is_swept_over_taus_in_range_at_every_patience_that_can_leave_early(kind: tuple[str, str]) -> None:
    found = [policy for policy in members(f"vee/{'/'.join(kind)}") if isinstance(policy, Vee)]
    assert {(policy.measure, policy.pooling, policy.ensemble) for policy in found} == {(*kind, False)}
    assert {policy.patience for policy in found} == {1, 2}
    taus = [policy.tau for policy in found if policy.patience == 1]
    assert taus == [policy.tau for policy in found if policy.patience == 2] == sorted(set(taus))
    assert all(CONSISTENCIES[kind].lowest <= tau <= CONSISTENCIES[kind].highest for tau in taus)


@pytest.mark.parametrize("key", ["vee/kl/mean", "branchynet", "shallow_deep", "sentee", "learned"])
def test_taus_cut_what_was_seen_into_many_shares(key: str) -> None:
    outcomes = run_family(families(model_of(4, RULE))[key], replayer(), LayerMeter(4))
    layers = {outcome.replay.average_exit_layer for outcome in outcomes}
    assert len(layers) > 15 and max(layers) > 3 and min(layers) < 2.5


def test_a_static_cut_is_swept_over_every_layer_and_gates_lie_above_their_tau() -> None:
    assert [policy.to_json()["layer"] for policy in members("budgeted")] == [1, 2, 3, 4]
    assert [policy.to_json()["patience"] for policy in members("pabee")] == [1, 2]
    gated = [policy.to_json() for policy in members("gated_vote")]
    assert all(0 < values["tau"] < values["gate"] <= 1 for values in gated)
    assert {values["patience"] for values in gated} == {1, 2}


def test_running_a_family_replays_and_prices_every_member() -> None:
    family, meter = families(model_of(4, RULE))["sentee"], LayerMeter(4)
    outcomes = run_family(family, replayer(), meter)
    assert [outcome.policy for outcome in outcomes] == members("sentee")
    for found in outcomes[::8]:
        alone = run(found.policy, Replayer(replayer().trace), meter)
        assert (alone.f1, alone.seconds) == (found.f1, found.seconds)
        assert found.seconds == pytest.approx(1.1 * found.replay.layers_run.sum())


def test_given_evidence_takes_the_place_of_what_members_would_see() -> None:
    count = len(replayer().trace.sequences)
    given_evidence = [[(float(index),) for index in range(count)]] * 3 + [[()] * count]
    family = families(model_of(4, RULE))["learned"]
    outcomes = run_family(family, replayer(), LayerMeter(4), given_evidence)
    taus = [outcome.policy.to_json()["tau"] for outcome in outcomes]
    assert min(taus) >= 0.0 and max(taus) > count / 2
    left = [(outcome.replay.layers_run == 1).sum() for outcome in outcomes]
    assert left == [sum(index < tau for index in range(count)) for tau in taus]
    assert replace(outcomes[0].policy, tau=0.5) == Learned(0.5, 2, rule=RULE)  # type: ignore[call-arg]


def test_the_learned_rule_is_swept_with_the_deepest_early_exit_and_without() -> None:
    outcomes = run_family(families(model_of(4, RULE))["learned"], replayer(), LayerMeter(4))
    by_deepest = {layer: [o for o in outcomes if o.policy.to_json()["deepest_exit"] == layer] for layer in (2, 3)}
    assert len(outcomes) == sum(map(len, by_deepest.values())) == 2 * len(by_deepest[2])
    for layer, of_layer in by_deepest.items():
        left = {int(exit_layer) for outcome in of_layer for exit_layer in outcome.replay.layers_run}
        assert left == {*range(1, layer + 1), 4}


@pytest.mark.parametrize("num_layers", [3, 6, 12])
def test_families_grow_with_the_model(num_layers: int) -> None:
    known = families(model_of(num_layers))
    assert len(list(known["budgeted"].members([]))) == num_layers
    assert [policy.to_json()["patience"] for policy in known["pabee"].members([])] == list(range(1, num_layers - 1))
