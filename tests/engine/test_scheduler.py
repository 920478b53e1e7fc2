"""Who runs next: order, budget, and that nobody is lost on the way."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.scheduler import Scheduler, Step
from service.engine.sequence import Request, Sequence
from tests.engine.scripted_ import script, scripted_input

seeded = settings(derandomize=True, deadline=None, max_examples=200)


def sequences(*lengths: int, layer: int = 0) -> list[Sequence]:
    """Sequences of so many pieces, behind `layer`."""
    request = Request((), deadline=0.0, submitted=0.0)
    return [Sequence(request, scripted_input(4, length), history=[()] * layer) for length in lengths]


def taken(step: Step | None) -> tuple[int, list[Sequence]]:
    assert step is not None
    return step.layer, list(step.sequences)


def test_nothing_waiting_gives_no_step() -> None:
    assert Scheduler(4, 100).next_step() is None


def test_the_deepest_layer_runs_first() -> None:
    scheduler = Scheduler(4, 100)
    new, deep, deeper = sequences(3)[0], sequences(3, layer=1)[0], sequences(3, layer=3)[0]
    scheduler.add([deep, new, deeper])
    assert [taken(scheduler.next_step()) for _ in range(3)] == [(4, [deeper]), (2, [deep]), (1, [new])]
    assert scheduler.next_step() is None


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


def test_a_short_sequence_does_not_overtake_an_older_long_one() -> None:
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
        wave = [Sequence(request, scripted_input(exit_layer, length)) for length, exit_layer in next(newcomers, ())]
        scheduler.add(wave)
        everyone += wave
        step = scheduler.next_step()
        if step is None:
            if len(everyone) == sum(map(len, waves)):
                break
            continue
        assert {sequence.layer for sequence in step.sequences} == {step.layer - 1}
        unfinished = [sequence for sequence in everyone if sequence.layer < script(sequence)]
        assert step.layer - 1 == max(sequence.layer for sequence in unfinished)
        assert len(step.sequences) == 1 or sum(sequence.input.num_pieces for sequence in step.sequences) <= budget
        for sequence in step.sequences:
            sequence.history.append(())
            ran.setdefault(sequence, []).append(step.layer)
        scheduler.add(sequence for sequence in step.sequences if sequence.layer < script(sequence))
    assert ran == {sequence: list(range(1, script(sequence) + 1)) for sequence in everyone}
