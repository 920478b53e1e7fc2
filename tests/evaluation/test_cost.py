"""What policies cost, by an executor of known speed and a clock that every look at it moves by a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from service.evaluation import cost as module
from service.evaluation.cost import CostMeter, PolicyCost
from service.evaluation.replay import Replay
from service.executors.eager import EagerExecutor
from service.executors.executor import Executor
from service.executors.pytorch import State
from service.exits import reading as reading_module
from service.exits.policies.branchynet import BranchyNet
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.learned import Learned
from service.exits.policies.pabee import Pabee
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.exits.words import Flags
from service.text.types import SequenceInput
from tests.exits.tables_ import random_rule
from tests.models_ import eager, random_sequences, tiny_model

NUM_WORDS = (3, 3, 4, 6, 9, 12, 12, 17, 20, 24)
SEQUENCES = random_sequences(NUM_WORDS)
FIRST_LAYER, LAYER, EXIT, TABLE = 9.0, 4.0, 2.0, 3.0  # seconds a word piece


@dataclass
class Clock:
    """A look takes a second; more passes only when told."""

    now: float = 0.0

    def look(self) -> float:
        self.now += 1
        return self.now


class TimedExecutor(EagerExecutor):
    """Takes its time on `clock`, while it is waited for: far more on one try of every kind of step and length."""

    def __init__(self, clock: Clock, *, exit_s: float = EXIT, disturbed_try: int = 0) -> None:
        super().__init__(tiny_model(), torch.device("cpu"))
        self._clock, self._exit_s, self._disturbed_try = clock, exit_s, disturbed_try
        self._pending_s, self._tries = 0.0, Counter[tuple[int, ...]]()

    def run_layer(
        self,
        layer: int,
        inputs: Sequence[SequenceInput],
        states: Sequence[State | None],
        *,
        with_exit: bool = True,
        with_table: bool = True,
        active: Sequence[Flags | None] | None = None,
        through: int | None = None,
    ) -> tuple[list[State], Reading | None]:
        pieces = sum(one.num_pieces for one in inputs)
        kind = (layer, with_exit, with_table, pieces)
        a_piece = (FIRST_LAYER if layer == 1 else LAYER) + with_exit * (self._exit_s + with_table * TABLE)
        self._tries[kind] += 1
        self._pending_s = a_piece * pieces + 1e6 * (self._tries[kind] == self._disturbed_try)
        wishes = {"with_exit": with_exit, "with_table": with_table}
        return super().run_layer(layer, inputs, states, **wishes, active=active, through=through)

    def wait(self) -> None:
        self._clock.now += self._pending_s
        self._pending_s = 0.0


def measure(executor: Executor) -> CostMeter:
    return CostMeter(executor, SEQUENCES, num_lengths=4, repeats=2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=found.look))
    return found


@pytest.fixture
def meter(clock: Clock) -> CostMeter:
    return measure(TimedExecutor(clock))


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
    assert CostMeter(eager(), same, repeats=1).lengths.tolist() == [SEQUENCES[3].num_pieces]


def test_first_layer_other_layers_exits_and_tables_are_measured_apart(meter: CostMeter) -> None:
    assert meter.first_layer_s.tolist() == (FIRST_LAYER * meter.lengths + 1).tolist()  # 1: the look at the clock
    assert meter.layer_s.tolist() == (LAYER * meter.lengths + 1).tolist()
    assert meter.exit_s.tolist() == (EXIT * meter.lengths).tolist()
    assert meter.table_s.tolist() == ((EXIT + TABLE) * meter.lengths).tolist()


@pytest.mark.parametrize("disturbed_try", [1, 2])
def test_what_one_of_several_tries_takes_longer_is_not_charged(
    clock: Clock, meter: CostMeter, disturbed_try: int
) -> None:
    disturbed = measure(TimedExecutor(clock, disturbed_try=disturbed_try))
    for name in ("first_layer_s", "layer_s", "exit_s", "table_s"):
        assert getattr(disturbed, name).tolist() == getattr(meter, name).tolist()


def test_an_exit_that_seems_to_take_less_than_nothing_takes_nothing(clock: Clock) -> None:
    meter = measure(TimedExecutor(clock, exit_s=-1.0))
    assert not meter.exit_s.any()
    assert meter.table_s.tolist() == ((TABLE - 1) * meter.lengths).tolist()


# what is charged; beside the executor's time a second for the evidence of an exit, and one for decoding


def charged(meter: CostMeter, policy: ExitPolicy, layer: int, exits: int) -> list[float]:
    """(lengths,) of a sequence that leaves after `layer` and has seen so many exits."""
    of_layers = meter.first_layer_s + (layer - 1) * meter.layer_s
    of_exit = EXIT + TABLE if policy.compares_tables else EXIT
    found: list[float] = (of_layers + exits * (of_exit * meter.lengths + 1) + 1).tolist()
    return found


SUMMARISING = [BranchyNet(), Pabee(1), GatedVote(), Learned(rule=random_rule(4)), Vee("entity_jaccard", tau=0.5)]
COMPARING = [Vee(), Vee("js", "max"), Vee(patience=3, ensemble=True), Vee("entity_jaccard", tau=0.5, ensemble=True)]


@pytest.mark.parametrize("policy", [*SUMMARISING, *COMPARING], ids=str)
def test_a_policy_that_looks_at_every_exit_pays_for_all_up_to_where_it_leaves(
    meter: CostMeter, policy: ExitPolicy
) -> None:
    assert meter.cost(policy).seconds.tolist() == [charged(meter, policy, layer, layer) for layer in (1, 2, 3, 4)]


def test_only_who_compares_tables_pays_for_tables(meter: CostMeter) -> None:
    assert [policy.compares_tables for policy in (*SUMMARISING, *COMPARING)] == [False] * 5 + [True] * 4
    cheap, dear = ([meter.cost(policy).seconds for policy in found] for found in (SUMMARISING, COMPARING))
    tables = np.outer((1, 2, 3, 4), meter.table_s - meter.exit_s)
    assert (tables > 0).all()
    assert all((other - one == tables).all() for one in cheap for other in dear)


@pytest.mark.parametrize("policy", [FullDepth(), Budgeted(4), Vee(patience=3), Pabee(3)], ids=str)
def test_full_depth_pays_for_one_exit(meter: CostMeter, policy: ExitPolicy) -> None:
    assert meter.cost(policy).seconds[3].tolist() == charged(meter, policy, 4, 1)


def test_a_static_cut_pays_for_one_exit_at_its_layer(meter: CostMeter) -> None:
    for layer in (1, 2, 3, 4):
        cut = Budgeted(layer)
        assert meter.cost(cut).seconds[layer - 1].tolist() == charged(meter, cut, layer, 1)


def test_each_exit_but_the_last_pays_once_for_what_its_evidence_is_worked_out_from(
    clock: Clock, meter: CostMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, entropy = meter.cost(BranchyNet()).seconds, reading_module.entropy

    def slow_entropy(table: Tensor) -> Tensor:
        clock.now += 100
        return entropy(table)

    monkeypatch.setattr(reading_module, "entropy", slow_entropy)
    slow = measure(TimedExecutor(clock)).cost(BranchyNet()).seconds
    assert [set(row) for row in (slow - plain).tolist()] == [{100.0}, {200.0}, {300.0}, {300.0}]


def test_decoding_is_paid_for_where_a_sequence_leaves(clock: Clock, meter: CostMeter) -> None:
    class Slow(BranchyNet):
        def prediction(self, readings: Sequence[Reading]) -> Reading:
            clock.now += 100
            return readings[-1]

    slow, plain = meter.cost(Slow()).seconds, meter.cost(BranchyNet()).seconds
    assert set((slow - plain).ravel().tolist()) == {100.0}


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
    cost = measure(eager()).cost(FullDepth())
    assert (cost.seconds > 0).all() and np.isfinite(cost.seconds).all()
    assert (np.diff(cost.seconds, axis=0) > 0).all()  # each layer adds its own, measured once


def test_measuring_changes_no_answer() -> None:
    model = tiny_model()
    meter = CostMeter(eager(model), SEQUENCES, num_lengths=2, repeats=1)
    meter.cost(Vee())
    assert all((one == other).all() for one, other in zip(model.parameters(), tiny_model().parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in model.parameters())
