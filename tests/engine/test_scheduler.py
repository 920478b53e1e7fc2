"""Who runs next: order, budget, and that nobody is lost on the way."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.scheduler import FULL_SHARE, MAX_PASSED_OVER, Scheduler, Step
from service.engine.sequence import Request, Sequence
from service.exits.policies.full_depth import FullDepth
from tests.engine.scripted_ import script, scripted_input

seeded = settings(derandomize=True, deadline=None, max_examples=200)


def sequences(*lengths: int, layer: int = 0) -> list[Sequence]:
    """Sequences of so many pieces, after `layer`."""
    request = Request((), deadline=0.0, submitted=0.0)
    return [
        Sequence(scripted_input(4, length), FullDepth(), request=request, history=[()] * layer) for length in lengths
    ]


def waiting_for(request: Request, exit_layer: int, length: int) -> Sequence:
    return Sequence(scripted_input(exit_layer, length), FullDepth(), request=request)


def taken(step: Step) -> tuple[int, list[Sequence]]:
    assert step.pieces == sum(sequence.step_pieces for sequence in step.sequences)
    return step.layer, list(step.sequences)


def test_there_is_work_as_long_as_anything_waits() -> None:
    scheduler = Scheduler(4, 100)
    assert not scheduler.has_work
    scheduler.add(sequences(3, layer=2))
    assert scheduler.has_work and taken(scheduler.next_step())[0] == 3
    assert not scheduler.has_work


def request_of(turn: float) -> Request:
    return Request((), deadline=0.0, submitted=0.0, turn=turn)


def due(turn: float, *lengths: int, layer: int = 0) -> list[Sequence]:
    """Sequences of so many pieces, after `layer`, of a request with this turn."""
    request = request_of(turn)
    return [
        Sequence(scripted_input(4, length), FullDepth(), request=request, history=[()] * layer) for length in lengths
    ]


def layers_run(scheduler: Scheduler, steps: int) -> list[int]:
    return [taken(scheduler.next_step())[0] for _ in range(steps)]


def test_the_earliest_turn_runs_first() -> None:
    scheduler = Scheduler(4, 100)
    scheduler.add([*due(3.0, 3), *due(1.0, 3, layer=1), *due(2.0, 3, layer=3)])
    assert layers_run(scheduler, 3) == [2, 4, 1]
    assert not scheduler.has_work


def test_of_equal_turns_the_deepest_runs_first() -> None:
    scheduler = Scheduler(4, 100)
    scheduler.add([*due(1.0, 3, layer=1), *due(1.0, 3), *due(1.0, 3, layer=3)])
    assert layers_run(scheduler, 3) == [4, 2, 1]


def test_a_full_step_goes_before_an_earlier_turn() -> None:
    scheduler = Scheduler(4, 100)
    scheduler.add([*due(1.0, 5, layer=2), *due(2.0, 40, 35)])
    assert layers_run(scheduler, 2) == [1, 3]


def test_of_two_full_steps_the_earlier_turn_runs_first() -> None:
    scheduler = Scheduler(4, 100)
    scheduler.add([*due(2.0, 99, layer=2), *due(1.0, 75)])
    assert layers_run(scheduler, 2) == [1, 3]


def test_those_that_wait_deep_are_joined_by_later_ones_while_full_steps_run_elsewhere() -> None:
    scheduler = Scheduler(4, 100)
    scheduler.add([*due(1.0, 10, layer=1), *due(2.0, 90), *due(3.0, 20, layer=1)])
    assert taken(scheduler.next_step())[0] == 1
    layer, together = taken(scheduler.next_step())
    assert (layer, [sequence.input.num_pieces for sequence in together]) == (2, [10, 20])


def test_nobody_is_passed_over_for_ever_while_full_steps_keep_coming() -> None:
    scheduler = Scheduler(4, 100)
    scheduler.add(due(1.0, 5, layer=2))
    ran = []
    for _ in range(2 * MAX_PASSED_OVER):
        scheduler.add(due(0.5, 100))
        ran += layers_run(scheduler, 1)
    assert ran.index(3) == MAX_PASSED_OVER and ran.count(3) == 1


def test_a_late_turn_comes_however_many_short_ones_keep_coming() -> None:
    scheduler = Scheduler(1, 1)
    (long,) = due(10.0, 1)
    scheduler.add([long])
    ran: list[Sequence] = []
    for now in range(100):
        scheduler.add(due(float(now), 1))
        ran += taken(scheduler.next_step())[1]
    assert ran.index(long) == 10


def test_the_oldest_run_first_within_a_layer() -> None:
    scheduler = Scheduler(4, 6)
    first, second, third = sequences(3, 3, 3)
    scheduler.add([first, second])
    scheduler.add([third])
    assert [taken(scheduler.next_step()) for _ in range(2)] == [(1, [first, second]), (1, [third])]


def test_a_step_holds_as_many_pieces_as_its_budget_and_no_more() -> None:
    scheduler = Scheduler(4, 10)
    waiting = sequences(4, 6, 1)
    scheduler.add(waiting)
    assert taken(scheduler.next_step()) == (1, waiting[:2])


def test_within_a_layer_the_earliest_turn_runs_first_and_its_sequences_stay_in_order() -> None:
    scheduler = Scheduler(4, 6)
    late, early = due(2.0, 3, 3), due(1.0, 3, 3)
    scheduler.add([*late, *early])
    assert [taken(scheduler.next_step()) for _ in range(2)] == [(1, early), (1, late)]


def test_a_short_sequence_does_not_overtake_an_older_long_one_of_the_same_turn() -> None:
    scheduler = Scheduler(4, 10)
    waiting = sequences(8, 5, 2)
    scheduler.add(waiting)
    assert [taken(scheduler.next_step())[1] for _ in range(2)] == [waiting[:1], waiting[1:]]


def test_a_sequence_over_the_budget_runs_alone() -> None:
    scheduler = Scheduler(4, 10)
    waiting = sequences(50, 1)
    scheduler.add(waiting)
    assert [taken(scheduler.next_step())[1] for _ in range(2)] == [waiting[:1], waiting[1:]]


@seeded
@given(
    waves=st.lists(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), max_size=6), max_size=4),
    budget=st.integers(1, 30),
)
def test_every_sequence_runs_every_layer_to_its_exit_once_and_in_order(
    waves: Seq[Seq[tuple[int, int]]], budget: int
) -> None:
    scheduler, request = Scheduler(4, budget), Request((), deadline=0.0, submitted=0.0)
    everyone: list[Sequence] = []
    ran: dict[Sequence, list[int]] = {}
    newcomers = iter(waves)
    while True:
        wave = [waiting_for(request, exit_layer, length) for length, exit_layer in next(newcomers, ())]
        scheduler.add(wave)
        everyone += wave
        if not scheduler.has_work:
            if len(everyone) == sum(map(len, waves)):
                break
            continue
        step = scheduler.next_step()
        assert {sequence.layer for sequence in step.sequences} == {step.layer - 1}
        assert len(step.sequences) == 1 or sum(sequence.input.num_pieces for sequence in step.sequences) <= budget
        for sequence in step.sequences:
            sequence.history.append(())
            ran.setdefault(sequence, []).append(step.layer)
        scheduler.add(sequence for sequence in step.sequences if sequence.layer < script(sequence))
    assert ran == {sequence: list(range(1, script(sequence) + 1)) for sequence in everyone}


def turn_of(sequence: Sequence) -> float:
    return sequence.request.turn


class Model:
    """The scheduler's rule, read off its docstring, over one plain list in order of arrival at a layer."""

    def __init__(self, num_layers: int, budget: int) -> None:
        self.waiting: list[Sequence] = []
        self.passed_over = dict.fromkeys(range(1, num_layers + 1), 0)
        self.budget = budget

    @property
    def may_begin(self) -> bool:
        begun = sum(sequence.input.num_pieces for sequence in self.waiting if sequence.layer)
        return begun < len(self.passed_over) * self.budget

    def next_step(self) -> tuple[int, list[Sequence]] | None:
        before = {
            layer: found
            for layer in self.passed_over
            if (found := sorted((one for one in self.waiting if one.layer + 1 == layer), key=turn_of))
        }
        if not before:
            return None
        with_work = list(before)
        if not self.may_begin:
            before.pop(1, None)
        heads = {layer: turn_of(found[0]) for layer, found in before.items()}
        starving = [layer for layer in before if self.passed_over[layer] >= MAX_PASSED_OVER]
        starved = [layer for layer in starving if self.passed_over[layer] == max(self.passed_over[s] for s in starving)]
        pieces = {layer: sum(sequence.input.num_pieces for sequence in found) for layer, found in before.items()}
        full = {layer for layer in before if pieces[layer] >= FULL_SHARE * self.budget}
        among = [layer for layer in starved if layer in full] or starved or [*full] or [*before]
        chosen = min(among, key=lambda layer: (heads[layer], -layer))
        taken: list[Sequence] = []
        for sequence in before[chosen]:
            if taken and sum(s.input.num_pieces for s in taken) + sequence.input.num_pieces > self.budget:
                break
            taken.append(sequence)
        for layer in with_work:
            self.passed_over[layer] = 0 if layer == chosen else self.passed_over[layer] + 1
        self.waiting = [sequence for sequence in self.waiting if sequence not in taken]
        return chosen, taken


@seeded
@given(
    arrivals=st.lists(
        st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(0, 3)), max_size=4), max_size=30
    ),
    budget=st.integers(1, 30),
)
def test_every_step_is_the_one_of_a_plain_model_and_no_layer_waits_longer_than_allowed(
    arrivals: Seq[Seq[tuple[int, int, int]]], budget: int
) -> None:
    scheduler, model = Scheduler(4, budget), Model(4, budget)
    coming = iter(arrivals)
    remaining = len(arrivals)
    waited: dict[int, int] = {}
    while remaining or model.waiting:
        arrived = [
            waiting_for(request_of(float(turn)), exit_layer, length) for length, exit_layer, turn in next(coming, ())
        ]
        remaining = max(0, remaining - 1)
        scheduler.add(arrived)
        model.waiting += arrived
        may_begin = model.may_begin
        expected = model.next_step()
        assert scheduler.has_work == (expected is not None)
        if expected is None:
            continue
        step = scheduler.next_step()
        assert taken(step) == expected
        layers = {sequence.layer + 1 for sequence in model.waiting} - {step.layer}
        waited = {layer: waited.get(layer, 0) + (may_begin or layer > 1) for layer in layers}
        assert all(steps <= MAX_PASSED_OVER + 4 for steps in waited.values())
        for sequence in step.sequences:
            sequence.history.append(())
        staying = [sequence for sequence in step.sequences if sequence.layer < script(sequence)]
        scheduler.add(staying)
        model.waiting += staying


def test_no_order_of_turns_makes_more_sequences_begin_than_make_a_full_step_of_every_layer() -> None:
    num_layers, budget, longest = 4, 100, 30
    scheduler, begun, most = Scheduler(num_layers, budget), 0, 0
    for number in range(2_000):
        scheduler.add(due(-float(number), longest, 10, 10))  # every newcomer is more urgent than all before it
        layer, moved = taken(scheduler.next_step())
        pieces = sum(sequence.step_pieces for sequence in moved)
        begun += pieces if layer == 1 else -pieces if layer == num_layers else 0
        most = max(most, begun)
        for sequence in moved:
            sequence.history.append(())
        scheduler.add(sequence for sequence in moved if sequence.layer < num_layers)
    assert budget < most <= num_layers * budget + max(budget, longest)
