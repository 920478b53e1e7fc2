"""Every strategy: what it sees, when it leaves, which exits it needs, what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadInput
from service.exits.catalog import PolicyCatalog
from service.exits.consistency import CONSISTENCIES
from service.exits.ensemble import average
from service.exits.parameters import HIGHEST_INT, Evidence
from service.exits.policies import STRATEGIES
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.pabee import Pabee
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy, ExitReason
from tests.exits import naive_
from tests.exits.strategies_ import REPLAYED, model_of
from tests.exits.tables_ import alone, random_readings, random_rule, reading_of, seeded, without_tables

Parameters = dict[str, Any]
History = list[Evidence]

NUM_LAYERS = 6
NUM_WORDS = (4, 1, 6, 2, 3)
RULE = random_rule(NUM_LAYERS)
CATALOG = PolicyCatalog(model_of(NUM_LAYERS, RULE))
AGREES, DIFFERS = 0.0, -1.0
every_strategy = pytest.mark.parametrize("strategy", REPLAYED)


def policy(strategy: str, **parameters: object) -> ExitPolicy:
    return CATALOG.policy({"strategy": strategy, **parameters})


# what each strategy sees: naive_ tables of the layers so far -> evidence


def consistencies(tables: Sequence[naive_.Table]) -> list[float]:
    *earlier, current = tables
    return [naive_.CONSISTENCIES["kl", "mean"](table, current) for table in earlier]


def votes(tables: Sequence[naive_.Table]) -> int:
    *earlier, current = map(naive_.decoded, tables)
    return sum(found == current for found in earlier)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def worth(tables: Sequence[naive_.Table]) -> list[float]:
    if len(tables) == NUM_LAYERS:
        return []
    weights, bias = RULE.weights[len(tables) - 1], RULE.bias[len(tables) - 1]
    return [math.exp(bias + sum(w * x for w, x in zip(weights, naive_.features(tables), strict=True)))]


SEEN: dict[str, Callable[[Sequence[naive_.Table]], list[float]]] = {
    "vee": consistencies,
    "full_depth": lambda tables: [],
    "budgeted": lambda tables: [],
    "branchynet": lambda tables: [mean(naive_.entropies(tables[-1]))],
    "shallow_deep": lambda tables: [mean([math.exp(max(cell)) for cell in tables[-1]])],
    "sentee": lambda tables: [max(naive_.entropies(tables[-1]))],
    "pabee": lambda tables: [float(votes(tables[-2:]))] if len(tables) > 1 else [],
    "gated_vote": lambda tables: [max(naive_.entropies(tables[-1])), votes(tables)],
    "learned": worth,
    "learned_on_traffic": worth,
}


@every_strategy
def test_evidence_is_what_a_naive_reading_finds(strategy: str) -> None:
    for drift in (1.0, 0.1, 0.01):
        readings = random_readings(NUM_WORDS, NUM_LAYERS, 3, seed=4, drift=drift)
        tables = [naive_.tables_of(reading) for reading in readings]
        for layer in range(1, NUM_LAYERS + 1):
            evidence = policy(strategy).evidence(readings[:layer])
            assert evidence.dtype == np.float64
            for row, own in zip(evidence.tolist(), zip(*tables[:layer], strict=True), strict=True):
                assert row == pytest.approx(SEEN[strategy](own), rel=1e-4, abs=1e-6)


def test_the_examples_hold_layers_that_decode_alike_and_layers_that_do_not() -> None:
    evidence = policy("gated_vote").evidence(random_readings(NUM_WORDS, NUM_LAYERS, 3, seed=4, drift=0.1))
    assert 0 < evidence[:, 1].sum() < len(NUM_WORDS) * (NUM_LAYERS - 1)


@every_strategy
@seeded
@given(
    num_words=st.lists(st.integers(1, 8), min_size=1, max_size=5), seed=st.integers(0, 2**32), layer=st.integers(1, 5)
)
def test_evidence_does_not_depend_on_batch_mates(strategy: str, num_words: list[int], seed: int, layer: int) -> None:
    readings = random_readings(num_words, layer, 2 + seed % 5, seed, drift=0.1)
    together = policy(strategy).evidence(readings).tolist()
    assert together == [policy(strategy).evidence(own).tolist()[0] for own in alone(readings)]


@pytest.mark.parametrize("kind", CONSISTENCIES, ids="/".join)
def test_vee_compares_the_latest_layer_with_each_earlier_one_in_order(kind: tuple[str, str]) -> None:
    measure, pooling = kind
    *earlier, current = random_readings(NUM_WORDS, 4, 3, seed=1, drift=0.1)
    evidence = policy("vee", measure=measure, pooling=pooling).evidence([*earlier, current])
    assert evidence.T.tolist() == [CONSISTENCIES[kind].compare(reading, current).tolist() for reading in earlier]


# when each leaves: parameters and the history so far -> the reason, at any layer but the last


def unchanged(history: History) -> int:
    """How many of the latest layers in a row said the same as the one before."""
    return len(list(takewhile(lambda evidence: evidence == (1.0,), reversed(history))))


LEAVES: dict[str, Callable[[Parameters, History], str | bool]] = {
    "vee": lambda of, seen: [vote > of["tau"] for vote in seen[-1]].count(True) >= of["patience"] and "vote",
    "full_depth": lambda of, seen: False,
    "budgeted": lambda of, seen: len(seen) == of["layer"] and "budget",
    "branchynet": lambda of, seen: seen[-1][0] < of["tau"] and "confidence",
    "shallow_deep": lambda of, seen: seen[-1][0] > of["tau"] and "confidence",
    "sentee": lambda of, seen: seen[-1][0] < of["tau"] and "confidence",
    "pabee": lambda of, seen: unchanged(seen) >= of["patience"] and "vote",
    "gated_vote": lambda of, seen: (
        (seen[-1][0] < of["tau"] and "confidence")
        or (seen[-1][0] < of["gate"] and seen[-1][1] >= of["patience"] and "vote")
    ),
    "learned": lambda of, seen: seen[-1][0] < of["tau"] and "learned",
    "learned_on_traffic": lambda of, seen: seen[-1][0] < of["tau"] and "learned",
}

shares = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0])
distances = st.floats(-2, 0) | st.sampled_from([-1.0, -0.5, -0.001, 0.0])
patiences = st.integers(1, NUM_LAYERS + 1)
VALUES: dict[str, dict[str, st.SearchStrategy[Any]]] = {  # of every parameter that moves the exit layer
    "vee": {"tau": distances, "patience": patiences},
    "full_depth": {},
    "budgeted": {"layer": st.integers(1, NUM_LAYERS)},
    "branchynet": {"tau": shares},
    "shallow_deep": {"tau": shares},
    "sentee": {"tau": shares},
    "pabee": {"patience": patiences},
    "gated_vote": {"tau": shares, "gate": shares, "patience": patiences},
    "learned": {"tau": shares},
    "learned_on_traffic": {"tau": shares},
}
EVIDENCE: dict[str, Callable[[int], st.SearchStrategy[Evidence]]] = {  # that can be seen at a layer
    "vee": lambda layer: st.tuples(*[distances] * (layer - 1)),
    "full_depth": lambda layer: st.just(()),
    "budgeted": lambda layer: st.just(()),
    "branchynet": lambda layer: st.tuples(shares),
    "shallow_deep": lambda layer: st.tuples(shares),
    "sentee": lambda layer: st.tuples(shares),
    "pabee": lambda layer: st.tuples(st.sampled_from([0.0, 1.0])) if layer > 1 else st.just(()),
    "gated_vote": lambda layer: st.tuples(shares, st.integers(0, layer - 1).map(float)),
    "learned": lambda layer: st.tuples(shares) if layer < NUM_LAYERS else st.just(()),
    "learned_on_traffic": lambda layer: st.tuples(shares) if layer < NUM_LAYERS else st.just(()),
}


def histories(strategy: str) -> st.SearchStrategy[History]:
    return st.tuples(*map(EVIDENCE[strategy], range(1, NUM_LAYERS + 1))).map(list)


def policies(strategy: str) -> st.SearchStrategy[ExitPolicy]:
    return st.fixed_dictionaries(VALUES[strategy]).map(lambda values: policy(strategy, **values))


def leave(policy: ExitPolicy, history: History) -> tuple[int, ExitReason]:
    """The layer and the reason that a sequence with this history leaves by."""
    for layer in range(1, len(history) + 1):
        reason = policy.decide(history[:layer], len(history))
        if reason is not None:
            return layer, reason
    raise AssertionError("it never left")


@every_strategy
@seeded
@given(data=st.data())
def test_a_sequence_leaves_where_the_rule_says_and_an_exit_is_computed_there(
    strategy: str, data: st.DataObject
) -> None:
    drawn, history = data.draw(policies(strategy)), data.draw(histories(strategy))
    met = [(layer, LEAVES[strategy](drawn.to_json(), history[:layer])) for layer in range(1, NUM_LAYERS)]
    expected = next(((layer, reason) for layer, reason in met if reason), (NUM_LAYERS, "last_layer"))
    assert leave(drawn, history) == expected
    assert drawn.needs_exit(expected[0], NUM_LAYERS)


@every_strategy
@seeded
@given(data=st.data())
def test_the_reason_at_the_last_layer_is_always_last_layer(strategy: str, data: st.DataObject) -> None:
    assert data.draw(policies(strategy)).decide(data.draw(histories(strategy)), NUM_LAYERS) == "last_layer"


@pytest.mark.parametrize(
    ("strategy", "parameter", "leaves_later"),
    [
        ("vee", "tau", True),
        ("vee", "patience", True),
        ("budgeted", "layer", True),
        ("branchynet", "tau", False),
        ("shallow_deep", "tau", True),
        ("sentee", "tau", False),
        ("pabee", "patience", True),
        ("gated_vote", "tau", False),
        ("gated_vote", "gate", False),
        ("gated_vote", "patience", True),
        ("learned", "tau", False),
    ],
)
@seeded
@given(data=st.data())
def test_a_larger_parameter_moves_the_exit_one_way_only(
    strategy: str, parameter: str, leaves_later: bool, data: st.DataObject
) -> None:
    history, drawn = data.draw(histories(strategy)), data.draw(policies(strategy)).to_json()
    values = sorted(data.draw(st.lists(VALUES[strategy][parameter], min_size=2, max_size=2)))
    smaller, larger = (leave(CATALOG.policy({**drawn, parameter: value}), history)[0] for value in values)
    assert smaller <= larger if leaves_later else smaller >= larger


@pytest.mark.parametrize(
    ("of", "at_the_threshold"),
    [
        (policy("branchynet", tau=0.25), (0.25,)),
        (policy("sentee", tau=0.25), (0.25,)),
        (policy("shallow_deep", tau=0.25), (0.25,)),
        (policy("learned", tau=0.25), (0.25,)),
        (policy("gated_vote", tau=0.25, gate=0.25), (0.25, 1.0)),
        (policy("gated_vote", tau=0.25, gate=0.5), (0.5, 1.0)),
        (policy("vee", tau=-0.25), (-0.25,)),
    ],
    ids=str,
)
def test_at_its_very_threshold_nobody_leaves(of: ExitPolicy, at_the_threshold: Evidence) -> None:
    assert of.decide([(), at_the_threshold], NUM_LAYERS) is None


# vee and pabee in particular


def agreeing(num_layers: int) -> History:
    return [(AGREES,) * earlier for earlier in range(num_layers)]


@pytest.mark.parametrize("patience", [1, 2, 3, 4])
def test_the_earliest_exit_is_the_layer_behind_patience(patience: int) -> None:
    assert leave(Vee(patience=patience), agreeing(6)) == (patience + 1, "vote")
    assert leave(Pabee(patience), [(), *[(1.0,)] * 5]) == (patience + 1, "vote")


@pytest.mark.parametrize("patience", [5, 6, 100])
def test_patience_of_all_earlier_layers_but_one_never_leaves_early(patience: int) -> None:
    assert leave(Vee(patience=patience), agreeing(6)) == (6, "last_layer")
    assert leave(Pabee(patience), [(), *[(1.0,)] * 5]) == (6, "last_layer")


@pytest.mark.parametrize("kind", CONSISTENCIES, ids="/".join)
def test_a_tau_at_the_top_of_its_range_never_leaves_early_even_where_all_layers_are_identical(
    kind: tuple[str, str],
) -> None:
    (reading,) = random_readings([3], 1, 4, seed=0)
    vee = Vee(*kind, tau=CONSISTENCIES[kind].highest)
    history = [tuple(vee.evidence([reading] * layer)[0].tolist()) for layer in range(1, 5)]
    assert leave(vee, history) == (4, "last_layer")


def test_votes_need_not_be_consecutive() -> None:
    history = [(), (DIFFERS,), (DIFFERS, DIFFERS), (AGREES, DIFFERS, AGREES), (DIFFERS,) * 4]
    assert leave(Vee(patience=2), history) == (4, "vote")


def test_the_count_is_fresh_at_every_layer() -> None:
    history = [(), (AGREES,), (AGREES, DIFFERS), (DIFFERS, DIFFERS, AGREES), (DIFFERS,) * 4]
    assert leave(Vee(patience=2), history) == (5, "last_layer")


def test_pabees_layers_must_be_consecutive() -> None:
    history = [(), (1.0,), (0.0,), (1.0,), (1.0,), (0.0,)]
    assert leave(Pabee(2), history) == (5, "vote")


def test_confidence_is_asked_before_the_votes() -> None:
    assert GatedVote(tau=0.2, gate=0.5).decide([(0.1, 0.0)], 3) == "confidence"
    assert GatedVote(tau=0.2, gate=0.5).decide([(0.3, 0.0), (0.1, 1.0)], 3) == "confidence"
    assert GatedVote(tau=0.2, gate=0.5).decide([(0.3, 0.0), (0.3, 1.0)], 3) == "vote"


# which exits each computes, and what it answers


@pytest.mark.parametrize(
    ("of", "needed"),
    [
        (FullDepth(), [False, False, False, True]),
        (Budgeted(2), [False, True, False, False]),
        (Vee(patience=2), [True] * 4),
        (Vee(patience=3), [False, False, False, True]),  # no vote can be won before the last layer
        (Vee(patience=3, ensemble=True), [True] * 4),  # but all are averaged
        (Pabee(2), [True] * 4),
        (Pabee(3), [False, False, False, True]),
        (policy("sentee"), [True] * 4),
        (policy("gated_vote", patience=9), [True] * 4),  # it may still be confident
        (policy("learned"), [True] * 4),
        (policy("learned", deepest_exit=2), [True, True, False, True]),
    ],
    ids=str,
)
def test_only_exits_that_may_matter_are_computed(of: ExitPolicy, needed: list[bool]) -> None:
    assert [of.needs_exit(layer, 4) for layer in (1, 2, 3, 4)] == needed


def test_the_learned_rule_lets_nobody_go_between_its_deepest_exit_and_the_last() -> None:
    of, sure = policy("learned", tau=0.5, deepest_exit=2), (0.1,)
    assert [of.decide([sure] * layer, 4) for layer in (1, 2, 3, 4)] == ["learned", "learned", None, "last_layer"]
    readings = random_readings((3, 4), 4, 3, seed=0)
    assert [of.evidence(readings[:seen]).shape for seen in (1, 2, 3)] == [(2, 1), (2, 1), (2, 0)]


ENTITIES = ("entity_set", "entity_jaccard")
WITH_TABLES = [*(Vee(*kind, tau=CONSISTENCIES[kind].tau) for kind in CONSISTENCIES if kind[0] not in ENTITIES)]
WITH_TABLES += [Vee(measure, tau=0.5, ensemble=True) for measure in ENTITIES]
WITHOUT_TABLES = [policy(strategy) for strategy in REPLAYED if strategy != "vee"]
WITHOUT_TABLES += [Vee(measure, tau=0.5) for measure in ENTITIES]


@pytest.mark.parametrize("of", WITHOUT_TABLES, ids=str)
def test_a_policy_that_compares_no_tables_sees_and_answers_the_same_without_them(of: ExitPolicy) -> None:
    readings = random_readings(NUM_WORDS, 3, 4, seed=0, drift=0.1)
    bare = without_tables(readings)
    assert not of.compares_tables
    assert np.array_equal(of.evidence(bare), of.evidence(readings))
    assert of.prediction(bare).spans == of.prediction(readings).spans


@pytest.mark.parametrize("of", WITH_TABLES, ids=str)
def test_a_policy_that_compares_tables_says_so_and_cannot_do_without(of: ExitPolicy) -> None:
    bare = without_tables(random_readings(NUM_WORDS, 3, 4, seed=0))
    assert of.compares_tables
    with pytest.raises(RuntimeError, match="without its table"):
        _ = of.evidence(bare), of.prediction(bare)


@every_strategy
def test_every_strategy_answers_with_the_latest_exit(strategy: str) -> None:
    readings = random_readings(NUM_WORDS, 3, 4, seed=0)
    assert policy(strategy).prediction(readings) is readings[-1]


def test_the_ensemble_answers_with_the_average_and_votes_as_before() -> None:
    readings = random_readings(NUM_WORDS, 4, 4, seed=0, drift=0.3)
    plain, ensemble = policy("vee"), policy("vee", ensemble=True)
    assert torch.equal(ensemble.prediction(readings).table, average(readings).table)
    assert np.array_equal(ensemble.evidence(readings), plain.evidence(readings))
    assert all(ensemble.decide(history, 4) == plain.decide(history, 4) for history in ([()], agreeing(2), agreeing(4)))


def test_the_average_is_answered_where_it_differs_from_every_exit() -> None:
    one, other = reading_of([[0.45, 0.15, 0.40]]), reading_of([[0.15, 0.45, 0.40]])
    assert [span[:3] for span in Vee(ensemble=True).prediction([one, other]).spans[0]] == [(0, 1, 2)]


def test_the_first_layer_has_nobody_to_agree_with() -> None:
    (first,) = random_readings(NUM_WORDS, 1, 3, seed=0)
    for strategy in ("vee", "pabee", "full_depth", "budgeted"):
        assert policy(strategy).evidence([first]).shape == (len(NUM_WORDS), 0)
    assert policy("gated_vote").evidence([first])[:, 1].tolist() == [0.0] * len(NUM_WORDS)


def test_a_model_of_one_layer_leaves_there_and_then() -> None:
    catalog = PolicyCatalog(model_of(1, random_rule(1)), {"budgeted": {"layer": 1}})
    (only,) = random_readings(NUM_WORDS, 1, 3, seed=0)
    for strategy in REPLAYED:
        of = catalog.policy({"strategy": strategy})
        assert leave(of, [tuple(of.evidence([only])[0].tolist())]) == (1, "last_layer") and of.needs_exit(1, 1)


# values on the wire


@every_strategy
@seeded
@given(data=st.data())
def test_a_policy_survives_the_way_to_json_and_back(strategy: str, data: st.DataObject) -> None:
    drawn = data.draw(policies(strategy))
    sent = json.loads(json.dumps(drawn.to_json()))
    assert CATALOG.policy(sent) == drawn and hash(CATALOG.policy(sent)) == hash(drawn)
    assert sent.keys() == {"strategy", *REPLAYED[strategy].parameters()} and "rule" not in sent


def test_policies_of_different_parameters_differ() -> None:
    of = [Vee(), Vee(patience=2), Vee(ensemble=True), FullDepth(), Budgeted(), Budgeted(2), policy("sentee")]
    assert len({*of, policy("branchynet", tau=0.2), policy("learned")}) == len(of) + 2


def test_every_strategy_is_registered_under_its_own_name() -> None:
    assert all(name == policy_type.strategy for name, policy_type in STRATEGIES.items())
    assert REPLAYED.keys() == SEEN.keys() == LEAVES.keys() == VALUES.keys() == EVIDENCE.keys()


NO_NUMBER = [True, False, "0.1", [0.1], {}, math.nan, math.inf, -math.inf, 10**400, -(10**400)]
NO_SHARE = [*NO_NUMBER, -1e-9, 1 + 1e-9, -1, 2]
NO_COUNT = [0, -1, 1.0, 1.5, True, "1", [1], {}, math.nan, math.inf, HIGHEST_INT + 1, 10**400]
NO_CHOICE = ["cosin", "", 1, True, ["kl"], {}]
WRONG: dict[tuple[str, str], list[object]] = {
    ("vee", "measure"): NO_CHOICE,
    ("vee", "pooling"): [*NO_CHOICE, "min"],
    ("vee", "tau"): [*NO_NUMBER, 1e-9, 1],
    ("vee", "patience"): NO_COUNT,
    ("vee", "ensemble"): ["yes", 1, 0, "true", [True], {}],
    ("budgeted", "layer"): [*NO_COUNT, NUM_LAYERS + 1],
    ("branchynet", "tau"): NO_SHARE,
    ("shallow_deep", "tau"): NO_SHARE,
    ("sentee", "tau"): NO_SHARE,
    ("pabee", "patience"): NO_COUNT,
    ("gated_vote", "tau"): NO_SHARE,
    ("gated_vote", "gate"): NO_SHARE,
    ("gated_vote", "patience"): NO_COUNT,
    ("learned", "tau"): [*NO_NUMBER, -1e-9, 1_000 + 1e-9],
    ("learned", "deepest_exit"): NO_COUNT,
    ("learned_on_traffic", "tau"): [*NO_NUMBER, -1e-9, 1_000 + 1e-9],
    ("learned_on_traffic", "deepest_exit"): NO_COUNT,
    ("learned_on_traffic", "fit"): [*NO_COUNT, 2],
}


def test_every_parameter_has_values_that_it_refuses() -> None:
    named = [(name, parameter) for name, of in REPLAYED.items() for parameter in of.parameters()]
    assert sorted(named) == sorted(WRONG)


@pytest.mark.parametrize(
    ("strategy", "parameter", "wrong"),
    [(*named, wrong) for named, values in WRONG.items() for wrong in values],
    ids=lambda value: f"{value!r:.12}",
)
def test_a_wrong_value_is_named_and_told_what_is_expected(strategy: str, parameter: str, wrong: object) -> None:
    with pytest.raises(BadInput) as error:
        policy(strategy, **{parameter: wrong})
    message = str(error.value)
    assert message.startswith(f"{parameter} is {wrong!r}; ")
    assert "expected " in message or "this model has 6 layers" in message


@pytest.mark.parametrize("kind", CONSISTENCIES, ids="/".join)
def test_vee_takes_a_tau_within_the_range_of_its_measure_and_none_outside(kind: tuple[str, str]) -> None:
    consistency = CONSISTENCIES[kind]
    lowest = max(consistency.lowest, -1e300)
    assert [Vee(*kind, tau=tau).tau for tau in (lowest, consistency.highest)] == [lowest, consistency.highest]
    outside = [consistency.highest + 1e-9] + [lowest - 1e-9] * (consistency.lowest > -math.inf)
    for tau in outside:
        with pytest.raises(BadInput, match=f"tau is .*; expected a number .*: {kind[0]} pooled by {kind[1]}"):
            Vee(*kind, tau=tau)


@pytest.mark.parametrize("tau", [0, 1, 0.0, 1.0, -0.0])
def test_the_ends_of_a_range_belong_to_it(tau: float) -> None:
    for strategy in ("branchynet", "shallow_deep", "sentee", "gated_vote", "learned"):
        assert policy(strategy, tau=tau).to_json()["tau"] == tau


@pytest.mark.parametrize("measure", ["edit_levenshtein", "entity_set", "entity_jaccard"])
def test_a_measure_without_cells_has_no_worst_one(measure: str) -> None:
    with pytest.raises(BadInput, match=r"pooling is 'max'; expected one of \['mean'\]"):
        policy("vee", measure=measure, pooling="max")
