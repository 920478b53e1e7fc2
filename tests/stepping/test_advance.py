"""Passages through a tiny model: packed == alone, served == replayed, traced == untraced, nothing asked for in vain.

On a model of given tables, where the packing of a step rounds nothing, equal means equal to the last bit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from service.engine.engine import EngineLimits
from service.engine.sequence import Request, Sequence
from service.executors.executor import Executor
from service.exits import reading as reading_module
from service.exits.parameters import Evidence
from service.exits.policies.branchynet import BranchyNet
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.gated_vote import GatedVote
from service.exits.policies.learned import Learned
from service.exits.policies.learned_on_traffic import LearnedOnTraffic, TrafficRules
from service.exits.policies.pabee import Pabee
from service.exits.policies.sentee import Sentee
from service.exits.policies.shallow_deep import ShallowDeep
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.models.biaffine import Projections
from service.models.multi_exit import MultiExitModel
from service.models.packed import Active, Packed, pack
from service.spans.decode import choose, decode
from service.spans.types import FloatArray, Span
from service.stepping.advance import advance
from service.stepping.passage import Passage
from service.stepping.stepper import ModelStepper
from service.text.types import EncodedText, SequenceInput
from tests.engine.scripted_ import CPU, FrugalExecutor, Recorder, TableModel, answer, answered, make_engine
from tests.exits import naive_
from tests.exits.strategies_ import REPLAYED
from tests.exits.tables_ import alone, random_readings, random_rule
from tests.models_ import eager, random_sequences, tiny_config, tiny_model, tiny_text_encoder

INPUTS = random_sequences((5, 1, 17, 2, 9, 17, 3, 8, 12, 4))
RULE = random_rule(4)
EARLY_VOTING = [
    *(Vee(tau=-0.062), Vee(tau=-0.08, patience=2), Vee(tau=-0.025), Vee(tau=-0.04, ensemble=True)),
    *(Vee("js", "max", tau=-0.093), Vee("edit_levenshtein", tau=-0.12), Vee("entity_jaccard", tau=0.41)),
]
VOTING = [*EARLY_VOTING, Vee(patience=3), Vee(patience=3, ensemble=True)]
EARLY: list[ExitPolicy] = [
    *(*EARLY_VOTING, BranchyNet(tau=0.5), ShallowDeep(tau=0.74), Sentee(tau=0.8), Pabee(1), Pabee(2)),
    *(GatedVote(tau=0.75, gate=0.9), Learned(tau=0.8, rule=RULE)),
    LearnedOnTraffic(tau=0.8, rules=TrafficRules({1: RULE})),
]
FIXED: list[ExitPolicy] = [Vee(tau=0.0), Pabee(3), FullDepth(), Budgeted(1), Budgeted(3), Budgeted(4)]
POLICIES = [*EARLY, *VOTING[-2:], *FIXED]

shared_model = cache(tiny_model)  # for tests that do not change it
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=str)


def request_of(*inputs: SequenceInput, policy: ExitPolicy, trace: bool = False) -> Request:
    return Request(
        (EncodedText("", inputs),), deadline=1.0, submitted=0.0, override=policy.to_json(), wants_trace=trace
    )


def serve(*requests: Request, executor: Executor | None = None, max_step_pieces: int = 4096) -> Seq[Sequence]:
    """Answer all together; -> their sequences."""
    observer, limits = Recorder(), EngineLimits(max_step_pieces=max_step_pieces)
    runner = ModelStepper(executor or eager(shared_model()))
    answer(make_engine(runner, limits=limits, observer=observer, rule=RULE), *requests)
    sequences = [sequence for request in requests for sequence in answered(request).sequences]
    if max_step_pieces == 4096:
        assert observer.steps[0][:2] == (1, len(sequences)), "one step was meant to hold all of them"
    return sequences


def serve_alone(inputs: Seq[SequenceInput], policy: ExitPolicy) -> Seq[Sequence]:
    return [serve(request_of(own, policy=policy))[0] for own in inputs]


@torch.inference_mode()
def replay(own: SequenceInput, policy: ExitPolicy, model: MultiExitModel) -> tuple[int, list[Span]]:
    """Run to full depth at once, then decide offline: what a naive reading of the papers does."""
    tables: list[Tensor] = model(pack([own], CPU))
    readings = [Reading(table, [own.num_words], nested=model.config.nested) for table in tables]
    thresholds = [value for value in policy.to_json().values() if isinstance(value, float) and value]
    history: list[Evidence] = []
    for layer in range(1, len(tables) + 1):
        history.append(tuple(policy.evidence(readings[:layer])[0].tolist()))
        # no example stands so near to a threshold that rounding decides it
        assert all(abs(value - threshold) > 1e-4 for value in history[-1] for threshold in thresholds)
        if policy.decide(history, len(tables)) is not None:
            break
    is_averaged = isinstance(policy, Vee) and policy.ensemble
    answered = torch.stack(tables[0 if is_averaged else layer - 1 : layer]).exp().mean(dim=0).log()
    return layer, decoded(answered, nested=model.config.nested)


def decoded(table: Tensor, *, nested: bool) -> list[Span]:
    """Of one sequence."""
    return decode(np.array(naive_.candidates(table.tolist()), dtype=np.float32).reshape(-1, 4), nested=nested)


def outcome(sequences: Seq[Sequence]) -> list[tuple[int, object]]:
    """Exit layers and spans; probabilities are equal up to float32 rounding."""
    return [(sequence.layer, approximately(sequence.spans)) for sequence in sequences]


def approximately(spans: Seq[Span]) -> list[tuple[int, int, int, object]]:
    return [(span.start, span.end, span.label, pytest.approx(span.score, abs=1e-5)) for span in spans]


@every_policy
def test_served_together_is_served_alone_is_replayed(policy: ExitPolicy) -> None:
    together = [(seq.layer, [*map(tuple, seq.spans)]) for seq in serve(request_of(*INPUTS, policy=policy))]
    assert together == outcome(serve_alone(INPUTS, policy))
    replayed = [replay(own, policy, shared_model()) for own in INPUTS]
    assert together == [(layer, approximately(spans)) for layer, spans in replayed]


def test_the_examples_leave_at_different_layers_and_find_spans() -> None:
    left = [{sequence.layer for sequence in serve(request_of(*INPUTS, policy=policy))} for policy in EARLY]
    assert set.union(*left) == {1, 2, 3, 4} and min(map(len, left)) > 1
    assert {policy.strategy for policy in POLICIES} == REPLAYED.keys()
    assert sum(len(sequence.spans) for sequence in serve(request_of(*INPUTS, policy=VOTING[0]))) > 10


@pytest.mark.parametrize("max_step_pieces", [1, 20, 45])
def test_how_steps_are_cut_does_not_matter(max_step_pieces: int) -> None:
    request, cut = (request_of(*INPUTS, policy=VOTING[0]) for _ in range(2))
    together = [(seq.layer, [*map(tuple, seq.spans)]) for seq in serve(request)]
    assert together == outcome(serve(cut, max_step_pieces=max_step_pieces))


def test_a_flat_model_is_decoded_flat() -> None:
    model = tiny_model(tiny_config(nested=False))
    sequences = serve(request_of(*INPUTS, policy=Budgeted(2)), executor=eager(model))
    assert max(len(sequence.spans) for sequence in sequences) > 1
    for sequence in sequences:
        assert outcome([sequence]) == [(2, [*map(tuple, replay(sequence.input, Budgeted(2), model)[1])])]
        assert all(one.end <= other.start for one, other in zip(sequence.spans, sequence.spans[1:], strict=False))


@every_policy
def test_a_trace_changes_neither_exit_layer_nor_spans(policy: ExitPolicy) -> None:
    plain, traced = (serve(request_of(*INPUTS, policy=policy, trace=trace)) for trace in (False, True))
    assert [(s.layer, s.exit_reason, s.spans) for s in plain] == [(s.layer, s.exit_reason, s.spans) for s in traced]
    assert all(sequence.views is None for sequence in plain)


@every_policy
def test_a_trace_has_one_item_for_every_layer_that_ran(policy: ExitPolicy) -> None:
    for sequence in serve(request_of(*INPUTS, policy=policy, trace=True)):
        assert sequence.views is not None
        assert [item.layer for item in sequence.views] == list(range(1, sequence.layer + 1))
        assert [len(item.consistency) for item in sequence.views] == list(range(sequence.layer))


@pytest.mark.parametrize("policy", VOTING, ids=str)
def test_a_trace_shows_what_the_vote_saw(policy: Vee) -> None:
    for sequence in serve(request_of(*INPUTS, policy=policy, trace=True)):
        assert sequence.views is not None
        shown = [tuple(item.consistency) for item in sequence.views]
        assert shown[:3] == sequence.history[:3] and sequence.history[3:] in ([], [()])  # the last layer needs no vote
        votes = [item.votes for item in sequence.views]
        assert votes == [sum(value > policy.tau for value in evidence) for evidence in shown]
        assert all(count < policy.patience for count in votes[:-1])
        assert votes[-1] >= policy.patience or sequence.exit_reason == "last_layer"


@pytest.mark.parametrize("policy", [FullDepth(), Budgeted(3), Sentee(tau=0.8), Pabee(2)], ids=str)
def test_a_strategy_that_does_not_vote_is_traced_with_the_default_measure_and_no_votes(policy: ExitPolicy) -> None:
    (plain,) = serve(request_of(INPUTS[2], policy=policy, trace=True))
    (voting,) = serve(request_of(INPUTS[2], policy=Vee(tau=0.0), trace=True))
    assert plain.views is not None and voting.views is not None
    assert len(plain.views) == plain.layer
    for item, other in zip(plain.views, voting.views, strict=False):
        assert item == replace(other, votes=None, evidence=item.evidence)


@every_policy
def test_a_trace_shows_the_evidence_that_the_strategy_decided_by(policy: ExitPolicy) -> None:
    for sequence in serve(request_of(*INPUTS, policy=policy, trace=True)):
        assert sequence.views is not None
        seen = [tuple(item.evidence) for item in sequence.views]
        assert seen == sequence.history
        decisions = [policy.decide(seen[:layer], 4) for layer in range(1, len(seen) + 1)]
        assert decisions == [None] * (len(seen) - 1) + [sequence.exit_reason]


def test_a_trace_holds_the_entropies_of_every_layer() -> None:
    (sequence,) = serve(request_of(INPUTS[0], policy=FullDepth(), trace=True))
    tables = shared_model()(pack([INPUTS[0]], CPU))
    for item, table in zip(sequence.views or [], tables, strict=True):
        uncertainty = [-sum(math.exp(p) * p for p in cell) / math.log(len(cell)) for cell in table.tolist()]
        assert item.entropy_mean == pytest.approx(sum(uncertainty) / len(uncertainty), abs=1e-5)
        assert item.entropy_max == pytest.approx(max(uncertainty), abs=1e-5)


def test_a_trace_names_the_entities_of_every_layer_by_character() -> None:
    encoder = tiny_text_encoder()
    text = encoder.encode("In Oslo, Anna of Acme Labs met Ben; the bank of Paris was visited by Carla.", split=False)
    request = Request((text,), deadline=1.0, submitted=0.0, override=FullDepth().to_json(), wants_trace=True)
    serve(request)
    for layer in range(1, 5):
        spans = [replay(own, Budgeted(layer), shared_model())[1] for own in text.sequences]
        expected = [(e.start, e.end, e.label) for e in encoder.entities(text, spans)]
        views = [(sequence.views or [])[layer - 1].spans for sequence in request.sequences]
        traced = encoder.entities(text, views)
        assert [(e.start, e.end, e.label) for e in traced] == expected
    assert expected, "the example was meant to have entities"


def test_traced_and_untraced_sequences_under_many_policies_share_a_step() -> None:
    mixed = [request_of(*INPUTS[i::3], policy=p, trace=i == 0) for i in range(3) for p in POLICIES]
    alone = [request_of(*INPUTS[i::3], policy=p, trace=i == 0) for i in range(3) for p in POLICIES]
    together = serve(*mixed)
    for sequence, other in zip(together, [s for request in alone for s in serve(request)], strict=True):
        assert outcome([sequence]) == [(other.layer, [*map(tuple, other.spans)])]
        assert (sequence.views is None) == (other.views is None)
        for item, same in zip(sequence.views or [], other.views or [], strict=True):
            assert item.consistency == pytest.approx(same.consistency, abs=1e-5)
            assert item.votes == same.votes


# on a model of given tables


@cache
def given() -> tuple[list[ExitPolicy], TableModel, list[list[Reading]]]:
    """Three sequences for every policy, the first of them traced; what their exits say."""
    policies = [*POLICIES, *POLICIES, *POLICIES]
    num_words = [2 + (3 * index) % 7 for index in range(len(policies))]
    readings = alone(random_readings(num_words, 4, 3, seed=0, drift=0.1))
    model = TableModel(readings)
    return policies, model, model.readings


def walk(indices: Seq[int], *, read: bool = False, executor: Executor | None = None) -> list[Passage]:
    """Some of the given sequences through all layers together, whoever would leave; `read`: and what they answer."""
    policies, model, _ = given()
    executor = executor or eager(model)  # type: ignore[arg-type]
    passages = []
    for index in indices:
        passages.append(Passage(model.inputs[index], policies[index], keeps_every_exit=index < len(POLICIES)))
    for _ in range(4):
        advance(executor, passages)
    for passage in passages if read else []:
        passage.spans = passage.decode()
    return passages


everybody = range(3 * len(POLICIES))


@pytest.mark.parametrize("indices", [everybody, everybody[::-1], everybody[1::3], everybody[len(POLICIES) :]])
def test_a_mixed_step_shows_every_policy_the_same_as_alone(indices: range) -> None:
    together = walk(indices)
    assert [sequence.history for sequence in together] == [walk([index])[0].history for index in indices]


def test_a_mixed_step_shows_every_policy_the_exits_that_it_needs_and_under_a_trace_all() -> None:
    policies, _, readings = given()
    for index, sequence in enumerate(walk(everybody)):
        policy, is_traced = policies[index], index < len(POLICIES)
        for layer in range(1, 5):
            needed = [m for m in range(1, layer + 1) if is_traced or m == 4 or policy.needs_exit(m, 4)]
            is_seen = layer in needed and layer < 4  # at the last layer there is nothing to decide
            seen = policy.evidence([readings[index][m - 1] for m in needed])[0].tolist() if is_seen else []
            assert sequence.history[layer - 1] == tuple(seen)
        assert [reading is not None for reading in sequence.readings] == [m in needed for m in range(1, 5)]


def test_an_ensemble_answers_the_averaged_table_and_everybody_else_the_latest() -> None:
    policies, _, readings = given()
    for index, sequence in enumerate(walk(everybody, read=True)):
        policy, own = policies[index], readings[index]
        tables = [reading.table for reading in own]
        first = 0 if isinstance(policy, Vee) and policy.ensemble else len(tables) - 1
        spans = decoded(torch.stack(tables[first:]).exp().mean(dim=0).log(), nested=True)
        assert [*map(tuple, sequence.spans)] == approximately(spans)


def test_no_table_is_decoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Counter[bytes]()

    def counted(candidates: FloatArray, *, nested: bool) -> FloatArray:
        found[candidates.tobytes()] += 1
        return choose(candidates, nested=nested)

    monkeypatch.setattr(reading_module, "choose", counted)
    walk(everybody, read=True)
    found.pop(b"", None)  # of tables without candidates, one is like the other
    assert set(found.values()) == {1} and len(found) > 4 * len(POLICIES)


@every_policy
def test_layers_behind_an_exit_are_not_computed(policy: ExitPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran = tiny_model(), dict.fromkeys(range(1, 5), 0)
    run_layer = model.run_layer

    def counted(layer: int, hidden: Tensor, packed: Packed, active: Active | None) -> Tensor:
        ran[layer] += packed.pieces.batch
        return run_layer(layer, hidden, packed, active)

    monkeypatch.setattr(model, "run_layer", counted)
    left = [sequence.layer for sequence in serve(request_of(*INPUTS, policy=policy), executor=eager(model))]
    assert ran == {layer: sum(exit_layer >= layer for exit_layer in left) for layer in range(1, 5)}


@every_policy
def test_only_exits_that_the_policy_needs_are_computed(policy: ExitPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    model, computed = tiny_model(), []
    exit_scores = model.exit_scores

    def noted(layer: int, hidden: Tensor, packed: Packed) -> tuple[Tensor, Projections | None]:
        computed.append(layer)
        return exit_scores(layer, hidden, packed)

    monkeypatch.setattr(model, "exit_scores", noted)
    (sequence,) = serve(request_of(INPUTS[0], policy=policy), executor=eager(model))
    assert computed == [layer for layer in range(1, sequence.layer + 1) if policy.needs_exit(layer, 4)]


@every_policy
def test_layers_up_to_the_next_exit_that_is_needed_are_one_step_where_the_executor_likes_that(
    policy: ExitPolicy,
) -> None:
    asking_once = FrugalExecutor(shared_model())
    asking_once.max_step_layers = 4
    plain, found = (serve(request_of(*INPUTS, policy=policy), executor=one) for one in (None, asking_once))
    assert outcome(found) == outcome(plain)
    for one, other in zip(found, plain, strict=True):
        assert (one.exit_reason, one.history) == (other.exit_reason, [pytest.approx(row) for row in other.history])
        assert [reading is None for reading in one.readings] == [reading is None for reading in other.readings]
    needed = [layer for layer in range(1, 5) if policy.needs_exit(layer, 4)]
    begun = [layer + 1 for layer in (0, *needed[:-1])]
    assert [layer for layer, *_ in asking_once.asked] == begun[: len(asking_once.asked)]


def test_who_needs_an_exit_is_waited_for_by_everybody_in_the_step() -> None:
    executor = FrugalExecutor(shared_model())
    executor.max_step_layers = 4
    policies = [FullDepth(), Budgeted(3), FullDepth()]
    passages = [Passage(own, policy) for own, policy in zip(INPUTS, policies, strict=False)]
    advance(executor, passages)
    assert [passage.layer for passage in passages] == [3] * 3
    assert [passage.exit_reason is None for passage in passages] == [True, False, True]
    assert [len(passage.seen) for passage in passages] == [0, 1, 0]


def test_an_executor_is_not_asked_for_more_layers_than_it_likes() -> None:
    executor = FrugalExecutor(shared_model())
    executor.max_step_layers = 3
    passage = Passage(INPUTS[0], FullDepth())
    for expected in (3, 4):
        advance(executor, [passage])
        assert passage.layer == expected
    assert executor.asked == [(1, 1, False, False), (4, 1, True, False)]


def test_the_observer_is_told_of_every_layer_of_a_step() -> None:
    observer, executor = Recorder(), FrugalExecutor(shared_model())
    executor.max_step_layers = 4
    answer(make_engine(ModelStepper(executor), observer=observer), request_of(*INPUTS, policy=FullDepth()))
    pieces = sum(own.num_pieces for own in INPUTS)
    assert [step[:3] for step in observer.steps] == [(layer, len(INPUTS), pieces) for layer in range(1, 5)]


@every_policy
def test_a_policy_leaves_and_answers_the_same_where_nobody_keeps_a_table_in_vain(policy: ExitPolicy) -> None:
    frugal = FrugalExecutor(shared_model())
    plain, bare = (serve(request_of(*INPUTS, policy=policy), executor=one) for one in (None, frugal))
    assert [(s.layer, s.exit_reason, s.spans) for s in bare] == [(s.layer, s.exit_reason, s.spans) for s in plain]
    for layer, _, with_exit, with_table in frugal.asked:
        assert with_exit == policy.needs_exit(layer, 4)
        assert with_table == policy.compares_tables or not with_exit or layer == 4  # where only answers are wanted


@pytest.mark.parametrize("policy", [FullDepth(), Budgeted(3), Sentee(tau=0.8), Pabee(3)], ids=str)
def test_a_trace_asks_for_every_exit_and_every_table(policy: ExitPolicy) -> None:
    frugal = FrugalExecutor(shared_model())
    traced, plain = (request_of(own, policy=policy, trace=own is INPUTS[0]) for own in INPUTS[:2])
    serve(traced, plain, executor=frugal)
    last = traced.sequences[0].layer
    assert [(layer, *asked) for layer, _, *asked in frugal.asked[:last]] == [
        (m, True, True) for m in range(1, last + 1)
    ]
    assert len(traced.sequences[0].views or []) == last


def test_one_that_compares_tables_has_them_among_others_that_do_not() -> None:
    policies, model, _ = given()
    untraced = everybody[len(POLICIES) : 2 * len(POLICIES)]
    for indices in (untraced, [index for index in untraced if not policies[index].compares_tables]):
        frugal = FrugalExecutor(model)  # type: ignore[arg-type]
        bare, plain = walk(indices, read=True, executor=frugal), walk(indices, read=True)
        assert [(s.history, s.spans) for s in bare] == [(s.history, s.spans) for s in plain]
        assert [with_table for *_, with_table in frugal.asked] == [indices is untraced] * 4


def test_evidence_at_the_last_layer_is_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = eager(shared_model())
    passages = [Passage(own, Vee(tau=0.0)) for own in INPUTS]
    for layer in (1, 2, 3):
        advance(executor, passages)
        assert [len(passage.history[-1]) for passage in passages] == [layer - 1] * len(INPUTS)
    monkeypatch.setattr(Vee, "evidence", lambda *_: 1 / 0)
    advance(executor, passages)
    assert {passage.history[-1] for passage in passages} == {()}
    assert {passage.exit_reason for passage in passages} == {"last_layer"}


def test_an_answered_sequence_holds_neither_tensors_nor_arrays() -> None:
    for sequence in serve(request_of(*INPUTS, policy=VOTING[0], trace=True)):
        assert sequence.state is None and sequence.readings == []
        seen = [value for evidence in sequence.history for value in evidence]
        assert {type(value) for value in (*seen, *(value for span in sequence.spans for value in span))} <= {int, float}


def test_a_model_is_taken_out_of_training_mode() -> None:
    model = tiny_model().train()
    eager(model)
    assert not model.training


def test_a_step_that_failed_has_moved_nobody_and_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the layer, the exit or the policy threw: the engine tries such a step again, in halves."""
    model = tiny_model(tiny_config(num_layers=3))
    executor = eager(model)
    failed, untouched = ([Passage(one, Vee(tau=0.0)) for one in random_sequences((3, 4))] for _ in range(2))
    for passages in (failed, untouched):
        advance(executor, passages)
    for owner, name in ((model, "run_layer"), (model, "exit_scores"), (Vee, "evidence"), (Vee, "decide")):
        before = [(passage.state, [*passage.readings], [*passage.history]) for passage in failed]
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                advance(executor, failed)
        assert [(passage.state, passage.readings, passage.history) for passage in failed] == before
    for passages in (failed, untouched):
        advance(executor, passages)
    assert [passage.history for passage in failed] == [passage.history for passage in untouched]
    assert [passage.layer for passage in failed] == [2, 2]
