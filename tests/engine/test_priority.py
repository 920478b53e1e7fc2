"""Bulk work: it runs with what interactive requests leave, in small steps, never starves, and takes nobody's place."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import pytest

from service.engine import engine as engine_module
from service.engine.engine import EngineLimits, EngineLoad
from service.engine.reuse import Reuse
from service.engine.scheduler import BULK_PART, BULK_SHARE, Scheduler
from service.engine.sequence import Priority, Request, Sequence
from service.errors import Overloaded
from service.exits.policies.full_depth import FullDepth
from tests.engine.scripted_ import (
    DEADLINE_S,
    Recorder,
    ScriptedStepper,
    answer,
    exit_layers,
    make_engine,
    scripted_input,
    scripted_request,
    wait_for,
)


def of(priority: Priority, *lengths: int, layer: int = 0) -> list[Sequence]:
    """Sequences of so many pieces, after `layer`."""
    request = Request((), deadline=0.0, submitted=0.0, priority=priority)
    return [Sequence(scripted_input(4, one), FullDepth(), request=request, history=[()] * layer) for one in lengths]


def bulk(*agrees_from: int, num_pieces: int = 3) -> Request:
    request = scripted_request(*agrees_from, num_pieces=num_pieces)
    request.priority = "bulk"
    return request


def test_interactive_sequences_run_first_whatever_the_layer() -> None:
    scheduler = Scheduler(4, 40)
    waiting = of("bulk", 5, layer=3)
    later = of("interactive", 5)
    scheduler.add([*waiting, *later])
    assert [scheduler.next_step().sequences for _ in range(2)] == [tuple(later), tuple(waiting)]
    assert not scheduler.has_work


def test_bulk_steps_are_small() -> None:
    scheduler = Scheduler(4, 10 * BULK_PART)
    scheduler.add(of("bulk", 4, 6, 1))
    assert [scheduler.next_step().pieces for _ in range(2)] == [10, 1]


@pytest.mark.parametrize("length", [10, 60])
def test_bulk_work_gets_its_share_and_no_more_while_interactive_requests_leave_nothing(length: int) -> None:
    """A sequence of 60 pieces is over the budget of a bulk step: the next one waits the longer."""
    scheduler = Scheduler(4, 10 * BULK_PART)
    moved = dict.fromkeys(("interactive", "bulk"), 0)
    for _ in range(4_000):
        scheduler.add([*of("interactive", 40), *of("bulk", length)])
        step = scheduler.next_step()
        moved[step.sequences[0].request.priority] += step.pieces
    assert moved["bulk"] / moved["interactive"] == pytest.approx(BULK_SHARE, rel=0.1)


def test_what_bulk_work_ran_in_a_gap_does_not_count_against_it() -> None:
    scheduler = Scheduler(4, 10 * BULK_PART)
    for _ in range(100):
        scheduler.add(of("bulk", 10))
        scheduler.next_step()
    ran = []
    for _ in range(10):
        scheduler.add([*of("interactive", 40), *of("bulk", 10)])
        ran.append(scheduler.next_step().sequences[0].request.priority)
    assert "bulk" in ran


def test_an_interactive_request_that_comes_meanwhile_waits_for_one_bulk_step_at_most() -> None:
    late = scripted_request(2)

    def on_step(layer: int, sequences: Seq[Sequence]) -> None:
        if late.started == 0.0 and not late.sequences:
            engine.submit(late)

    runner = ScriptedStepper(on_step=on_step)
    engine = make_engine(runner, limits=EngineLimits(max_step_pieces=3 * BULK_PART))
    first = bulk(3, 3, 3)
    engine.submit(first)
    engine.start()
    wait_for([first, late])
    engine.close()
    assert exit_layers(first) == [3, 3, 3] and exit_layers(late) == [2]
    assert [sequences[0].request for _, sequences in runner.steps[:4]] == [first, late, late, first]


def test_bulk_work_gives_way_to_interactive_requests_that_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "GIVE_WAY_S", DEADLINE_S)
    engine, slow, fast = make_engine(ScriptedStepper()), bulk(3), scripted_request(2)
    engine.submit(slow)
    with engine.forecast.enter(1, 1e9):
        engine.start()
        engine.submit(fast)
        wait_for([fast])
        assert not slow.has_started
    wait_for([slow])
    engine.close()
    assert exit_layers(slow) == [3]


def test_bulk_work_gives_way_for_a_while_alone() -> None:
    engine, slow = make_engine(ScriptedStepper()), bulk(3)
    with engine.forecast.enter(1, 1e9):
        answer(engine, slow)
    assert exit_layers(slow) == [3]


def test_each_priority_has_places_of_its_own() -> None:
    engine = make_engine(ScriptedStepper(), limits=EngineLimits(queue_texts=2))
    for _ in range(2):
        engine.submit(bulk(2))
    assert engine.has_room() and not engine.has_room("bulk") and engine.bulk_requests == 2
    with pytest.raises(Overloaded, match="NER_QUEUE_TEXTS"):
        engine.submit(bulk(2))
    engine.submit(scripted_request(2))
    assert engine.has_room()


def test_bulk_work_is_no_load_and_no_queue() -> None:
    recorder = Recorder()
    engine = make_engine(ScriptedStepper(), observer=recorder)
    request = bulk(2, 3)
    engine.submit(request)
    assert engine.load() == EngineLoad(0, 0, 0.0)
    engine.start()
    wait_for([request])
    engine.close()
    assert exit_layers(request) == [2, 3] and engine.bulk_requests == 0
    assert recorder.queue == [] and len(recorder.left) == 2


def test_nobody_who_is_in_a_hurry_waits_for_an_equal_sequence_of_bulk_work() -> None:
    stepper, recorder = ScriptedStepper(), Recorder()
    slow, fast = bulk(3), scripted_request(3)
    answer(make_engine(stepper, reuse=Reuse(), observer=recorder), slow, fast)
    assert [sequences[0].request for _, sequences in stepper.steps] == [fast] * 3 + [slow] * 3
    assert recorder.reused == []


def test_equal_sequences_of_bulk_work_run_once() -> None:
    stepper, recorder = ScriptedStepper(), Recorder()
    answer(make_engine(stepper, reuse=Reuse(), observer=recorder), bulk(3), bulk(3))
    assert len(stepper.steps) == 3 and [source for _, source in recorder.reused] == ["under_way"]
