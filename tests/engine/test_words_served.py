"""Words that halt one by one, through the engine: what is answered, counted, admitted and shadowed."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from service.assets import hashed_layers
from service.engine.engine import EngineLimits
from service.engine.scheduler import Scheduler
from service.engine.sequence import Request, Sequence
from service.engine.shadows import Shadows
from service.errors import Overloaded
from service.evaluation.run_policy import run_policy
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.hashee import HashEE
from service.exits.policies.tokee import Tokee
from service.exits.policy import ExitPolicy
from service.exits.words import WordProgress
from service.metrics import Metrics
from service.models.multi_exit import MultiExitModel
from service.policy.captured import CapturedPolicy
from service.stepping.stepper import ModelStepper
from service.text.types import EncodedText, SequenceInput
from tests.engine.scripted_ import DEADLINE_S, Recorder, answer, answered, make_engine, wait_for
from tests.executors.executors_ import fused, kernel_config, kernel_model
from tests.models_ import eager, random_sequences, tiny_config, tiny_model

INPUTS = random_sequences((5, 1, 17, 2, 9, 17, 3, 8, 12, 4))
POLICIES = [Tokee(tau=0.55, window=1), Tokee(tau=0.75, window=3), Tokee(tau=0.4, window=1), Tokee(tau=0.0)]


def request_of(*inputs: SequenceInput, trace: bool = False) -> Request:
    return Request((EncodedText("", inputs),), deadline=1.0, submitted=0.0, wants_trace=trace)


@cache
def hashed_model() -> MultiExitModel:
    model = tiny_model(replace(tiny_config(), hash="frequency", buckets=4))
    random = np.random.default_rng(0)
    table = model.get_buffer("piece_layers")
    table.copy_(table.new_tensor(random.integers(1, 5, size=len(table))))
    return model


def serve(
    policy: ExitPolicy, *requests: Request, model: MultiExitModel | None = None, **given: object
) -> tuple[Seq[Sequence], Recorder]:
    observer = Recorder()
    live = CapturedPolicy(policy, version=1)
    runner = ModelStepper(eager(model or tiny_model()))
    answer(make_engine(runner, live=lambda: live, observer=observer, **given), *requests)  # type: ignore[arg-type]
    return [sequence for request in requests for sequence in answered(request).sequences], observer


def keys(sequence: Sequence) -> list[tuple[int, int, int]]:
    return [span[:3] for span in sequence.spans]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_served_together_is_served_alone_is_run_offline(policy: Tokee) -> None:
    together, _ = serve(policy, request_of(*INPUTS))
    offline = run_policy(eager(tiny_model()), policy, INPUTS)
    layers = [sequence.words.layers.tolist() for sequence in together if sequence.words is not None]
    assert len(layers) == len(INPUTS)
    for index, sequence in enumerate(together):
        (alone,), _ = serve(policy, request_of(INPUTS[index]))
        assert alone.words is not None
        assert layers[index] == alone.words.layers.tolist() == offline[index].words.layers.tolist()
        assert keys(sequence) == keys(alone) == [span[:3] for span in offline[index].spans]
        assert sequence.layer == max(layers[index]) and sequence.layers_run == np.mean(layers[index])
        assert sequence.exit_reason == ("confidence" if sequence.layer < 4 else "last_layer")
    if policy.tau:
        assert 1 < np.mean([layer for own in layers for layer in own]) < 4
    else:
        full, _ = serve(FullDepth(), request_of(*INPUTS))
        assert [sequence.spans for sequence in together] == [sequence.spans for sequence in full]


@pytest.mark.parametrize("policy", [POLICIES[0], HashEE(layers=hashed_layers(hashed_model()))], ids=["tokee", "hashee"])
def test_layers_run_and_saved_are_all_layers_and_the_exit_layer_is_a_depth(policy: ExitPolicy) -> None:
    metrics = Metrics("m", num_layers=4, entity_labels=(), exit_reasons=(), build={})
    request, live = request_of(*INPUTS), CapturedPolicy(policy, version=1)
    answer(make_engine(ModelStepper(eager(hashed_model())), live=lambda: live, observer=metrics.engine), request)

    def sampled(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model_name": "m", **labels})

    depths = [sequence.layer for sequence in request.sequences]
    assert sampled("ner_exit_layer_sum") == sum(depths)
    for layer in range(1, 5):
        assert sampled("ner_exit_layer_bucket", le=f"{layer}.0") == sum(depth <= layer for depth in depths)
    executed, saved = sampled("ner_layers_executed_total"), sampled("ner_layers_saved_total")
    assert executed is not None and saved is not None
    assert executed == pytest.approx(sum(sequence.layers_run for sequence in request.sequences))
    assert executed < sum(depths)
    assert executed + saved == pytest.approx(4 * len(INPUTS))
    assert sampled("ner_sequences_total") == len(INPUTS)


def test_a_hash_is_obeyed_and_the_exit_asked_once() -> None:
    model = hashed_model()
    policy = HashEE(layers=hashed_layers(model))
    sequences, _ = serve(policy, request_of(*INPUTS), model=model)
    for sequence, own in zip(sequences, INPUTS, strict=True):
        expected = policy.layers.of(own)
        assert sequence.words is not None and np.array_equal(sequence.words.layers, expected)
        assert sequence.exit_reason == ("budget" if expected.max() < 4 else "last_layer")
        (offline,) = run_policy(eager(model), policy, [own])
        assert keys(sequence) == [span[:3] for span in offline.spans]


def test_policies_by_word_and_by_sentence_share_a_step_and_change_nothing_for_each_other() -> None:
    tokee = POLICIES[0]
    requests = [request_of(own) for own in INPUTS]
    for index, request in enumerate(requests):
        request.override = {"strategy": "budgeted", "layer": 2} if index % 2 else None
    sequences, observer = serve(tokee, *requests)
    assert observer.steps[0][:2] == (1, len(INPUTS))
    by_word, _ = serve(tokee, request_of(*INPUTS))
    for index, sequence in enumerate(sequences):
        if index % 2:
            assert sequence.words is None and sequence.layer == 2
        else:
            assert keys(sequence) == keys(by_word[index])


def test_a_traced_sequence_answers_the_same_and_tells_how_many_words_went_on() -> None:
    policy = POLICIES[0]
    plain, _ = serve(policy, request_of(*INPUTS))
    traced, _ = serve(policy, request_of(*INPUTS, trace=True))
    for one, other in zip(plain, traced, strict=True):
        assert keys(one) == keys(other) and one.words is not None and other.words is not None
        assert np.array_equal(one.words.layers, other.words.layers) and other.views is not None
        assert [view.layer for view in other.views] == list(range(1, other.layer + 1))
        for view in other.views:
            going_on = int((other.words.layers > view.layer).sum())
            assert view.evidence == ((float(going_on),) if view.layer < 4 else ())


def test_the_step_budget_counts_rows_that_move_and_a_sixth_of_those_that_stand_still() -> None:
    (own,) = random_sequences([30])
    request = request_of(own)
    sequence = Sequence(own, POLICIES[0], request=request)
    assert sequence.step_pieces == own.num_pieces
    moving = np.array([True] * 3 + [False] * 27)
    sequence.words = replace(WordProgress.of(own), moving=moving)
    sequence.history.append((3.0,))
    still = int((own.last_piece - own.first_piece + 1)[3:].sum())
    assert sequence.step_pieces == own.num_pieces - still + -(-still // 6)
    scheduler = Scheduler(4, max_step_pieces=own.num_pieces)
    others = [Sequence(own, POLICIES[0], request=request, words=sequence.words, history=[(3.0,)]) for _ in range(3)]
    scheduler.add([sequence, *others])
    step = scheduler.next_step()
    assert step.pieces == len(step.sequences) * sequence.step_pieces
    assert len(step.sequences) == own.num_pieces // sequence.step_pieces > 1


def test_the_queue_counts_under_a_hash_what_a_text_will_come_to() -> None:
    model = hashed_model()
    policy = HashEE(layers=hashed_layers(model))
    work = [policy.work(own, 4) for own in INPUTS]
    assert all(cost <= own.num_pieces for cost, own in zip(work, INPUTS, strict=True))
    assert sum(work) < sum(own.num_pieces for own in INPUTS)
    live = CapturedPolicy(policy, 1)
    limits = EngineLimits(queue_pieces=sum(work))
    engine = make_engine(ModelStepper(eager(model)), live=lambda: live, limits=limits)
    engine.submit(request_of(*INPUTS))
    assert engine.load().open_pieces == sum(work) and not engine.has_room()
    with pytest.raises(Overloaded, match=f"holds 1 texts and {sum(work)} tokens"):
        engine.submit(request_of(INPUTS[0]))
    engine.close()
    assert engine.load().open_pieces == 0


def test_a_shadow_of_a_sequence_whose_words_stood_still_begins_anew() -> None:
    reports: list[bool] = []
    shadows = Shadows(1.0, lambda _, disagrees: reports.append(disagrees), draw=lambda: 0.0)
    runner = ModelStepper(eager(tiny_model()))
    policy = POLICIES[0]
    live = CapturedPolicy(policy, 1)
    engine = make_engine(runner, live=lambda: live, shadows=shadows)
    request = request_of(*INPUTS[:6])
    engine.submit(request)
    engine.start()
    wait_for([request])
    found = request.sequences
    left_early = [sequence for sequence in found if sequence.layers_run < 4]
    full, _ = serve(FullDepth(), request_of(*(sequence.input for sequence in left_early)))
    expected = [keys(one) != keys(other) for one, other in zip(left_early, full, strict=True)]
    deadline = time.monotonic() + DEADLINE_S
    while len(reports) < len(left_early) and time.monotonic() < deadline:
        time.sleep(0.005)
    engine.close()
    assert sorted(reports) == sorted(expected) and left_early


@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_answer_alone_what_they_answer_in_any_batch(threads: int) -> None:
    model = kernel_model(kernel_config())
    inputs = random_sequences((30, 5, 17, 41, 9, 26, 3, 60), seed=4)
    policy = Tokee(tau=0.6, window=1)
    with fused(model, threads) as executor:
        together = run_policy(executor, policy, inputs)
        stopped = np.concatenate([passage.words.layers for passage in together])
        assert len(set(stopped.tolist())) > 1
        for own, passage in zip(inputs, together, strict=True):
            (alone,) = run_policy(executor, policy, [own])
            assert np.array_equal(alone.words.layers, passage.words.layers)
            assert alone.spans == passage.spans  # probabilities too, to the bit
