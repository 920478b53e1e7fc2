"""Shadow runs: who goes on to full depth after its answer, when, and that nobody is the worse for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from queue import Queue

import pytest

from service.engine.engine import Engine, EngineLimits
from service.engine.scheduler import Scheduler
from service.engine.sequence import Request, Sequence
from service.engine.shadows import MOST_KEPT, Shadows
from service.errors import EngineFailed, NotReady
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee
from service.policy.captured import CapturedPolicy
from service.spans.types import Span
from service.stepping.stepper import ModelStepper
from service.text.types import EncodedText
from tests.engine.scripted_ import (
    DEADLINE_S,
    Clock,
    Recorder,
    ScriptedStepper,
    answer,
    exit_layers,
    make_engine,
    scripted_request,
    wait_for,
)
from tests.models_ import eager, random_sequences

LIVE = CapturedPolicy(Vee(), version=1)


class Reports:
    """What shadows reported; the answers come from the engine's thread."""

    def __init__(self) -> None:
        self._found: Queue[tuple[CapturedPolicy, bool]] = Queue()

    def __call__(self, captured: CapturedPolicy, disagrees: bool) -> None:
        self._found.put((captured, disagrees))

    def next(self, count: int) -> list[tuple[CapturedPolicy, bool]]:
        """Wait for so many."""
        return [self._found.get(timeout=DEADLINE_S) for _ in range(count)]

    @property
    def is_empty(self) -> bool:
        return self._found.empty()


class LayerSpansRunner(ScriptedStepper):
    """Its exits find what `spans_of` says of their layer."""

    def __init__(self, spans_of: Callable[[int], list[Span]]) -> None:
        super().__init__()
        self._spans_of = spans_of

    def read_spans(self, sequences: Seq[Sequence]) -> list[list[Span]]:
        return [self._spans_of(sequence.layer) for sequence in sequences]


def run_all(runner: ScriptedStepper, *requests: Request, reports: int) -> list[tuple[CapturedPolicy, bool]]:
    """Answer the requests, and run every early leaver on; -> so many reports, after which there are no more."""
    told = Reports()
    engine = make_engine(runner, shadows=Shadows(1.0, told))
    for request in requests:
        engine.submit(request)
    engine.start()
    wait_for(requests)
    found = told.next(reports)
    engine.close()
    assert told.is_empty
    return found


# who, and what is compared


def test_an_early_leaver_goes_on_to_full_depth_behind_its_answer() -> None:
    runner, request = ScriptedStepper(), scripted_request(2)
    assert run_all(runner, request, reports=1) == [(LIVE, False)]
    assert exit_layers(request) == [2]
    assert [layer for layer, _ in runner.steps] == [1, 2, 3, 4]
    assert runner.layers_of(request.sequences[0]) == [1, 2]


def test_who_leaves_at_the_last_layer_or_under_a_policy_of_its_own_casts_no_shadow() -> None:
    runner, early = ScriptedStepper(), scripted_request(3)
    own = scripted_request(2, override=Budgeted(1))
    assert run_all(runner, scripted_request(4), own, early, reports=1) == [(LIVE, False)]
    after = [len(sequences) for layer, sequences in runner.steps if layer == 4]
    assert after == [1, 1]  # the one that left there, and the shadow


@pytest.mark.parametrize(
    ("at_full_depth", "disagrees"),
    [
        ([Span(0, 1, 1, 0.9)], False),
        ([Span(0, 1, 1, 0.5)], False),  # a score is no entity
        ([Span(0, 1, 2, 0.9)], True),
        ([Span(0, 2, 1, 0.9)], True),
        ([Span(0, 1, 1), Span(2, 3, 1)], True),
        ([], True),
    ],
)
def test_a_disagreement_is_another_set_of_entities(at_full_depth: list[Span], disagrees: bool) -> None:
    runner = LayerSpansRunner(lambda layer: at_full_depth if layer == 4 else [Span(0, 1, 1, 0.9)])
    assert run_all(runner, scripted_request(2), reports=1) == [(LIVE, disagrees)]


def test_a_fraction_of_the_early_leavers_is_drawn() -> None:
    draws, told, runner = iter([0.24, 0.25, 0.9, 0.0, 0.7, 0.1]), Reports(), ScriptedStepper()
    shadows = Shadows(0.25, told, draw=lambda: next(draws))
    requests = [scripted_request(2, num_pieces=number) for number in range(1, 7)]
    engine = make_engine(runner, shadows=shadows)
    for request in requests:
        engine.submit(request)
    engine.start()
    told.next(3)
    engine.close()
    assert told.is_empty
    assert [sequences[0].input.num_pieces for layer, sequences in runner.steps if layer == 4] == [1, 4, 6]


def test_a_fraction_of_zero_runs_none() -> None:
    runner, request = ScriptedStepper(), scripted_request(2)
    answer(make_engine(runner, shadows=Shadows(0.0, draw=lambda: 0.0)), request)
    assert [layer for layer, _ in runner.steps] == [1, 2]


def test_a_shadow_disagrees_where_full_depth_would_have_answered_otherwise() -> None:
    inputs = random_sequences([3, 7, 12, 5, 9, 2, 8, 11], seed=3)
    answers = {}
    for policy in (Budgeted(1), FullDepth()):
        request = Request((EncodedText("", tuple(inputs)),), math.inf, 0.0, override=policy.to_json())
        answer(make_engine(ModelStepper(eager())), request)
        answers[policy] = [{span[:3] for span in sequence.spans} for sequence in request.sequences]
    expected = [early != late for early, late in zip(answers[Budgeted(1)], answers[FullDepth()], strict=True)]
    assert set(expected) == {True, False}  # both are seen below
    told, live = Reports(), CapturedPolicy(Budgeted(1), version=3)
    engine = make_engine(ModelStepper(eager()), live=lambda: live, shadows=Shadows(1.0, told))
    engine.submit(Request((EncodedText("", tuple(inputs)),), math.inf, 0.0))
    engine.start()
    assert told.next(len(inputs)) == [(live, disagrees) for disagrees in expected]
    engine.close()


# when


def test_a_shadow_waits_until_no_request_has_a_step_to_run() -> None:
    runner, leaver, deep = ScriptedStepper(), scripted_request(2), scripted_request(4, 4)
    run_all(runner, leaver, deep, reports=1)
    assert [(layer, len(sequences)) for layer, sequences in runner.steps] == [
        *((1, 3), (2, 3), (3, 2), (4, 2)),
        *((3, 1), (4, 1)),
    ]


def test_a_request_that_comes_meanwhile_waits_for_one_layer_of_one_shadow_at_most() -> None:
    runner, leaver, late, told = ScriptedStepper(), scripted_request(2), scripted_request(4), Reports()
    engine = make_engine(runner, shadows=Shadows(1.0, told))

    def on_step(layer: int, _: Seq[Sequence]) -> None:
        if (layer, len(runner.steps)) == (3, 3):  # the first layer of the shadow
            engine.submit(late)

    runner.on_step = on_step
    engine.submit(leaver)
    engine.start()
    told.next(1)
    engine.close()
    assert [layer for layer, _ in runner.steps] == [1, 2, 3, *(1, 2, 3, 4), 4]


def test_few_are_kept_and_the_oldest_make_way() -> None:
    runner, told = ScriptedStepper(), Reports()
    engine = make_engine(runner, shadows=Shadows(1.0, told), limits=EngineLimits(max_step_pieces=1))
    requests = [scripted_request(2, num_pieces=1 + number) for number in range(MOST_KEPT + 4)]
    for request in requests:
        engine.submit(request)
    engine.start()
    told.next(MOST_KEPT)
    engine.close()
    assert told.is_empty
    shadows = [sequence.input.num_pieces for layer, (sequence,) in runner.steps if layer == 4]
    assert shadows == list(range(5, MOST_KEPT + 5))


# nobody is the worse for it


def test_shadows_are_neither_observed_nor_counted() -> None:
    observer, told, request = Recorder(), Reports(), scripted_request(2)
    engine = make_engine(ScriptedStepper(), observer=observer, shadows=Shadows(1.0, told))
    engine.submit(request)
    engine.start()
    told.next(1)
    assert engine.load().open_pieces == 0 and engine.has_room()
    engine.close()
    assert [step[0] for step in observer.steps] == [1, 2]
    assert observer.left == request.sequences and observer.queue[-1] == (0, 0)


def test_a_shadow_that_fails_costs_nobody_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    has_failed = threading.Event()

    def on_step(layer: int, _: Seq[Sequence]) -> None:
        if layer == 3:
            has_failed.set()
            raise RuntimeError("the device is in a bad mood")

    told, request, following = Reports(), scripted_request(2), scripted_request(1, override=Budgeted(2))
    engine = make_engine(ScriptedStepper(on_step=on_step), shadows=Shadows(1.0, told))
    engine.start()
    engine.submit(request)
    assert has_failed.wait(DEADLINE_S)
    engine.submit(following)
    wait_for([request, following])
    assert engine.is_alive
    engine.close()
    assert (exit_layers(request), exit_layers(following)) == ([2], [2])
    assert told.is_empty and "a run in idle time failed" in caplog.text


def test_a_shadow_that_hangs_shows_as_an_overdue_step() -> None:
    clock, told, was_alive = Clock(), Reports(), list[bool]()
    runner = ScriptedStepper()

    def on_step(layer: int, _: Seq[Sequence]) -> None:
        clock.now += 20.0
        was_alive.append(engine.is_alive)
        clock.now += 20.0 if layer > 2 else 0.0
        was_alive.append(engine.is_alive)

    runner.on_step = on_step
    engine = make_engine(runner, clock=clock, shadows=Shadows(1.0, told))
    engine.submit(scripted_request(2))
    engine.start()
    told.next(1)
    assert engine.is_alive
    engine.close()
    assert was_alive == [True, True, True, True, True, False, True, False]


def test_an_engine_that_closes_drops_its_shadows() -> None:
    runner, told, request = ScriptedStepper(), Reports(), scripted_request(2)
    shadows = Shadows(1.0, told)
    engine = make_engine(runner, shadows=shadows)
    closing, has_begun = threading.Thread(target=engine.close), threading.Event()

    def on_step(layer: int, _: Seq[Sequence]) -> None:
        if layer == 3:  # the shadow's first
            closing.start()
            wait_until_closing(engine)
            has_begun.set()

    runner.on_step = on_step
    engine.submit(request)
    engine.start()
    assert has_begun.wait(DEADLINE_S)
    closing.join(DEADLINE_S)
    assert [layer for layer, _ in runner.steps] == [1, 2, 3]
    assert told.is_empty and not shadows.has_work


def wait_until_closing(engine: Engine) -> None:
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while time.monotonic() < deadline:
        try:
            engine.submit(Request((EncodedText("", ()),), math.inf, 0.0))
        except NotReady:
            return
        pause.wait(0.001)
    raise TimeoutError("the engine never closed")


def test_a_fault_of_the_worker_drops_the_shadows(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, told, leaver, lost = ScriptedStepper(), Reports(), scripted_request(2), scripted_request(3)
    engine = make_engine(runner, shadows=Shadows(1.0, told))

    def on_step(layer: int, _: Seq[Sequence]) -> None:
        if (layer, len(runner.steps)) == (3, 3):
            monkeypatch.setattr(Scheduler, "next_step", lambda _: 1 / 0)
            engine.submit(lost)

    runner.on_step = on_step
    engine.submit(leaver)
    engine.start()
    wait_for([leaver, lost])
    monkeypatch.undo()
    engine.close()
    assert isinstance(lost.future.exception(), EngineFailed)
    assert told.is_empty
