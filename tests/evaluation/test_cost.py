"""What policies cost, on a clock that every look at it moves by a second: every step then takes one second."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from service.evaluation import cost as module
from service.evaluation.cost import CostMeter, PolicyCost
from service.evaluation.replay import Replay
from service.exits.policies.branchynet import BranchyNet
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.learned import Learned
from service.exits.policies.pabee import Pabee
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from tests.evaluation.traces_ import CPU
from tests.exits.tables_ import random_rule
from tests.models_ import random_sequences, tiny_model

NUM_WORDS = (3, 3, 4, 6, 9, 12, 12, 17, 20, 24)
SEQUENCES = random_sequences(NUM_WORDS)


def measure(*, num_lengths: int = 4) -> CostMeter:
    return CostMeter(tiny_model(), SEQUENCES, device=CPU, num_lengths=num_lengths, repeats=2)


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> CostMeter:
    ticks = count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    return measure()


def replay(*left: tuple[int, int]) -> Replay:
    """Sequences of so many pieces that left at such a layer."""
    pieces, layers = np.array(left).T
    nothing = np.zeros(len(left), dtype=np.int64)
    return Replay(layers, nothing, nothing, nothing, pieces, num_layers=2)


# a policy's cost


def test_the_cost_of_a_replay_is_read_off_between_the_measured_lengths() -> None:
    cost = PolicyCost(np.array([10, 20]), np.array([[1.0, 2.0], [3.0, 5.0]]))
    assert cost.of(replay((10, 1))) == 1.0
    assert cost.of(replay((15, 1))) == 1.5
    assert cost.of(replay((13, 2))) == pytest.approx(3.6)
    assert cost.of(replay((10, 1), (15, 1), (15, 2), (20, 2))) == 1.0 + 1.5 + 4.0 + 5.0


def test_beyond_the_measured_lengths_the_nearest_one_counts() -> None:
    cost = PolicyCost(np.array([10, 20]), np.array([[1.0, 2.0], [3.0, 5.0]]))
    assert cost.of(replay((3, 1), (40, 2))) == 1.0 + 5.0


# what is measured


def test_samples_reach_from_the_shortest_to_the_longest_sequence(meter: CostMeter) -> None:
    lengths = [sequence.num_pieces for sequence in SEQUENCES]
    assert (meter.lengths[0], meter.lengths[-1]) == (min(lengths), max(lengths))
    assert (np.diff(meter.lengths) > 0).all() and set(meter.lengths.tolist()) <= set(lengths)
    assert len(meter.lengths) == 4


def test_sequences_of_one_length_are_one_sample() -> None:
    same = [SEQUENCES[3]] * 5
    assert CostMeter(tiny_model(), same, device=CPU, repeats=1).lengths.tolist() == [SEQUENCES[3].num_pieces]


# embedding 1 s, a layer 1 s, an exit 1 s, its evidence 1 s, decoding 1 s
EVERY_EXIT = [Vee(), BranchyNet(), Pabee(1), GatedVote(), Learned(rule=random_rule(4)), Vee(patience=3, ensemble=True)]


@pytest.mark.parametrize("policy", EVERY_EXIT, ids=lambda policy: policy.strategy)
def test_a_policy_that_looks_at_every_exit_pays_for_all_up_to_where_it_leaves(
    meter: CostMeter, policy: ExitPolicy
) -> None:
    seconds = meter.cost(policy).seconds
    assert seconds.shape == (4, len(meter.lengths))
    assert [set(row) for row in seconds.tolist()] == [{1 + 3 * layer + 1} for layer in (1, 2, 3, 4)]


@pytest.mark.parametrize("policy", [FullDepth(), Budgeted(4), Vee(patience=3), Pabee(3)], ids=str)
def test_full_depth_pays_for_one_exit(meter: CostMeter, policy: ExitPolicy) -> None:
    assert set(meter.cost(policy).seconds[3]) == {1 + 4 + 2 + 1}


def test_a_static_cut_pays_for_one_exit_at_its_layer(meter: CostMeter) -> None:
    for layer in (1, 2, 3, 4):
        assert set(meter.cost(Budgeted(layer)).seconds[layer - 1]) == {1 + layer + 2 + 1}


def test_policies_of_a_kind_are_measured_once(meter: CostMeter, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, of_kind = [], meter._cost

    def counted(policy: ExitPolicy) -> PolicyCost:
        measured.append(policy)
        return of_kind(policy)

    monkeypatch.setattr(meter, "_cost", counted)
    costs = [meter.cost(policy) for policy in (Vee(tau=-0.1), Vee(tau=-0.2), Vee(tau=-0.1, patience=2))]
    assert costs[0] is costs[1] is costs[2]
    others = [Vee("js"), Vee(ensemble=True), Vee(patience=3), FullDepth(), Budgeted(1), Budgeted(2), Budgeted(1)]
    for policy in others:
        meter.cost(policy)
    assert measured == [Vee(tau=-0.1), *others[:-1]]


def test_on_a_real_clock_going_on_costs_time() -> None:
    cost = measure().cost(FullDepth())
    assert (cost.seconds > 0).all() and np.isfinite(cost.seconds).all()
    assert (np.diff(cost.seconds, axis=0) > 0).all()  # each layer adds its own, measured once


def test_measuring_changes_no_answer() -> None:
    model = tiny_model()
    meter = CostMeter(model, SEQUENCES, device=CPU, num_lengths=2, repeats=1)
    meter.cost(Vee())
    assert all((one == other).all() for one, other in zip(model.parameters(), tiny_model().parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in model.parameters())
