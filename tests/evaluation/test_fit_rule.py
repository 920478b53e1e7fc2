"""Fitting the learned rule, on traces where going on pays for some sequences and not for others."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from service.evaluation.fit_rule import _errors, cross_fitted_evidence, fit_rule, work_of_a_layer
from service.evaluation.replay import Replayer
from service.evaluation.trace import Trace
from service.exits.policies.learned import FEATURES, UNIT_PIECES, Learned
from service.exits.replay import decide_all
from service.spans.table import num_cells
from tests.evaluation.traces_ import drifting_trace, trace_of

NUM_TEXTS, NUM_WORDS, NUM_LAYERS = 60, 4, 4
FAIR_PRICE = 0.1  # of a layer, in entity errors; going on mends two errors at once, or none


def table(label_of_cell_0: int, sureness: float, seed: int, num_words: int = NUM_WORDS) -> Tensor:
    """One sentence: all cells say no entity but the first, its first word, and are so sure of it."""
    scores = 0.1 * torch.randn(num_cells(num_words), 3, generator=torch.Generator().manual_seed(seed))
    scores[:, 0] += sureness
    scores[0] = 0.0
    scores[0, label_of_cell_0] = sureness
    return scores.log_softmax(dim=1)


def marked_trace(marked: np.ndarray) -> Trace:
    """Exits are right everywhere but the first, which is right where a sentence is marked; it is sure only of those."""
    layers = []
    for layer in range(1, NUM_LAYERS + 1):
        tables = []
        for text, is_marked in enumerate(marked):
            right, other = 1 + text % 2, 2 - text % 2
            is_right = is_marked or layer > 1
            tables.append(table(right if is_right else other, 9.0 if is_right else 3.0, 100 * text + layer))
        layers.append(torch.cat(tables))
    return trace_of(layers, [[NUM_WORDS]] * len(marked))


@pytest.fixture(scope="module")
def marked() -> np.ndarray:
    return np.random.default_rng(0).random(NUM_TEXTS) < 0.5


@pytest.fixture(scope="module")
def replayer(marked: np.ndarray) -> Replayer:
    return Replayer(marked_trace(marked))


@pytest.fixture(scope="module")
def drifting() -> Replayer:
    return Replayer(drifting_trace(30))


def test_the_example_is_right_at_once_where_marked_and_behind_layer_2_else(
    replayer: Replayer, marked: np.ndarray
) -> None:
    assert replayer.errors().tolist() == [[0, 0, 0, 0] if is_marked else [2, 0, 0, 0] for is_marked in marked]


def test_at_a_fair_price_the_marked_leave_at_once_and_the_others_when_they_are_right(
    replayer: Replayer, marked: np.ndarray
) -> None:
    replay = replayer.replay(Learned(tau=FAIR_PRICE, rule=fit_rule(replayer)))
    assert replay.layers_run.tolist() == [1 if is_marked else 2 for is_marked in marked]
    assert replay.micro.f1 == 1.0


def test_what_it_learned_holds_for_sequences_it_has_not_seen(replayer: Replayer, marked: np.ndarray) -> None:
    half = np.arange(0, NUM_TEXTS, 2)
    rule = fit_rule(replayer, half)
    exit_layers = replayer.replay(Learned(tau=FAIR_PRICE, rule=rule)).layers_run
    assert (exit_layers == np.where(marked, 1, 2)).all()


def test_the_worth_of_going_on_is_larger_where_going_on_mends(replayer: Replayer, marked: np.ndarray) -> None:
    worth = fit_rule(replayer).worth_of_going_on(replayer.trace.readings[:1])
    assert worth[~marked].min() > 10 * worth[marked].max()


def test_what_is_to_be_mended_is_half_the_errors_and_a_quarter_of_what_differs_from_full_depth(
    drifting: Replayer,
) -> None:
    *_, full = (reading.span_sets for reading in drifting.trace.readings)
    differing = [
        [len(found ^ last) for found, last in zip(reading.span_sets, full, strict=True)]
        for reading in drifting.trace.readings
    ]
    assert np.array_equal(_errors(drifting), drifting.errors() / 2 + np.array(differing).T / 4)
    assert np.count_nonzero(differing) > 10


def test_the_work_of_a_layer_grows_with_the_pieces_and_a_sequence_of_the_unit_does_one() -> None:
    work = work_of_a_layer(np.array([3, UNIT_PIECES, 2 * UNIT_PIECES, 250]))
    assert work[1] == 1.0 and (np.diff(work) > 0).all()
    assert work[2] < 2.0  # what a layer costs however short the sequence is shared by its pieces


def test_of_sequences_with_as_much_to_mend_the_longer_are_worth_less() -> None:
    num_words, num_texts = (4, 40), 80
    sentences = [[num_words[text % 2]] for text in range(num_texts)]
    layers = []
    for layer in range(1, NUM_LAYERS + 1):
        wrong = {text for text in range(num_texts) if layer == 1 and text % 20 < 2}  # a tenth of each length
        tables = [table(2 if text in wrong else 1, 9.0, 0, words) for text, (words,) in enumerate(sentences)]
        layers.append(torch.cat(tables))
    found = trace_of(layers, sentences)
    short, long = fit_rule(Replayer(found)).worth_of_going_on(found.readings[:1]).reshape(-1, 2).T
    assert set(short) == {short[0]} and set(long) == {long[0]}  # of a length, all look alike
    assert short[0] > 2 * long[0]


def test_a_rule_has_a_weight_for_every_feature_of_every_layer_but_the_last(replayer: Replayer) -> None:
    rule = fit_rule(replayer)
    assert (rule.num_layers, len(rule.weights)) == (NUM_LAYERS, NUM_LAYERS - 1)
    assert {len(row) for row in rule.weights} == {len(FEATURES)}
    assert all(np.isfinite([*row, bias]).all() for row, bias in zip(rule.weights, rule.bias, strict=True))


def test_the_same_seed_fits_the_same_rule_and_another_seed_another(drifting: Replayer) -> None:
    one, same, other = (fit_rule(drifting, seed=seed).to_json() for seed in (0, 0, 1))
    assert one == same != other


def test_fitting_leaves_the_global_random_state_alone(replayer: Replayer) -> None:
    before = torch.get_rng_state()
    fit_rule(replayer)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_higher_tau_never_leaves_later(drifting: Replayer) -> None:
    rule = fit_rule(drifting)
    layers = [drifting.replay(Learned(tau=tau, rule=rule)).layers_run for tau in (0.0, 0.01, 0.05, 0.2, 1.0, 5.0)]
    assert all((later <= sooner).all() for sooner, later in pairwise(layers))
    assert set(layers[0].tolist()) == {4} and len({of_tau.mean() for of_tau in layers}) > 3


# cross-fitting


def test_cross_fitted_evidence_has_one_estimate_for_every_sequence_behind_every_layer_but_the_last(
    drifting: Replayer,
) -> None:
    evidence = cross_fitted_evidence(drifting, folds=2)
    assert [{len(of_sequence) for of_sequence in of_layer} for of_layer in evidence] == [{1}, {1}, {1}, {0}]
    assert {len(of_layer) for of_layer in evidence} == {len(drifting.trace.sequences)}
    assert evidence != drifting.evidences(Learned(rule=fit_rule(drifting)))


def test_a_texts_own_gold_does_not_touch_its_estimate_but_that_of_other_folds(drifting: Replayer) -> None:
    found, poisoned_text = drifting.trace, 7
    invented = frozenset((0, 2 * end + 1, label) for end in range(4) for label in "AB")
    golds = [invented if text == poisoned_text else gold for text, gold in enumerate(found.gold)]
    before = cross_fitted_evidence(drifting, folds=3)
    after = cross_fitted_evidence(Replayer(replace(found, gold=tuple(golds))), folds=3)
    same = np.array([one == other for one, other in zip(before[0], after[0], strict=True)])
    fold = np.random.default_rng(0).permutation(len(found.texts)) % 3
    in_its_fold = (fold == fold[poisoned_text])[found.text_of_sequence]
    assert same[in_its_fold].all() and in_its_fold.any()
    assert same[~in_its_fold].mean() < 0.5  # not 0: an estimate has a lowest and a highest value


def test_a_corpus_is_judged_by_a_rule_that_was_fitted_without_it(drifting: Replayer) -> None:
    found = drifting.trace
    sources = tuple("tweets" if text % 4 == 0 else "news" for text in range(len(found.texts)))
    evidence = cross_fitted_evidence(Replayer(replace(found, sources=sources)))
    is_tweet = np.array([source == "tweets" for source in sources])[found.text_of_sequence]
    of_news = fit_rule(drifting, np.flatnonzero(~is_tweet))
    expected = Learned(rule=of_news).evidence(found.readings[:1])
    assert [evidence[0][index] for index in np.flatnonzero(is_tweet)] == [
        tuple(row) for row in expected[is_tweet].tolist()
    ]


def test_cross_fitted_estimates_find_the_marked_too(replayer: Replayer, marked: np.ndarray) -> None:
    policy = Learned(tau=FAIR_PRICE, rule=fit_rule(replayer))
    layers = decide_all(policy, cross_fitted_evidence(replayer, folds=2))
    assert layers.tolist() == np.where(marked, 1, 2).tolist()
