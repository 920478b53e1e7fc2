"""When each strategy leaves, and which exits it needs: decided from scripted histories."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadInput
from service.exits.policies import STRATEGIES
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee
from service.exits.policy import Evidence, ExitPolicy, ExitReason
from tests.exits.tables_ import cells_of, random_tables

History = list[Evidence]

seeded = settings(derandomize=True, deadline=None, max_examples=100)
AGREES, DIFFERS = 0.0, -1.0


@st.composite
def histories(draw: st.DrawFn) -> History:
    """What VEE sees at every layer of a model: layer m compared with the m - 1 before it."""
    num_layers = draw(st.integers(1, 8))
    values = st.floats(-2, 0) | st.sampled_from([-1.0, -0.5, -0.001, 0.0])
    return [tuple(draw(values) for _ in range(layer - 1)) for layer in range(1, num_layers + 1)]


def leave(policy: ExitPolicy, history: History) -> tuple[int, ExitReason]:
    """The layer and the reason that a sequence with this history leaves by."""
    for layer in range(1, len(history) + 1):
        reason = policy.decide(history[:layer], len(history))
        if reason is not None:
            return layer, reason
    raise AssertionError("it never left")


def agreeing(num_layers: int) -> History:
    return [(AGREES,) * earlier for earlier in range(num_layers)]


@seeded
@given(histories(), st.lists(st.floats(-2, 0), min_size=2, max_size=2).map(sorted), st.integers(1, 8))
def test_a_lower_tau_never_leaves_later(history: History, taus: list[float], patience: int) -> None:
    lower, higher = (leave(Vee(tau=tau, patience=patience), history)[0] for tau in taus)
    assert lower <= higher


@seeded
@given(histories(), st.floats(-2, 0), st.integers(1, 8))
def test_more_patience_never_leaves_earlier(history: History, tau: float, patience: int) -> None:
    patient, more_patient = (leave(Vee(tau=tau, patience=p), history)[0] for p in (patience, patience + 1))
    assert patient <= more_patient


@pytest.mark.parametrize("patience", [1, 2, 3, 4])
def test_the_earliest_exit_is_the_layer_behind_patience(patience: int) -> None:
    assert leave(Vee(patience=patience), agreeing(6)) == (patience + 1, "vote")


@pytest.mark.parametrize("patience", [5, 6, 100])
def test_patience_of_all_earlier_layers_but_one_never_leaves_early(patience: int) -> None:
    assert leave(Vee(patience=patience), agreeing(6)) == (6, "last_layer")


def test_tau_zero_never_leaves_early_even_where_all_layers_are_identical() -> None:
    (table,) = random_tables([3], 1, 4, seed=0)
    policy = Vee(tau=0.0)
    rows = [policy.evidence([table] * layer, cells_of([3]))[0].tolist() for layer in range(1, 5)]
    assert leave(policy, [tuple(row) for row in rows]) == (4, "last_layer")


def test_a_vote_must_be_larger_than_tau() -> None:
    just_below, just_above = -0.5 - 1e-12, -0.5 + 1e-12
    assert Vee(tau=-0.5).votes((-0.5, just_below, just_above, 0.0)) == 2


def test_votes_need_not_be_consecutive() -> None:
    history = [(), (DIFFERS,), (DIFFERS, DIFFERS), (AGREES, DIFFERS, AGREES), (DIFFERS,) * 4]
    assert leave(Vee(patience=2), history) == (4, "vote")


def test_the_count_is_fresh_at_every_layer() -> None:
    history = [(), (AGREES,), (AGREES, DIFFERS), (DIFFERS, DIFFERS, AGREES), (DIFFERS,) * 4]
    assert leave(Vee(patience=2), history) == (5, "last_layer")


@pytest.mark.parametrize("policy", [Vee(), FullDepth(), Budgeted(3), Budgeted(2)])
def test_the_reason_at_the_last_layer_is_always_last_layer(policy: ExitPolicy) -> None:
    assert policy.decide(agreeing(3), 3) == "last_layer"


def test_a_model_of_one_layer_leaves_there_and_then() -> None:
    assert {leave(policy, agreeing(1)) for policy in (Vee(), FullDepth(), Budgeted(1))} == {(1, "last_layer")}


@seeded
@given(histories(), st.sampled_from([Vee(), Vee(tau=-1.0, patience=2), Vee(patience=7), FullDepth(), Budgeted(1)]))
def test_an_exit_is_computed_wherever_it_is_taken(history: History, policy: ExitPolicy) -> None:
    layer, _ = leave(policy, history)
    assert policy.needs_table(layer, len(history))


def test_vee_computes_every_exit_while_a_vote_can_be_won() -> None:
    assert [Vee(patience=2).needs_table(layer, 4) for layer in (1, 2, 3, 4)] == [True] * 4


def test_vee_computes_only_the_last_exit_where_no_vote_can_be_won() -> None:
    assert [Vee(patience=3).needs_table(layer, 4) for layer in (1, 2, 3, 4)] == [False, False, False, True]


def test_full_depth_runs_all_layers_and_computes_one_exit() -> None:
    assert leave(FullDepth(), agreeing(6)) == (6, "last_layer")
    assert [FullDepth().needs_table(layer, 3) for layer in (1, 2, 3)] == [False, False, True]


def test_budgeted_leaves_at_its_layer_and_computes_one_exit() -> None:
    assert leave(Budgeted(2), [(DIFFERS,) * earlier for earlier in range(3)]) == (2, "budget")
    assert [Budgeted(2).needs_table(layer, 3) for layer in (1, 2, 3)] == [False, True, False]


def test_budgeted_refuses_a_layer_that_the_model_has_not() -> None:
    Budgeted(4).check(4)
    with pytest.raises(BadInput, match="layer is 5; this model has 4 layers"):
        Budgeted(5).check(4)


def test_strategies_that_do_not_look_show_nothing_of_any_sequence() -> None:
    tables = random_tables([2, 1], 2, 3, seed=0)
    for policy in (FullDepth(), Budgeted()):
        assert policy.evidence(tables, cells_of([2, 1])).shape == (2, 0)


def test_policies_of_equal_parameters_are_equal_and_hash_alike() -> None:
    assert Vee(tau=-0.5) == Vee(tau=-0.5) and hash(Vee(tau=-0.5)) == hash(Vee(tau=-0.5))
    assert len({Vee(), Vee(patience=2), FullDepth(), Budgeted(), Budgeted(2)}) == 5


def test_every_strategy_is_registered_under_its_own_name_and_valid_by_default() -> None:
    assert all(name == policy_type.strategy for name, policy_type in STRATEGIES.items())
    for policy_type in STRATEGIES.values():
        policy_type().check(num_layers=3)


@pytest.mark.parametrize("tau", [-1e300, -1, 0, -0.0])
def test_vee_takes_any_finite_tau_up_to_zero(tau: float) -> None:
    assert Vee(tau=tau).to_json()["tau"] == tau
