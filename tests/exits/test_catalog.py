"""From JSON to a policy: what a model can have, what a merge patch keeps and resets, what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from service.errors import BadInput
from service.exits.catalog import PolicyCatalog, default_key
from service.exits.consistency import CONSISTENCIES
from service.exits.policies import _registered
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.learned import Learned
from service.exits.policies.pabee import Pabee
from service.exits.policies.sentee import Sentee
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from tests.exits.strategies_ import REPLAYED, WITHOUT_TRAFFIC, model_of
from tests.exits.tables_ import random_rule

NUM_LAYERS = 6
LIVE = Vee(tau=-0.02, patience=3)
RULE = random_rule(NUM_LAYERS)
UNCALIBRATED = PolicyCatalog(model_of(NUM_LAYERS))
CALIBRATED_VEE = Vee("js", "max", tau=-0.3, patience=2, ensemble=True)
CALIBRATED = PolicyCatalog(
    model_of(NUM_LAYERS, RULE),
    {
        "vee/js/max": CALIBRATED_VEE.to_json(),
        "vee/kl/mean": Vee(tau=-0.007).to_json(),
        "sentee": Sentee(tau=0.33).to_json(),
        "pabee": Pabee(2).to_json(),
        "budgeted": Budgeted(4).to_json(),
        "learned": {"strategy": "learned", "tau": 0.07},
    },
)


def merge(changes: dict[str, Any], current: ExitPolicy = LIVE, catalog: PolicyCatalog = UNCALIBRATED) -> ExitPolicy:
    return catalog.merge(current, changes)


def refusal(changes: dict[str, Any], current: ExitPolicy = LIVE) -> str:
    """What the caller of a change that cannot be is told."""
    with pytest.raises(BadInput) as error:
        merge(changes, current)
    return str(error.value)


# a merge patch


def test_what_is_not_mentioned_stays() -> None:
    assert merge({"patience": 1}) == Vee(tau=-0.02, patience=1)
    assert merge({"tau": -0.5}) == Vee(tau=-0.5, patience=3)
    assert merge({"ensemble": True}) == Vee(tau=-0.02, patience=3, ensemble=True)
    assert merge({"gate": 0.9}, GatedVote(tau=0.1)) == GatedVote(tau=0.1, gate=0.9)
    assert merge({}) == LIVE


def test_null_takes_a_parameter_back_to_its_default() -> None:
    assert merge({"tau": None}) == Vee(patience=3)
    assert merge({"tau": None, "patience": None}) == Vee()
    assert merge({"tau": None}, Vee("edit", "max", tau=-0.9)) == Vee("edit", "max", tau=-0.5)


def test_another_strategy_starts_from_its_own_defaults() -> None:
    assert merge({"strategy": "budgeted"}) == Budgeted()
    assert merge({"strategy": "budgeted", "layer": 5}) == Budgeted(5)
    assert merge({"strategy": "vee"}, FullDepth()) == Vee()
    assert merge({"strategy": "vee", "patience": 2}, Budgeted(1)) == Vee(patience=2)
    assert merge({"strategy": "pabee"}) == Pabee()  # not vee's patience


def test_naming_the_strategy_in_force_starts_from_its_defaults_as_naming_another_does() -> None:
    assert merge({"strategy": "vee", "patience": 2}) == Vee(patience=2)
    changed = Learned(tau=0.5, deepest_exit=2, rule=RULE)
    assert merge({"strategy": "learned"}, changed, CALIBRATED) == Learned(tau=0.07, rule=RULE)


@pytest.mark.parametrize("changes", [{"measure": "kl"}, {"pooling": "mean"}, {"measure": None}, {"pooling": None}])
def test_a_measure_or_pooling_without_a_tau_takes_the_default_tau(changes: dict[str, Any]) -> None:
    assert merge(changes) == Vee(patience=3)


@pytest.mark.parametrize("kind", CONSISTENCIES, ids="/".join)
def test_another_measure_or_pooling_takes_its_own_default_tau_and_keeps_the_rest(kind: tuple[str, str]) -> None:
    measure, pooling = kind
    expected = Vee(measure, pooling, tau=CONSISTENCIES[kind].tau, patience=3)
    assert merge({"measure": measure, "pooling": pooling}) == expected
    assert UNCALIBRATED.policy({"strategy": "vee", "measure": measure, "pooling": pooling, "patience": 3}) == expected


def test_another_pooling_of_the_measure_in_force_takes_its_own_default_tau() -> None:
    assert merge({"pooling": "max"}) == Vee(pooling="max", tau=-0.2, patience=3)
    assert merge({"measure": "cosine"}, Vee("js", "max", tau=-0.5)) == Vee("cosine", "max", tau=0.9)


def test_a_measure_that_lacks_the_pooling_in_force_takes_its_default_pooling() -> None:
    by_max = Vee(pooling="max", tau=-0.2, patience=3)
    expected = Vee("entity_set", "mean", tau=CONSISTENCIES["entity_set", "mean"].tau, patience=3)
    assert UNCALIBRATED.merge(by_max, {"measure": "entity_set"}) == expected
    assert UNCALIBRATED.merge(by_max, {"measure": None}).to_json()["pooling"] == "max"
    with pytest.raises(BadInput, match="pooling is 'max'; expected one of"):
        UNCALIBRATED.merge(by_max, {"measure": "entity_set", "pooling": "max"})


def test_a_measure_with_a_tau_keeps_that_tau() -> None:
    assert merge({"measure": "kl", "tau": -0.3}) == Vee(tau=-0.3, patience=3)
    assert merge({"measure": "js", "tau": -0.3}) == Vee("js", tau=-0.3, patience=3)


# calibrated defaults


@pytest.mark.parametrize(
    ("changes", "current", "expected"),
    [
        ({"strategy": "sentee"}, LIVE, Sentee(tau=0.33)),
        ({"strategy": "sentee", "tau": 0.1}, LIVE, Sentee(tau=0.1)),
        ({"strategy": "pabee"}, LIVE, Pabee(2)),
        ({"strategy": "budgeted"}, LIVE, Budgeted(4)),
        ({"strategy": "learned"}, LIVE, Learned(tau=0.07, rule=RULE)),
        ({"strategy": "branchynet"}, LIVE, None),
        ({"strategy": "vee"}, FullDepth(), Vee(tau=-0.007)),
        ({"strategy": "vee", "measure": "js", "pooling": "max"}, FullDepth(), CALIBRATED_VEE),
        ({"strategy": "vee", "measure": "js"}, FullDepth(), Vee("js", tau=-0.001)),  # pooled by mean: not calibrated
        ({"measure": "js", "pooling": "max"}, LIVE, Vee("js", "max", tau=-0.3, patience=3)),  # tau alone is reset
        ({"measure": "js"}, Vee("edit", "max"), Vee("js", "max", tau=-0.3)),
        ({"pooling": "max"}, Vee("js", tau=-0.9), Vee("js", "max", tau=-0.3)),
        ({"measure": "js", "pooling": "max", "tau": -0.2}, LIVE, Vee("js", "max", tau=-0.2, patience=3)),
        ({"measure": "hellinger"}, LIVE, Vee("hellinger", tau=-0.01, patience=3)),
        ({"measure": None}, LIVE, Vee(tau=-0.007, patience=3)),
        ({"tau": None}, LIVE, Vee(tau=-0.007, patience=3)),
        ({"tau": None, "patience": None}, Vee("js", "max", tau=-1, patience=4), Vee("js", "max", tau=-0.3, patience=2)),
        ({"tau": None}, Sentee(tau=0.9), Sentee(tau=0.33)),
        ({"patience": 1}, LIVE, Vee(tau=-0.02)),
    ],
    ids=str,
)
def test_what_is_left_out_takes_its_calibrated_default_where_there_is_one(
    changes: dict[str, Any], current: ExitPolicy, expected: ExitPolicy | None
) -> None:
    built_in = None if expected else REPLAYED[changes["strategy"]]()
    assert merge(changes, current, CALIBRATED) == (expected or built_in)


def test_defaults_are_kept_by_strategy_and_by_what_tau_depends_on() -> None:
    assert default_key("vee", {"measure": "js", "pooling": "max", "tau": -1}) == "vee/js/max"
    assert default_key("gated_vote", {"tau": 0.1}) == "gated_vote"
    assert {default_key(of.strategy, of.defaults({})) for of in REPLAYED.values()} >= {"vee/kl/mean", "learned"}


# the learned strategy


def test_a_model_without_a_rule_has_no_learned_strategy() -> None:
    assert UNCALIBRATED.strategies == sorted(WITHOUT_TRAFFIC - {"learned"})
    assert CALIBRATED.strategies == sorted(REPLAYED)
    assert "learned" not in refusal({"strategy": "unheard of"})


def test_learned_without_a_rule_is_told_to_calibrate() -> None:
    assert "learned needs a rule trained for this model" in refusal({"strategy": "learned"})
    assert "calibrate" in refusal({"strategy": "learned", "tau": 0.1})


@pytest.mark.parametrize("rule", [None, RULE.to_json()])
def test_nobody_sends_a_rule(rule: object) -> None:
    with pytest.raises(BadInput, match=r"'learned' has no parameter rule; it has \['tau', 'deepest_exit'\]"):
        CALIBRATED.policy({"strategy": "learned", "rule": rule})
    learned = CALIBRATED.merge(Learned(tau=0.5, rule=RULE), {"tau": 0.25})
    assert isinstance(learned, Learned) and (learned.tau, learned.rule) == (0.25, RULE)


# what is refused


@pytest.mark.parametrize("strategy", ["eev", "", 3, None, ["vee"], {}])
def test_an_unknown_strategy_is_told_which_there_are(strategy: object) -> None:
    message = refusal({"strategy": strategy})
    assert all(name in message for name in UNCALIBRATED.strategies)


def test_an_unknown_parameter_is_told_which_the_strategy_has() -> None:
    message = refusal({"taw": -0.1})
    assert "taw" in message and "['measure', 'pooling', 'tau', 'patience', 'ensemble']" in message


@pytest.mark.parametrize("strategy", UNCALIBRATED.strategies)
def test_a_parameter_that_the_strategy_lacks_is_refused(strategy: str) -> None:
    known = list(REPLAYED[strategy].parameters())
    for name in {"layer", "tau", "gate", "patience", "measure", "rule"} - set(known):
        assert f"{strategy!r} has no parameter {name}; it has {known or 'none'}" in refusal(
            {"strategy": strategy, name: 1}
        )


def test_a_wrong_value_is_refused_whichever_way_it_comes() -> None:
    assert re.search(r"tau is 1; expected a number at most 0: kl pooled by mean", refusal({"tau": 1}))
    assert "tau is 0.5; expected a number from -1 to 0" in refusal({"measure": "js", "tau": 0.5})
    assert "measure is 'cosin'; expected one of ['cosine', 'edit'" in refusal({"measure": "cosin"})
    assert "ensemble is 'yes'; expected true or false" in refusal({"ensemble": "yes"})
    assert f"layer is 7; this model has {NUM_LAYERS} layers" in refusal({"strategy": "budgeted", "layer": 7})


def test_a_tau_that_the_next_measure_cannot_have_is_not_carried_over() -> None:
    assert merge({"measure": "cosine"}) == Vee("cosine", tau=0.999, patience=3)
    assert "tau is -0.02; expected a number from 0 to 1" in refusal({"measure": "cosine", "tau": -0.02})


def test_a_policy_without_a_strategy_is_refused() -> None:
    with pytest.raises(BadInput, match="strategy is None; expected one of"):
        UNCALIBRATED.policy({"tau": -0.1})


# what registers a strategy


def test_a_name_that_is_taken_and_a_strategy_that_does_not_declare_all_are_named_at_once() -> None:
    class Again(Sentee):
        pass

    with pytest.raises(
        TypeError, match=r"test_catalog has a strategy 'sentee', as service\.exits\.policies\.sentee has"
    ):
        _registered([Sentee, Again])

    class Bare(ExitPolicy):
        strategy = "bare"

        def decide(self, *_: object) -> None:
            return None

    with pytest.raises(TypeError, match="Bare does not declare title, origin, meaning, display"):
        _registered([Bare])
