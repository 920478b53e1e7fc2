"""Replay equals serving, layer for layer and entity for entity; counts equal naive ones, text by text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import pytest

from service.engine.sequence import Request, Sequence
from service.evaluation.evaluate import evaluate
from service.evaluation.predict import entities_of_texts
from service.evaluation.replay import Replayer
from service.exits.consistency import CONSISTENCIES
from service.exits.policies.branchynet import BranchyNet
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.learned import Learned
from service.exits.policies.pabee import Pabee
from service.exits.policies.sentee import Sentee
from service.exits.policies.shallow_deep import ShallowDeep
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.exits.replay import decide_all, evidences_of
from service.spans.score import Key, Score, keys
from service.spans.types import Entity
from service.stepping.stepper import ModelStepper
from tests.engine.scripted_ import answer, answered, make_engine
from tests.evaluation.traces_ import WINDOWED, Traced, drifting_trace, tiny_examples, tiny_stored, traced
from tests.executors.executors_ import fused, kernel_config, kernel_model
from tests.exits.strategies_ import WITHOUT_TRAFFIC
from tests.exits.tables_ import random_rule

RULE = random_rule(4)
OTHER_KINDS = [Vee("js"), Vee(pooling="max"), Vee(ensemble=True), Vee(patience=3), Sentee(), Learned(rule=RULE)]
VEES = [Vee(measure, pooling, consistency.tau) for (measure, pooling), consistency in CONSISTENCIES.items()]
POLICIES: list[ExitPolicy] = [
    *(*VEES, Vee(patience=2), Vee(patience=3), Vee(ensemble=True), Vee("js", "max", patience=2, ensemble=True)),
    *(BranchyNet(), ShallowDeep(), Sentee(), GatedVote(), Learned(rule=RULE), Pabee(1), Pabee(2), Pabee(3)),
    *(FullDepth(), Budgeted(1), Budgeted(3)),
]
shared = cache(traced)


def name(policy: ExitPolicy) -> str:
    return " ".join(str(value) for key, value in policy.to_json().items() if key not in ("tau", "gate"))


def cut(of: Traced, policy: ExitPolicy) -> ExitPolicy:
    """`policy` with thresholds amid what it sees, in the widest gap around, so that rounding decides nothing."""
    rows = [row for of_layer in of.replayer.evidences(policy) for row in of_layer]
    seen = np.unique([value for row in rows for value in (row[:1] if isinstance(policy, GatedVote) else row)])
    if not hasattr(policy, "tau") or not len(seen):
        return policy
    if isinstance(policy, GatedVote):
        return replace(policy, tau=amid(seen, 0.3), gate=amid(seen, 0.7))
    return replace(policy, tau=amid(seen, 0.5))  # type: ignore[call-arg]


def amid(seen: Any, share: float) -> float:
    first, last = int((share - 0.1) * len(seen)), int((share + 0.1) * len(seen)) + 2
    gaps = np.diff(seen[first:last])
    assert gaps.max() > 1e-5
    widest = first + int(gaps.argmax())
    return float(seen[widest : widest + 2].mean())


def serve(of: Traced, policy: ExitPolicy) -> tuple[list[Sequence], list[list[Entity]]]:
    """All sequences and the entities of all texts, from an engine."""
    request = Request(tuple(of.texts), deadline=1.0, submitted=0.0, override=policy.to_json())
    answer(make_engine(ModelStepper(of.executor), rule=RULE), request)
    sequences = answered(request).sequences
    return sequences, entities_of_texts(of.stored.text_encoder, of.texts, [sequence.spans for sequence in sequences])


def counts(golds: Iterable[frozenset[Key]], texts: Seq[list[Entity]]) -> list[tuple[int, int, int]]:
    """Per text its gold, found and correct entities."""
    return [(len(gold), len(keys(found)), len(keys(found) & gold)) for gold, found in zip(golds, texts, strict=True)]


@pytest.mark.parametrize("policy", POLICIES, ids=name)
def test_replay_is_what_the_engine_serves(policy: ExitPolicy) -> None:
    of = shared()
    policy = cut(of, policy)
    sequences, entities = serve(of, policy)
    replay = of.replayer.replay(policy)
    assert replay.layers_run.tolist() == [sequence.layer for sequence in sequences]
    per_text = counts(of.trace.gold, entities)
    assert list(zip(replay.gold.tolist(), replay.found.tolist(), replay.correct.tolist(), strict=True)) == per_text
    assert replay.micro == sum((Score(*row) for row in per_text), Score())


@pytest.mark.parametrize("policy", POLICIES, ids=name)
def test_replay_sees_what_the_served_policy_saw_behind_every_layer_that_ran(policy: ExitPolicy) -> None:
    of = shared()
    evidences = zip(*of.replayer.evidences(policy), strict=True)
    for sequence, seen in zip(serve(of, cut(of, policy))[0], evidences, strict=True):
        ran = min(sequence.layer, 3)  # at the last layer nobody has to look
        assert len(sequence.history) == sequence.layer
        for served, replayed in zip(sequence.history[:ran], seen[:ran], strict=True):
            assert served == pytest.approx(replayed, abs=2e-5)


@pytest.mark.parametrize("policy", [Vee(), Vee(ensemble=True), Pabee(1), GatedVote(), Budgeted(2)], ids=name)
def test_of_a_flat_model_too(policy: ExitPolicy) -> None:
    of = shared(nested=False)
    policy = cut(of, policy)
    sequences, entities = serve(of, policy)
    replay = of.replayer.replay(policy)
    assert replay.layers_run.tolist() == [sequence.layer for sequence in sequences]
    assert replay.micro == sum((Score(*row) for row in counts(of.trace.gold, entities)), Score())


@pytest.fixture(scope="module")
def by_kernels() -> Iterator[Traced]:
    """Run by the fused executor."""
    config = replace(kernel_config(num_layers=4), text=WINDOWED)
    stored = tiny_stored(config, kernel_model(config))
    with fused(stored.model) as executor:
        yield Traced(stored, tiny_examples(stored, 20), executor)


@pytest.mark.parametrize("policy", POLICIES, ids=name)
def test_where_the_batch_rounds_nothing_replay_and_serving_agree_to_the_last_bit(
    by_kernels: Traced, policy: ExitPolicy
) -> None:
    of = by_kernels
    seen = sorted(row[0] for row in chain(*of.replayer.evidences(policy)) if row)
    if seen and hasattr(policy, "tau"):  # as large as what one of them shows: a bit would matter
        policy = replace(policy, tau=seen[len(seen) // 2])  # type: ignore[call-arg]
    sequences, entities = serve(of, policy)
    replay, evidences = of.replayer.replay(policy), zip(*of.replayer.evidences(policy), strict=True)
    assert replay.layers_run.tolist() == [sequence.layer for sequence in sequences]
    assert replay.micro == sum((Score(*row) for row in counts(of.trace.gold, entities)), Score())
    for sequence, rows in zip(sequences, evidences, strict=True):
        ran = min(sequence.layer, 3)
        assert sequence.history[:ran] == list(rows[:ran])


def test_the_examples_are_of_every_strategy_and_leave_at_every_layer() -> None:
    assert {policy.strategy for policy in POLICIES} == WITHOUT_TRAFFIC
    left = [set(shared().replayer.replay(cut(shared(), policy)).layers_run.tolist()) for policy in POLICIES[:-4]]
    assert set.union(*left) == {1, 2, 3, 4}
    assert sum(len(layers) > 1 for layers in left) > 20


@pytest.mark.parametrize("nested", [True, False])
def test_leaving_at_one_layer_scores_what_its_exit_scores(nested: bool) -> None:
    of = shared(nested=nested)
    exits = evaluate(of.executor, of.stored.text_encoder, of.examples).exits
    for layer, exit_ in enumerate(exits, 1):
        everywhere = np.full(len(of.trace.sequences), layer)
        assert of.replayer.at_layers(everywhere).micro == exit_.micro == of.replayer.replay(Budgeted(layer)).micro
    assert exits[-1].micro.correct > 30


@pytest.mark.parametrize("nested", [True, False])
def test_overlapping_windows_count_as_the_text_path_merges_them_whatever_layers_they_leave_at(nested: bool) -> None:
    of = shared(nested=nested)
    layers = np.random.default_rng(0).integers(1, 5, size=len(of.trace.sequences))
    spans = [of.trace.readings[layer - 1].spans[index] for index, layer in enumerate(layers)]
    entities = entities_of_texts(of.stored.text_encoder, of.texts, spans)
    replay = of.replayer.at_layers(layers)
    per_text = list(zip(replay.gold.tolist(), replay.found.tolist(), replay.correct.tolist(), strict=True))
    assert per_text == counts(of.trace.gold, entities)
    assert sum(map(len, spans)) > replay.found.sum(), "windows were meant to find some entities twice"


# what policies share


def test_policies_of_a_kind_share_their_evidence_and_differ_in_what_they_do() -> None:
    replayer = Replayer(drifting_trace(30))
    low, high, patient = Vee(tau=-0.3), Vee(tau=-0.02), Vee(tau=-0.3, patience=2)
    assert replayer.evidences(low) is replayer.evidences(high) is replayer.evidences(patient)
    results = [replayer.replay(policy) for policy in (low, high, patient)]
    layers = [result.average_exit_layer for result in results]
    assert layers[0] < min(layers[1:]) and len(set(layers)) == 3
    for policy, result in zip((low, high, patient), results, strict=True):
        fresh = Replayer(replayer.trace).replay(policy)
        assert result.layers_run.tolist() == fresh.layers_run.tolist()
        assert result.micro == fresh.micro


@pytest.mark.parametrize("other", OTHER_KINDS, ids=name)
def test_policies_of_another_kind_do_not_share(other: ExitPolicy) -> None:
    replayer = Replayer(drifting_trace(10))
    voting = replayer.evidences(Vee())
    assert replayer.evidences(other) == evidences_of(other, replayer.trace.readings)
    assert replayer.evidences(other) is not voting


def test_two_rules_are_two_kinds() -> None:
    replayer = Replayer(drifting_trace(10))
    one, other = Learned(rule=RULE), Learned(rule=random_rule(4, seed=1))
    assert replayer.evidences(one) != replayer.evidences(other)


def test_an_ensemble_leaves_where_its_vote_does_and_answers_another_table() -> None:
    replayer = Replayer(drifting_trace(60, drift=0.3))
    plain, averaged = (replayer.replay(Vee(tau=-0.3, ensemble=ensemble)) for ensemble in (False, True))
    assert plain.layers_run.tolist() == averaged.layers_run.tolist()
    assert plain.micro != averaged.micro
    assert replayer.replay(Vee(tau=-0.3)).micro == plain.micro  # not changed by who asked in between


def test_given_evidence_is_decided_by_in_place_of_its_own() -> None:
    replayer = Replayer(drifting_trace(10))
    at_once = [[(0.0,)] * len(replayer.trace.sequences)] * 4
    assert set(replayer.replay(Learned(tau=0.1, rule=RULE), at_once).layers_run.tolist()) == {1}
    never = [[(1.0,)] * len(replayer.trace.sequences)] * 4
    assert set(replayer.replay(Learned(tau=0.1, rule=RULE), never).layers_run.tolist()) == {4}


def test_a_decision_sees_the_layers_that_ran_and_no_later_one() -> None:
    seen = []

    class Watching(FullDepth):
        def decide(self, history: Seq[Any], num_layers: int) -> Any:
            seen.append((list(history), num_layers))
            return "vote" if len(history) == 2 else None

    assert decide_all(Watching(), [[(1.0,)], [(2.0,)], [(3.0,)]]).tolist() == [2]
    assert seen == [([(1.0,)], 3), ([(1.0,), (2.0,)], 3)]


# figures


def test_errors_are_the_entities_wrong_or_missed_in_a_sentence() -> None:
    of = drifting_trace(40)
    errors, row = Replayer(of).errors(), 0
    for text, gold in zip(of.texts, of.gold, strict=True):
        for sentence in text:
            within = {key for key in gold if sentence.word_starts[0] <= key[0] and key[1] <= sentence.word_ends[-1]}
            for layer, reading in enumerate(of.readings):
                spans = reading.spans[row]
                found = {
                    (int(sentence.word_starts[s.start]), int(sentence.word_ends[s.end - 1]), of.labels[s.label - 1])
                    for s in spans
                }
                assert errors[row, layer] == len(within ^ found)
            row += 1
    assert errors.shape == (row, of.num_layers)
    assert errors[:, 0].sum() > errors[:, -1].sum() > 0


def test_an_entity_across_two_sentences_is_nobodys_error() -> None:
    one, across = drifting_trace(1, seed=3), drifting_trace(1, seed=3)
    first, second = one.texts[0]
    beyond = (int(first.word_starts[-1]), int(second.word_ends[0]), "A")
    across = replace(one, gold=(one.gold[0] | {beyond},))
    assert Replayer(across).errors().tolist() == Replayer(one).errors().tolist()
    assert Replayer(across).at_layers(np.array([4, 4])).micro.gold == len(one.gold[0]) + 1


def test_averages_are_per_sequence_and_by_word_piece() -> None:
    replayer = Replayer(drifting_trace(20))
    layers = np.random.default_rng(0).integers(1, 5, size=len(replayer.trace.sequences))
    replay = replayer.at_layers(layers)
    weighed = [layer for layer, s in zip(layers, replayer.trace.sequences, strict=True) for _ in range(s.num_pieces)]
    assert replay.average_exit_layer == pytest.approx(sum(layers.tolist()) / len(layers))
    assert replay.average_exit_layer_by_token == pytest.approx(sum(weighed) / len(weighed))
    assert replay.average_exit_layer != pytest.approx(replay.average_exit_layer_by_token)


def test_the_json_counts_every_sequence_at_its_layer() -> None:
    replayer = Replayer(drifting_trace(20))
    replay = replayer.replay(Vee(tau=-0.2))
    document = replay.to_json()
    assert document["exit_layers"] == {str(m): replay.layers_run.tolist().count(m) for m in range(1, 5)}
    assert document["sequences"] == sum(document["exit_layers"].values()) == len(replayer.trace.sequences)
    assert document["speedup_layers"] == round(4 / replay.average_exit_layer, 4)
    assert (document["gold"], document["found"]) == (replay.gold.sum(), replay.found.sum())
    assert document["f1"] == round(100 * replay.micro.f1, 2)
