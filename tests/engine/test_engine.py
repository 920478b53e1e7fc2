"""The engine over a scripted runner: answers, exits, admission, failures, departures, policies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Sequence as Seq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.engine import MAX_WORKER_FAILURES, EngineLimits, EngineLoad
from service.engine.forecast import PATIENCE
from service.engine.scheduler import Scheduler
from service.engine.sequence import Request, Sequence
from service.errors import BadInput, EngineFailed, NotReady, Overloaded, ServiceError, TimedOut
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.policy.captured import CapturedPolicy
from service.spans.types import Span
from service.text.types import EncodedText
from tests.engine.scripted_ import (
    DEADLINE_S,
    Clock,
    Recorder,
    ScriptedStepper,
    answer,
    answered,
    exit_layers,
    make_engine,
    script,
    scripted_request,
    scripted_text,
    wait_for,
)

ONE_AT_A_TIME = EngineLimits(max_step_pieces=1)
seeded = settings(derandomize=True, deadline=None, max_examples=100)


def error_of(request: Request) -> BaseException | None:
    return request.future.exception(timeout=0)


class Fault(Exception):
    """Something the device threw."""


def fail_at(layer: int, number: int = 1) -> Callable[[int, Seq[Sequence]], None]:
    """For `on_step`: throw in the `number`-th step at `layer`."""
    seen: list[int] = []

    def on_step(step_layer: int, _: Seq[Sequence]) -> None:
        seen.append(step_layer)
        if step_layer == layer and seen.count(layer) == number:
            raise Fault("a detail that no caller should read")

    return on_step


# answers and exits


def test_every_sequence_leaves_at_its_own_layer_with_its_own_spans() -> None:
    request, other = scripted_request(2, 4, 3), scripted_request(2)
    answer(make_engine(ScriptedStepper()), request, other)
    assert answered(request).unfinished == 0
    assert (exit_layers(request), exit_layers(other)) == ([2, 4, 3], [2])
    assert [sequence.spans for sequence in request.sequences] == [[Span(0, 1, layer)] for layer in (2, 4, 3)]
    assert [sequence.exit_reason for sequence in request.sequences] == ["vote", "last_layer", "vote"]


def test_sequences_of_several_texts_keep_their_order() -> None:
    request = Request((scripted_text(4, 2), scripted_text(), scripted_text(3)), deadline=1.0, submitted=0.0)
    answer(make_engine(ScriptedStepper()), request)
    assert [sequence.input for sequence in request.sequences] == [
        sequence for text in request.texts for sequence in text.sequences
    ]
    assert exit_layers(request) == [4, 2, 3]


def test_layers_behind_an_exit_are_not_run() -> None:
    runner, request = ScriptedStepper(num_layers=6), scripted_request(2, 5, 3)
    answer(make_engine(runner), request)
    ran = [runner.layers_of(sequence) for sequence in request.sequences]
    assert ran == [[1, 2], [1, 2, 3, 4, 5], [1, 2, 3]]
    assert len(runner.steps) == 5


def test_full_depth_runs_every_layer_over_everyone() -> None:
    runner, request = ScriptedStepper(), scripted_request(2, 3, 4)
    answer(make_engine(runner, live=lambda: CapturedPolicy(FullDepth(), 1)), request)
    assert [runner.layers_of(sequence) for sequence in request.sequences] == [[1, 2, 3, 4]] * 3


def test_a_blank_text_is_answered_at_once_without_a_worker() -> None:
    request, engine = Request((EncodedText(" ", ()),), deadline=0.0, submitted=0.0), make_engine(ScriptedStepper())
    engine.submit(request)
    assert answered(request).sequences == []
    assert request.captured == CapturedPolicy(Vee(), 1)


def test_a_blank_text_gives_its_room_back() -> None:
    engine = make_engine(ScriptedStepper(), limits=EngineLimits(queue_texts=1))
    for _ in range(3):
        engine.submit(Request((EncodedText("", ()),), deadline=0.0, submitted=0.0))


def test_an_answer_holds_on_to_nothing_on_the_device() -> None:
    def fill(_: int, sequences: Seq[Sequence]) -> None:
        for sequence in sequences:
            sequence.state = object()
            sequence.readings.append(object())

    request, failed = scripted_request(2, 4), scripted_request(2)
    answer(make_engine(ScriptedStepper(on_step=fill)), request)
    assert all(sequence.state is None and not sequence.readings for sequence in request.sequences)
    runner = ScriptedStepper(on_step=lambda layer, sequences: [fill(layer, sequences), fail_at(1)(layer, sequences)])
    answer(make_engine(runner), failed)
    assert all(sequence.state is None and not sequence.readings for sequence in failed.sequences)


def test_times_are_kept_where_a_request_passes() -> None:
    clock = Clock(3.0)
    request = scripted_request(2)
    runner = ScriptedStepper(on_step=lambda layer, _: setattr(clock, "now", clock.now + layer))
    answer(make_engine(runner, clock=clock), request)
    assert (request.started, request.finished, request.decode_s) == (3.0, 3.0 + 1 + 2, 0.0)


def test_the_time_of_decoding_is_shared_by_the_sequences_that_leave_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, runner = Clock(), ScriptedStepper()
    request, other = scripted_request(2), scripted_request(2, 2)
    read_spans = runner.read_spans

    def read(sequences: Seq[Sequence]) -> list[list[Span]]:
        clock.now += 6.0
        return read_spans(sequences)

    monkeypatch.setattr(runner, "read_spans", read)
    answer(make_engine(runner, clock=clock), request, other)
    assert (request.decode_s, other.decode_s) == (2.0, 4.0)


def test_the_observer_hears_of_every_step_every_exit_and_the_queue() -> None:
    observer, request, other = Recorder(), scripted_request(2, 3), scripted_request(2)
    answer(make_engine(ScriptedStepper(), observer=observer), request, other)
    assert observer.steps == [(1, 3, 9, 0.0), (2, 3, 9, 0.0), (3, 1, 3, 0.0)]
    assert {*observer.left} == {*request.sequences, *other.sequences} and len(observer.left) == 3
    assert observer.queue[0] == (1, 0) and (0, 2) in observer.queue and observer.queue[-1] == (0, 0)


# admission


def test_more_texts_than_the_queue_holds_are_refused() -> None:
    engine = make_engine(ScriptedStepper(), limits=EngineLimits(queue_texts=2))
    engine.submit(scripted_request(2))
    engine.submit(scripted_request(2))
    assert not engine.has_room()
    with pytest.raises(Overloaded, match=r"2 texts .* 1 and 3 more .* limits of 2 texts \(NER_QUEUE_TEXTS\)"):
        engine.submit(scripted_request(2))


def test_more_pieces_than_the_queue_holds_are_refused() -> None:
    engine = make_engine(ScriptedStepper(), limits=EngineLimits(queue_pieces=10))
    engine.submit(scripted_request(2, num_pieces=9))
    assert engine.has_room()
    with pytest.raises(Overloaded, match="NER_QUEUE_TOKENS"):
        engine.submit(scripted_request(2, num_pieces=2))
    engine.submit(scripted_request(2, num_pieces=1))
    assert not engine.has_room()


def test_a_list_is_admitted_whole_or_not_at_all() -> None:
    engine = make_engine(ScriptedStepper(), limits=EngineLimits(queue_texts=3))
    engine.submit(scripted_request(2))
    with pytest.raises(Overloaded):
        engine.submit(Request((scripted_text(2),) * 3, deadline=1.0, submitted=0.0))
    engine.submit(Request((scripted_text(2),) * 2, deadline=1.0, submitted=0.0))


def test_a_refused_request_never_runs_and_may_be_sent_again() -> None:
    runner, refused = ScriptedStepper(), scripted_request(2)
    engine = make_engine(runner, limits=EngineLimits(queue_texts=1))
    first = scripted_request(3)
    engine.submit(first)
    with pytest.raises(Overloaded):
        engine.submit(refused)
    assert not refused.future.done() and not refused.sequences
    engine.start()
    wait_for([first])
    engine.submit(refused)
    wait_for([refused])
    engine.close()
    assert exit_layers(refused) == [2]


@pytest.mark.parametrize("limits", [EngineLimits(queue_texts=1), EngineLimits(queue_pieces=3)])
def test_an_answer_gives_its_room_back(limits: EngineLimits) -> None:
    engine = make_engine(ScriptedStepper(), limits=limits)
    engine.start()
    for _ in range(3):
        request = scripted_request(2)
        engine.submit(request)
        wait_for([request])
        assert exit_layers(request) == [2]
    engine.close()


@pytest.mark.parametrize("limits", [EngineLimits(queue_texts=1), EngineLimits(queue_pieces=3)])
def test_a_failure_a_departure_and_a_late_answer_give_their_room_back(limits: EngineLimits) -> None:
    engine = make_engine(ScriptedStepper(on_step=fail_at(2)), limits=limits, clock=lambda: 1.0)
    engine.start()
    gone = scripted_request(2)
    gone.is_cancelled = True
    for request in (scripted_request(2), gone, scripted_request(2, deadline=0.5), scripted_request(2)):
        engine.submit(request)
        wait_for([request])
    engine.close()
    assert exit_layers(request) == [2]


# load


def test_the_load_is_what_was_admitted_what_is_open_and_who_waits_longest() -> None:
    clock = Clock()
    loads: list[EngineLoad] = []
    runner = ScriptedStepper(on_step=lambda *_: loads.append(engine.load()))
    engine = make_engine(runner, clock=clock, limits=ONE_AT_A_TIME)
    assert engine.load() == EngineLoad(0, 0, 0.0)
    first, second = scripted_request(2), scripted_request(2, num_pieces=5)
    second.submitted = 1.0
    engine.submit(first)
    engine.submit(second)
    clock.now = 3.0
    assert engine.load() == EngineLoad(8, 8, 3.0)
    engine.start()
    wait_for([first, second])
    engine.close()
    assert loads[0] == EngineLoad(8, 8, 2.0)  # the first has begun
    assert engine.load() == EngineLoad(8, 0, 0.0)


def test_who_lets_others_pass_waits_only_since_its_turn() -> None:
    clock = Clock()
    engine = make_engine(ScriptedStepper(), clock=clock)
    engine.forecast._pace = 1_000.0  # pieces a second
    long = scripted_request(4, num_pieces=950, deadline=100.0)
    engine.submit(long)
    clock.now = PATIENCE  # it takes a second itself
    assert engine.load().waiting_s == 0.0
    clock.now += 2.0
    assert engine.load().waiting_s == pytest.approx(2.0)


def test_a_short_request_passes_a_long_one_that_came_before() -> None:
    runner = ScriptedStepper()
    engine = make_engine(runner, limits=ONE_AT_A_TIME)
    engine.forecast._pace = 1_000.0
    long, short = scripted_request(2, num_pieces=950, deadline=100.0), scripted_request(2, deadline=100.0)
    answer(engine, long, short)
    assert runner.steps[0][1] == short.sequences and runner.steps[-1][1] == long.sequences


def test_a_request_that_was_refused_or_left_is_no_load() -> None:
    engine, gone = make_engine(ScriptedStepper(), limits=EngineLimits(queue_texts=1)), scripted_request(2)
    engine.submit(gone)
    with pytest.raises(Overloaded):
        engine.submit(scripted_request(2))
    engine.cancel(gone)
    assert engine.load() == EngineLoad(3, 0, 0.0)


# failures


def poisoned(at_layer: int, of_script: int) -> Callable[[int, Seq[Sequence]], None]:
    """A step at this layer throws as long as a sequence of this script is in it."""

    def on_step(layer: int, sequences: Seq[Sequence]) -> None:
        if layer == at_layer and any(script(sequence) == of_script for sequence in sequences):
            raise Fault

    return on_step


@seeded
@given(st.lists(st.integers(2, 4), min_size=1, max_size=9), st.integers(1, 4), st.integers(2, 4))
def test_a_poisoned_sequence_fails_alone(scripts: list[int], at_layer: int, of_script: int) -> None:
    requests = [scripted_request(layer) for layer in scripts]
    answer(make_engine(ScriptedStepper(on_step=poisoned(at_layer, of_script))), *requests)
    for request, layer in zip(requests, scripts, strict=True):
        if layer == of_script and layer >= at_layer:
            assert isinstance(error_of(request), EngineFailed)
        else:
            assert exit_layers(request) == [layer]


def test_a_step_too_large_for_the_device_is_run_in_parts() -> None:
    def on_step(_: int, sequences: Seq[Sequence]) -> None:
        if len(sequences) > 2:
            raise MemoryError

    runner, requests = ScriptedStepper(on_step=on_step), [scripted_request(layer) for layer in (2, 3, 4, 2, 3)]
    answer(make_engine(runner), *requests)
    assert [exit_layers(request) for request in requests] == [[2], [3], [4], [2], [3]]
    assert [len(sequences) for layer, sequences in runner.steps if layer == 1] == [5, 2, 3, 1, 2]


def test_a_sequence_that_cannot_be_decoded_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, requests = ScriptedStepper(), [scripted_request(layer) for layer in (2, 3, 2, 3)]
    read_spans = runner.read_spans

    def read(sequences: Seq[Sequence]) -> list[list[Span]]:
        if requests[2].sequences[0] in sequences:
            raise Fault
        return read_spans(sequences)

    monkeypatch.setattr(runner, "read_spans", read)
    answer(make_engine(runner), *requests)
    assert isinstance(error_of(requests[2]), EngineFailed)
    assert [exit_layers(request) for request in (requests[0], requests[1], requests[3])] == [[2], [3], [3]]


def test_a_policy_that_cannot_decide_fails_its_own_sequence_alone() -> None:
    class Undecided(FullDepth):
        def decide(self, *_: object) -> None:
            raise Fault

    undecided = CapturedPolicy(Undecided(), version=1)
    decided = scripted_request(2, override=Vee())
    request = scripted_request(2)
    answer(make_engine(ScriptedStepper(), live=lambda: undecided), request, decided)
    assert isinstance(error_of(request), EngineFailed) and exit_layers(decided) == [2]


def test_a_step_that_hangs_does_not_keep_the_engine_from_closing(caplog: pytest.LogCaptureFixture) -> None:
    arrived, gate = threading.Event(), threading.Event()
    engine = make_engine(ScriptedStepper(on_step=lambda *_: (arrived.set(), gate.wait(DEADLINE_S))))
    hanging, waiting = scripted_request(2), scripted_request(3)
    engine.submit(hanging)
    engine.start()
    assert arrived.wait(DEADLINE_S)
    engine.submit(waiting)
    engine.close(timeout_s=0.01)
    assert engine.has_failed and "did not end within 0.01 s" in caplog.text
    assert isinstance(error_of(hanging), NotReady) and isinstance(error_of(waiting), NotReady)
    gate.set()


def test_a_fault_of_the_worker_costs_the_open_requests_and_nobody_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, lost, following = make_engine(ScriptedStepper()), scripted_request(2), scripted_request(3)
    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "next_step", lambda _: 1 / 0)
        engine.submit(lost)
        engine.start()
        wait_for([lost])
    engine.submit(following)
    wait_for([following])
    assert isinstance(error_of(lost), EngineFailed) and exit_layers(following) == [3]
    assert engine.is_alive and not engine.has_failed
    engine.close()


def test_a_fault_of_the_worker_leaves_nothing_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_: int, sequences: Seq[Sequence]) -> None:
        for sequence in sequences:
            sequence.state = object()
        monkeypatch.setattr(Scheduler, "next_step", lambda _: 1 / 0)

    engine, lost = make_engine(ScriptedStepper(on_step=fill)), scripted_request(3, 4)
    engine.submit(lost)
    engine.start()
    wait_for([lost])
    monkeypatch.undo()
    engine.close()
    assert isinstance(error_of(lost), EngineFailed)
    assert [sequence.state for sequence in lost.sequences] == [None, None]


def test_a_worker_that_keeps_failing_gives_up_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "next_step", lambda _: 1 / 0)
    engine = make_engine(ScriptedStepper())
    engine.start()
    for _ in range(MAX_WORKER_FAILURES):
        request = scripted_request(2)
        engine.submit(request)
        wait_for([request])
        assert isinstance(error_of(request), EngineFailed)
    engine.close()
    assert engine.has_failed and not engine.is_alive
    with pytest.raises(NotReady):
        engine.submit(scripted_request(2))


def test_a_failure_tells_its_callers_nothing_internal_and_the_log_everything(caplog: pytest.LogCaptureFixture) -> None:
    request = scripted_request(2)
    answer(make_engine(ScriptedStepper(on_step=fail_at(1))), request)
    assert "no caller" not in str(error_of(request)) and "the log" in str(error_of(request))
    assert "a detail that no caller should read" in caplog.text and "failed, with 0 layers run" in caplog.text


def test_the_next_request_after_a_failure_succeeds() -> None:
    engine = make_engine(ScriptedStepper(on_step=fail_at(1)))
    engine.start()
    failing, following = scripted_request(2), scripted_request(2)
    engine.submit(failing)
    wait_for([failing])
    engine.submit(following)
    wait_for([following])
    assert engine.is_alive and exit_layers(following) == [2]
    engine.close()


def test_a_request_that_lost_one_sequence_runs_no_other() -> None:
    runner, request, following = ScriptedStepper(on_step=fail_at(2)), scripted_request(2, 2, 2), scripted_request(3)
    answer(make_engine(runner, limits=ONE_AT_A_TIME), request, following)
    assert isinstance(error_of(request), EngineFailed) and exit_layers(following) == [3]
    assert [runner.layers_of(sequence) for sequence in request.sequences] == [[1, 2], [], []]


def test_decoding_that_throws_fails_its_callers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_spans(_: Seq[Sequence]) -> list[list[Span]]:
        raise Fault

    runner, request = ScriptedStepper(), scripted_request(2)
    monkeypatch.setattr(runner, "read_spans", read_spans)
    answer(make_engine(runner), request)
    assert isinstance(error_of(request), EngineFailed)


# departures and time limits


def test_the_observer_hears_at_once_of_a_request_whose_caller_left() -> None:
    observer, request = Recorder(), scripted_request(2)
    engine = make_engine(ScriptedStepper(), observer=observer)
    engine.submit(request)
    engine.cancel(request)
    assert observer.queue == [(1, 0), (0, 0)]


def test_a_request_that_waited_too_long_is_not_run() -> None:
    clock, runner = Clock(), ScriptedStepper()
    late, early = scripted_request(2, deadline=4.0), scripted_request(2, deadline=5.0)
    engine = make_engine(runner, clock=clock)
    engine.submit(late)
    engine.submit(early)
    clock.now = 4.5
    engine.start()
    wait_for([late, early])
    engine.close()
    assert isinstance(error_of(late), TimedOut) and exit_layers(early) == [2]
    assert runner.layers_of(late.sequences[0]) == []


def test_a_time_limit_that_passes_between_layers_ends_the_request_there() -> None:
    clock = Clock()
    runner = ScriptedStepper(on_step=lambda layer, _: setattr(clock, "now", float(layer)))
    late, patient = scripted_request(4, deadline=1.5), scripted_request(4)
    answer(make_engine(runner, clock=clock), late, patient)
    assert isinstance(error_of(late), TimedOut) and exit_layers(patient) == [4]
    assert runner.layers_of(late.sequences[0]) == [1, 2]


def test_a_request_whose_caller_left_is_dropped_at_the_next_layer_boundary() -> None:
    gone, stays = scripted_request(4, 4), scripted_request(4)
    runner = ScriptedStepper(on_step=lambda layer, _: setattr(gone, "is_cancelled", layer >= 2))
    answer(make_engine(runner), gone, stays)
    assert type(error_of(gone)) is ServiceError and exit_layers(stays) == [4]
    assert [runner.layers_of(sequence) for sequence in gone.sequences] == [[1, 2], [1, 2]]


def test_a_caller_that_leaves_while_queued_costs_nothing() -> None:
    runner, observer, gone = ScriptedStepper(), Recorder(), scripted_request(4)
    gone.is_cancelled = True
    answer(make_engine(runner, observer=observer), gone)
    assert runner.steps == [] and not gone.has_started
    assert observer.queue == [(1, 0), (0, 0)]


def test_an_answer_that_is_ready_is_given_though_its_time_limit_passed_meanwhile() -> None:
    clock = Clock()
    runner = ScriptedStepper(on_step=lambda layer, _: setattr(clock, "now", float(layer)))
    request = scripted_request(2, deadline=1.0)
    answer(make_engine(runner, clock=clock), request)
    assert exit_layers(request) == [2]


# policies


def test_the_policy_is_captured_when_the_first_sequence_starts_and_kept_by_all() -> None:
    live = [CapturedPolicy(FullDepth(), 1)]
    runner = ScriptedStepper(on_step=lambda *_: live.append(CapturedPolicy(Budgeted(1), live[-1].version + 1)))
    request = scripted_request(2, 3)
    engine = make_engine(runner, live=lambda: live[-1], limits=ONE_AT_A_TIME)
    engine.submit(request)
    live.append(CapturedPolicy(Vee(), 2))  # after submit, before the start
    engine.start()
    wait_for([request])
    engine.close()
    assert request.captured == CapturedPolicy(Vee(), 2)
    assert exit_layers(request) == [2, 3]


def test_a_request_that_starts_after_a_change_follows_the_new_policy() -> None:
    live = [CapturedPolicy(Vee(), 1)]
    runner = ScriptedStepper(on_step=lambda *_: live.append(CapturedPolicy(Budgeted(1), live[-1].version + 1)))
    first, second = scripted_request(2), scripted_request(2)
    answer(make_engine(runner, live=lambda: live[-1], limits=ONE_AT_A_TIME), first, second)
    assert (exit_layers(first), exit_layers(second)) == ([2], [1])
    assert second.captured == CapturedPolicy(Budgeted(1), 3)


def test_an_override_wins_over_the_live_policy_and_says_so() -> None:
    request, other = scripted_request(2, override=Budgeted(3)), scripted_request(2)
    answer(make_engine(ScriptedStepper(), live=lambda: CapturedPolicy(Vee(), 7)), request, other)
    assert request.captured == CapturedPolicy(Budgeted(3), 7, is_override=True)
    assert (exit_layers(request), exit_layers(other)) == ([3], [2])


def test_sequences_under_different_policies_share_a_step() -> None:
    policies: list[ExitPolicy] = [Vee(), Vee(patience=2), Budgeted(1), FullDepth()]
    requests = [scripted_request(2, override=policy) for policy in policies]
    runner = ScriptedStepper()
    answer(make_engine(runner), *requests)
    assert [exit_layers(request) for request in requests] == [[2], [3], [1], [4]]
    assert [len(sequences) for _, sequences in runner.steps] == [4, 3, 2, 1]


# the worker's life


def test_close_answers_what_was_admitted_and_admits_no_more() -> None:
    engine, requests = make_engine(ScriptedStepper()), [scripted_request(2), scripted_request(4), scripted_request(3)]
    for request in requests:
        engine.submit(request)
    engine.start()
    engine.close()
    assert [exit_layers(request) for request in requests] == [[2], [4], [3]]
    with pytest.raises(NotReady):
        engine.submit(scripted_request(2))
    assert not engine.is_alive


def test_an_engine_that_never_started_closes() -> None:
    engine = make_engine(ScriptedStepper())
    engine.close()
    assert not engine.is_alive


def test_an_idle_engine_is_alive() -> None:
    engine = make_engine(ScriptedStepper())
    engine.start()
    assert engine.is_alive and engine.step_age_s() == 0.0
    engine.close()


def test_an_engine_whose_step_is_overdue_is_not_alive() -> None:
    clock, seen = Clock(), []

    def on_step(layer: int, _: Seq[Sequence]) -> None:
        clock.now += 10.0 * layer
        seen.append((engine.step_age_s(), engine.is_alive))

    engine = make_engine(ScriptedStepper(on_step=on_step), limits=EngineLimits(step_overdue_s=15.0), clock=clock)
    answer(engine, scripted_request(2))
    assert seen == [(10.0, True), (20.0, False)]
    assert engine.step_age_s() == 0.0


def test_requests_from_many_threads_are_all_answered() -> None:
    engine, barrier = make_engine(ScriptedStepper(), limits=EngineLimits(max_step_pieces=9)), threading.Barrier(8)
    requests = [[scripted_request(2 + (thread + i) % 3) for i in range(20)] for thread in range(8)]

    def submit(own: list[Request]) -> None:
        barrier.wait(DEADLINE_S)
        for request in own:
            engine.submit(request)

    threads = [threading.Thread(target=submit, args=(own,)) for own in requests]
    engine.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    everyone = [request for own in requests for request in own]
    wait_for(everyone)
    engine.close()
    assert all(exit_layers(request) == [script(request.sequences[0])] for request in everyone)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    scripts=st.lists(st.lists(st.integers(2, 4), max_size=4), min_size=1, max_size=6),
    failing=st.sets(st.integers(1, 25), max_size=4),
    unreadable=st.sets(st.integers(1, 25), max_size=2),
    leaving=st.dictionaries(st.integers(0, 5), st.integers(0, 12), max_size=3),
    deadlines=st.dictionaries(st.integers(0, 5), st.integers(0, 12), max_size=3),
    budget=st.integers(1, 20),
)
def test_whatever_happens_every_request_is_answered_and_its_room_given_back(
    scripts: list[list[int]],
    failing: set[int],
    unreadable: set[int],
    leaving: dict[int, int],
    deadlines: dict[int, int],
    budget: int,
) -> None:
    """Step numbers stand for time: at which step something throws, a caller leaves, a time limit passes."""
    requests = [scripted_request(*layers, deadline=deadlines.get(i, 99)) for i, layers in enumerate(scripts)]
    admitted, late = requests[::2], requests[1::2]
    steps: list[int] = []

    def on_step(*_: object) -> None:
        steps.append(len(steps) + 1)
        for index, request in enumerate(requests):
            request.is_cancelled = steps[-1] >= leaving.get(index, 99)
        if late:
            admitted.append(late.pop())
            engine.submit(admitted[-1])
        if steps[-1] in failing:
            raise Fault

    class Unreadable(ScriptedStepper):
        def read_spans(self, sequences: Seq[Sequence]) -> list[list[Span]]:
            if steps[-1] in unreadable:
                raise Fault
            return super().read_spans(sequences)

    limits = EngineLimits(queue_texts=len(requests), max_step_pieces=budget)
    engine = make_engine(Unreadable(on_step=on_step), limits=limits, clock=lambda: float(len(steps)))
    for request in admitted:
        engine.submit(request)
    engine.start()
    while not all(request.future.done() for request in admitted):  # a step may admit more
        wait_for(admitted)
    for request in admitted:
        error = error_of(request)
        if error is None:
            assert exit_layers(request) == [script(s) for s in request.sequences]
        else:
            assert isinstance(error, ServiceError) and (failing or unreadable or leaving or deadlines)
        assert not any(sequence.readings for sequence in request.sequences)
    engine.submit(Request((EncodedText("", ()),) * len(requests), deadline=0.0, submitted=0.0))  # all room is free
    engine.close()


def test_an_engine_that_never_started_refuses_what_it_admitted_when_it_closes() -> None:
    engine, request = make_engine(ScriptedStepper()), scripted_request(2)
    engine.submit(request)
    engine.close()
    with pytest.raises(NotReady):
        request.future.result(timeout=0)


def test_a_cancelled_request_gives_its_room_back_at_once() -> None:
    engine, request = make_engine(ScriptedStepper(), limits=EngineLimits(queue_texts=1)), scripted_request(2)
    engine.submit(request)
    assert not engine.has_room()
    engine.cancel(request)
    assert engine.has_room()
    assert request.future.done()


def test_an_observer_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recorder):
        def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
            raise RuntimeError("broken observer")

        def queue_changed(self, waiting: int, running: int) -> None:
            raise RuntimeError("broken observer")

    request = scripted_request(3)
    answer(make_engine(ScriptedStepper(), observer=Broken()), request)
    assert exit_layers(request) == [3]
    assert "an observer failed" in caplog.text


def test_changes_that_no_longer_fit_the_live_policy_fail_their_request_alone() -> None:
    live = [CapturedPolicy(Vee(), 1)]
    request, other = scripted_request(2, override=Budgeted(2)), scripted_request(2)
    engine = make_engine(ScriptedStepper(), live=lambda: live[-1])
    engine.submit(request)
    engine.submit(other)
    request.override = {"strategy": "unheard of"}  # as if the policy that is in force now had made it so
    live.append(CapturedPolicy(Vee(), 2))
    engine.start()
    wait_for([request, other])
    engine.close()
    with pytest.raises(BadInput, match="unheard of"):
        request.future.result(timeout=0)
    assert exit_layers(other) == [2]


def test_changes_that_do_not_fit_are_refused_before_they_wait() -> None:
    request, engine = scripted_request(2), make_engine(ScriptedStepper())
    request.override = {"strategy": "unheard of"}
    with pytest.raises(BadInput, match="unheard of"):
        engine.submit(request)
    assert engine.load().open_pieces == 0


def test_a_policy_is_captured_once_while_no_other_comes_into_force() -> None:
    asked: list[str] = []

    def live() -> CapturedPolicy:
        asked.append("live")
        return CapturedPolicy(Vee(), 1)

    request, engine = scripted_request(2, 3, 4), make_engine(ScriptedStepper(), live=live)
    engine.submit(request)
    captured = request.captured
    engine.start()
    wait_for([request])
    engine.close()
    assert request.captured is captured and {id(sequence.policy) for sequence in request.sequences} == {
        id(captured.policy)
    }  # type: ignore[union-attr]
    assert len(asked) == 2  # at its admission, and whether that still holds at its start


# preparation


def test_prepare_runs_in_the_workers_thread_before_the_first_step_and_start_waits_for_it() -> None:
    happened: list[tuple[str, str]] = []

    def note(what: str) -> None:
        happened.append((what, threading.current_thread().name))

    runner = ScriptedStepper(on_step=lambda layer, _: note(f"layer {layer}"))
    engine = make_engine(runner, prepare=lambda: note("prepare"))
    request = scripted_request(2)
    engine.submit(request)
    engine.start()
    assert happened[0] == ("prepare", "engine")
    wait_for([request])
    engine.close()
    assert happened == [("prepare", "engine"), ("layer 1", "engine"), ("layer 2", "engine")]


def test_what_prepare_raises_is_raised_by_start_and_every_request_gets_an_answer() -> None:
    def fail() -> None:
        raise ValueError("no device")

    engine, request = make_engine(ScriptedStepper(), prepare=fail), scripted_request(2)
    engine.submit(request)
    with pytest.raises(ValueError, match="no device"):
        engine.start()
    engine.close()
    assert not engine.is_alive
    assert isinstance(error_of(request), NotReady)
