"""Equal sequences: computed once while under way, answered from the cache afterwards, and who is always run."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence as Seq
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from service.engine.engine import Engine
from service.engine.reuse import AnswerCache, Key, Outcome, Reuse
from service.engine.sequence import Request, Sequence
from service.errors import EngineFailed
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.vee import Vee
from service.policy.captured import CapturedPolicy
from service.spans.types import Span
from service.text.types import EncodedText, SequenceInput
from tests.engine.scripted_ import Recorder, ScriptedStepper, answer, answered, make_engine, scripted_request, wait_for

LIVE = CapturedPolicy(Vee(), version=1)
SPANS = [Span(0, 1, 1, 0.75)]


def outcomes(request: Request) -> list[tuple[int, str | None, list[Span]]]:
    return [(one.layer, one.exit_reason, one.spans) for one in answered(request).sequences]


def runs(stepper: ScriptedStepper) -> int:
    """How many sequences ran the first layer."""
    return sum(len(sequences) for layer, sequences in stepper.steps if layer == 1)


def one_after_the_other(engine: Engine, *requests: Request) -> None:
    engine.start()
    for request in requests:
        engine.submit(request)
        wait_for([request])
    engine.close()


def key(number: int) -> Key:
    return number.to_bytes(8), b"", b"", b"", (1, (0, 1), 1, 0)


def test_equal_sequences_under_way_run_once_and_have_the_same_answer() -> None:
    stepper, recorder = ScriptedStepper(), Recorder()
    request, other = scripted_request(3, 2, 3), scripted_request(3)
    answer(make_engine(stepper, reuse=Reuse(), observer=recorder), request, other)
    assert runs(stepper) == 2
    alone = scripted_request(3)
    answer(make_engine(ScriptedStepper()), alone)
    assert outcomes(other) == outcomes(alone) == [outcomes(request)[0]] == [outcomes(request)[2]]
    assert [source for _, source in recorder.reused] == ["under_way", "under_way"]
    assert len(recorder.left) == 2  # nobody counts layers that did not run


def test_without_reuse_every_sequence_runs() -> None:
    stepper = ScriptedStepper()
    answer(make_engine(stepper), scripted_request(3, 3))
    assert runs(stepper) == 2


def test_an_equal_sequence_that_comes_later_joins_the_one_that_has_begun() -> None:
    first, late = scripted_request(4), scripted_request(4)
    late.submitted = -1.0  # so its turn is earlier, and its layer 1 comes next

    def on_step(layer: int, _: Seq[Sequence]) -> None:
        if layer == 2:
            engine.submit(late)

    stepper = ScriptedStepper(on_step=on_step)
    engine = make_engine(stepper, reuse=Reuse())
    engine.submit(first)
    engine.start()
    wait_for([first, late])
    engine.close()
    assert runs(stepper) == 1
    assert outcomes(late) == outcomes(first)


def test_who_follows_a_cancelled_sequence_runs_on_its_own() -> None:
    first, second, third = (scripted_request(3) for _ in range(3))

    def on_step(layer: int, sequences: Seq[Sequence]) -> None:
        if layer == 1 and sequences[0].request is first:
            engine.cancel(first)

    stepper = ScriptedStepper(on_step=on_step)
    engine = make_engine(stepper, reuse=Reuse())
    answer(engine, first, second, third)
    assert runs(stepper) == 2  # the one that was cancelled, then one for the two others
    assert outcomes(second) == outcomes(third) == [(3, "vote", [Span(0, 1, 3)])]


def test_who_follows_a_sequence_that_fails_runs_on_its_own() -> None:
    first, second = scripted_request(3), scripted_request(3)

    def on_step(layer: int, sequences: Seq[Sequence]) -> None:
        if layer == 2 and sequences[0].request is first:
            raise RuntimeError("the device threw something")

    answer(make_engine(ScriptedStepper(on_step=on_step), reuse=Reuse()), first, second)
    assert isinstance(first.future.exception(timeout=0), EngineFailed)
    assert outcomes(second) == [(3, "vote", [Span(0, 1, 3)])]


def test_a_request_with_a_policy_of_its_own_and_one_that_is_inspected_always_run() -> None:
    stepper, reuse = ScriptedStepper(), Reuse(AnswerCache(100_000))
    plain, own = scripted_request(3), scripted_request(3, override=FullDepth())
    one_after_the_other(make_engine(stepper, reuse=reuse), plain, own)
    assert (runs(stepper), outcomes(own)[0][0]) == (2, 4)
    traced = captured(scripted_request(3))
    (given,) = traced.texts[0].sequences
    inspected = Sequence(given, Vee(), keeps_every_exit=True, request=traced)
    assert reuse.begin([inspected]) == ([inspected], [])


def captured(request: Request, policy: CapturedPolicy = LIVE) -> Request:
    request.captured = policy
    return request


def test_an_answer_is_given_again_from_the_cache_without_a_step() -> None:
    stepper, recorder = ScriptedStepper(), Recorder()
    requests = [scripted_request(3), scripted_request(3), scripted_request(2)]
    one_after_the_other(make_engine(stepper, reuse=Reuse(AnswerCache(100_000)), observer=recorder), *requests)
    assert runs(stepper) == 2
    assert outcomes(requests[1]) == outcomes(requests[0])
    assert [source for _, source in recorder.reused] == ["cache"]


def test_another_version_of_the_policy_has_answers_of_its_own() -> None:
    versions = count(1)
    stepper = ScriptedStepper()
    engine = make_engine(
        stepper, live=lambda: CapturedPolicy(Vee(), version=next(versions)), reuse=Reuse(AnswerCache(100_000))
    )
    one_after_the_other(engine, scripted_request(3), scripted_request(3))
    assert runs(stepper) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"piece_ids": np.array([3, 3, 4])},
        {"shape_ids": np.array([0, 1, 0])},
        {"last_piece": np.array([2])},
        {"owned": (0, 0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_only_what_the_model_reads_alike_is_equal(change: dict[str, object]) -> None:
    (given,) = scripted_request(3).texts[0].sequences
    reuse = Reuse(AnswerCache(100_000))

    def begin(one: SequenceInput) -> int:
        request = captured(Request((EncodedText("", (one,)),), deadline=1.0, submitted=0.0))
        return len(reuse.begin([Sequence(one, Vee(), request=request)])[0])

    assert begin(given) == 1
    assert begin(replace(given, word_starts=np.array([7]), word_ends=np.array([9]))) == 0  # it stands elsewhere
    assert begin(replace(given, **change)) == 1


def test_the_cache_keeps_within_its_bytes_and_drops_what_was_not_asked_for_the_longest() -> None:
    outcome = Outcome(2, "vote", SPANS)
    cache = AnswerCache(3 * outcome.num_bytes)
    for number in range(3):
        cache.put(key(number), outcome)
    assert cache.get(key(0)) is outcome
    cache.put(key(3), outcome)
    assert [number for number in range(4) if cache.get(key(number))] == [0, 2, 3]
    cache.put(key(4), Outcome(2, "vote", SPANS * 1_000))
    assert cache.get(key(4)) is None
    assert cache.num_bytes == 3 * outcome.num_bytes


@pytest.mark.parametrize("spans", [0, 1, 20])
def test_an_answer_takes_no_more_memory_than_the_cache_counts(spans: int) -> None:
    cache = AnswerCache(100_000_000)
    tracemalloc.start()
    for number in range(2_000):
        cache.put(key(number), Outcome(2, "vote", [Span(at + 1_000, at + 1_001, 1, number / 7) for at in range(spans)]))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken <= cache.num_bytes <= 3 * taken


def test_the_cache_holds_a_keyed_hash_that_no_other_cache_has() -> None:
    caches = AnswerCache(10_000), AnswerCache(10_000)
    for cache in caches:
        cache.put(key(1), Outcome(2, "vote", SPANS))
    (first,), (second,) = (cache._kept for cache in caches)
    assert first != second
    assert len(first) == len(second) == 16
