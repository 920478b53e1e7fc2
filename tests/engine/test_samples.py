"""Sample runs: who is drawn, when they run, what becomes of those that fail, and that nobody is the worse for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Seq
from queue import Queue

import numpy as np
import pytest

from service.engine.samples import SampleRun, SampleRuns
from service.engine.sequence import Request, Sequence
from service.engine.shadows import Shadows
from service.exits.policies.budgeted import Budgeted
from service.promise.sampling import SamplingDesign
from service.stepping.every_exit import run_to_full_depth
from service.stepping.stepper import ModelStepper
from service.text.types import EncodedText
from tests.engine.scripted_ import DEADLINE_S, Recorder, ScriptedStepper, answer, make_engine, scripted_request
from tests.models_ import eager, random_sequences

ROOMY = 1_000_000


class Runs:
    """What was reported, from the engine's thread; the first so many reports fail."""

    def __init__(self, failing: int = 0) -> None:
        self._found: Queue[SampleRun] = Queue()
        self._failing = failing

    def __call__(self, run: SampleRun) -> None:
        if self._failing:
            self._failing -= 1
            raise RuntimeError("it cannot be scored")
        self._found.put(run)

    def next(self, count: int) -> list[SampleRun]:
        """Wait for so many, after which there are no more."""
        found = [self._found.get(timeout=DEADLINE_S) for _ in range(count)]
        assert self._found.empty()
        return found


def sampling(
    told: Runs, fraction: float = 1.0, limit_bytes: int = ROOMY, draw: Callable[[], float] = lambda: 0.0
) -> SampleRuns:
    return SampleRuns(SamplingDesign(fraction, limit_bytes, longest_pieces=8), told, draw)


def test_a_drawn_sentence_runs_to_full_depth_behind_its_answer_wherever_it_left() -> None:
    told, runner = Runs(), ScriptedStepper()
    early, deep = scripted_request(2, num_pieces=3), scripted_request(4, num_pieces=5)
    engine = make_engine(runner, samples=sampling(told))
    for request in (early, deep):
        engine.submit(request)
    engine.start()
    told.next(2)
    engine.close()
    assert [(layer, len(sequences)) for layer, sequences in runner.steps] == [
        *((1, 2), (2, 2), (3, 1), (4, 1)),
        *((1, 1), (2, 1), (3, 1), (4, 1)) * 2,
    ]
    samples = [sequences[0].input.num_pieces for layer, sequences in runner.steps[4:] if layer == 4]
    assert samples == [3, 5]


def test_a_sentence_is_drawn_by_its_coin_before_anything_of_it_has_run() -> None:
    draws, steps_at_draw = iter([0.24, 0.25, 0.9, 0.0]), list[int]()
    told, runner = Runs(), ScriptedStepper()

    def draw() -> float:
        steps_at_draw.append(len(runner.steps))
        return next(draws)

    engine = make_engine(runner, samples=sampling(told, 0.25, draw=draw))
    engine.submit(scripted_request(2, 2, 2, 2))
    engine.start()
    assert [run.weight for run in told.next(2)] == [1.0, 1.0]
    engine.close()
    assert steps_at_draw == [0, 0, 0, 0]


def test_a_request_with_a_policy_of_its_own_is_not_sampled() -> None:
    told, runner = Runs(), ScriptedStepper()
    engine = make_engine(runner, samples=(samples := sampling(told)))
    engine.submit(scripted_request(2, override=Budgeted(1)))
    engine.submit(scripted_request(2))
    engine.start()
    told.next(1)
    engine.close()
    assert samples.counts.offered == 1


def test_without_samples_nothing_runs_and_nothing_is_drawn() -> None:
    runner = ScriptedStepper()
    answer(make_engine(runner), scripted_request(2))
    assert [layer for layer, _ in runner.steps] == [1, 2]


def test_what_is_reported_is_what_every_exit_says_of_the_sentence() -> None:
    inputs, told, model = random_sequences([3, 7, 5], seed=3), Runs(), eager()
    engine = make_engine(ModelStepper(model), samples=SampleRuns(SamplingDesign(1.0, ROOMY, 64), told))
    engine.submit(Request((EncodedText("", tuple(inputs)),), math.inf, 0.0))
    engine.start()
    runs = told.next(3)
    engine.close()
    for one, run in zip(inputs, runs, strict=True):
        ((_, alone),) = run_to_full_depth(model, [one])
        assert run.readings is not None and run.owned == one.owned
        for reading, expected in zip(run.readings, alone, strict=True):
            np.testing.assert_allclose(reading.log_probs, expected.log_probs, atol=1e-5)
            assert reading.span_sets == expected.span_sets


def test_when_the_buffer_fills_fewer_are_drawn_and_none_that_was_drawn_is_dropped() -> None:
    told, runner = Runs(), ScriptedStepper()
    samples = sampling(told, limit_bytes=4_000)  # of which one of three pieces takes 275
    engine = make_engine(runner, samples=samples)
    engine.submit(scripted_request(*[2] * 40))
    engine.start()
    weights = [run.weight for run in told.next(samples_drawn(samples))]
    engine.close()
    assert weights == sorted(weights) and weights[0] == 1.0 and weights[-1] > 1.0
    assert samples.counts.uncovered > 0 and samples.counts.offered == 40
    assert samples.used_bytes == 0 and not samples.has_work


def samples_drawn(samples: SampleRuns) -> int:
    """Of the forty sentences, once all have been offered: as many as the design lets in when every coin says yes."""
    design, used, drawn = samples.design, 0, 0
    while design.probability(used):
        used, drawn = used + 275, drawn + 1
    return drawn


def test_a_request_that_comes_meanwhile_waits_for_one_layer_of_one_sample_at_most() -> None:
    told, runner = Runs(), ScriptedStepper()
    draws = iter([0.0, 0.9])
    engine = make_engine(runner, samples=sampling(told, 0.5, draw=lambda: next(draws)))

    def on_step(layer: int, _: Seq[Sequence]) -> None:
        if len(runner.steps) == 4:  # the second layer of the sample
            engine.submit(scripted_request(4))

    runner.on_step = on_step
    engine.submit(scripted_request(2))
    engine.start()
    told.next(1)
    engine.close()
    assert [layer for layer, _ in runner.steps] == [1, 2, *(1, 2), *(1, 2, 3, 4), *(3, 4)]


def test_shadows_and_samples_both_run() -> None:
    told, shadows, runner = Runs(), Queue[bool](), ScriptedStepper()
    engine = make_engine(
        runner, samples=sampling(told), shadows=Shadows(1.0, lambda _, disagrees: shadows.put(disagrees))
    )
    engine.submit(scripted_request(2))
    engine.start()
    told.next(1)
    engine.close()
    assert shadows.get(timeout=DEADLINE_S) is False


@pytest.mark.parametrize("fails_in", ["its run", "its report"])
def test_a_sample_that_fails_is_told_as_one_that_could_not_be_run(
    fails_in: str, caplog: pytest.LogCaptureFixture
) -> None:
    told, runner, request = Runs(failing=fails_in == "its report"), ScriptedStepper(), scripted_request(2, 2)

    def on_step(layer: int, _: Seq[Sequence]) -> None:
        if fails_in == "its run" and len(runner.steps) == 5:  # the third layer of the first sample
            raise RuntimeError("the device is in a bad mood")

    runner.on_step = on_step
    engine = make_engine(runner, samples=sampling(told))
    engine.submit(request)
    engine.start()
    first, second = told.next(2)
    assert engine.is_alive
    engine.close()
    assert first.readings is None and second.readings is not None
    assert request.error is None and "a run in idle time failed" in caplog.text


def test_samples_are_neither_observed_nor_counted_as_load() -> None:
    observer, told, request = Recorder(), Runs(), scripted_request(2)
    engine = make_engine(ScriptedStepper(), observer=observer, samples=sampling(told))
    engine.submit(request)
    engine.start()
    told.next(1)
    assert engine.load().open_pieces == 0 and engine.has_room()
    engine.close()
    assert [step[0] for step in observer.steps] == [1, 2]
    assert observer.left == request.sequences
