"""Draws over texts: the same for every policy, against a naive resampling."""

from __future__ import annotations

import numpy as np
import pytest

from service.evaluation.bootstrap import DRAWS, Bootstrap, interval
from service.evaluation.replay import Replay, Replayer
from service.exits.policies.branchynet import BranchyNet
from service.spans.score import Score
from tests.evaluation.traces_ import drifting_trace, made_up_replay


@pytest.fixture(scope="module")
def replayer() -> Replayer:
    return Replayer(drifting_trace(40))


@pytest.fixture(scope="module")
def early(replayer: Replayer) -> Replay:
    first = replayer.evidences(BranchyNet())[0]
    return replayer.replay(BranchyNet(tau=float(np.median(first))))


def drawn_texts(num_texts: int, seed: int = 0) -> list[list[int]]:
    """Which texts every draw holds, with repetitions."""
    chances = np.full(num_texts, 1 / num_texts)
    draws = np.random.default_rng(seed).multinomial(num_texts, chances, DRAWS)
    return [np.repeat(np.arange(num_texts), of_draw).tolist() for of_draw in draws]


def test_the_f1_of_a_draw_is_that_of_its_texts_put_together(early: Replay) -> None:
    f1 = Bootstrap(40).f1(early)
    rows = list(zip(early.gold.tolist(), early.found.tolist(), early.correct.tolist(), strict=True))
    for draw, texts in list(enumerate(drawn_texts(40)))[::100]:
        assert len(texts) == 40
        assert f1[draw] == pytest.approx(100 * sum((Score(*rows[text]) for text in texts), Score()).f1)


def test_the_average_layer_of_a_draw_is_that_of_its_sequences_put_together(replayer: Replayer, early: Replay) -> None:
    owners = replayer.trace.text_of_sequence
    layers = Bootstrap(40).average_exit_layer(early, owners)
    for draw, texts in list(enumerate(drawn_texts(40)))[::100]:
        pooled = [layer for text in texts for layer in early.layers_run[owners == text]]
        assert layers[draw] == pytest.approx(np.mean(pooled))


def test_a_policy_against_itself_differs_by_nothing(early: Replay) -> None:
    bootstrap = Bootstrap(40)
    assert interval(bootstrap.f1(early) - bootstrap.f1(early)) == (0.0, 0.0)


def test_differences_are_paired_so_they_vary_less_than_their_parts(replayer: Replayer, early: Replay) -> None:
    bootstrap, layers = Bootstrap(40), early.layers_run.copy()
    layers[:4] = 4
    similar = replayer.at_layers(layers)
    low, high = interval(bootstrap.f1(similar) - bootstrap.f1(early))
    apart = interval(bootstrap.f1(similar) - Bootstrap(40, seed=1).f1(early))
    assert 0 < high - low < (apart[1] - apart[0]) / 2


def test_intervals_hold_what_was_found(replayer: Replayer, early: Replay) -> None:
    bootstrap = Bootstrap(40)
    for drawn, found in (
        (bootstrap.f1(early), 100 * early.micro.f1),
        (bootstrap.average_exit_layer(early, replayer.trace.text_of_sequence), early.average_exit_layer),
    ):
        low, high = interval(drawn)
        assert low < found < high
        assert np.mean((low <= drawn) & (drawn <= high)) == pytest.approx(0.95, abs=0.01)


def test_the_same_seed_draws_the_same_texts_and_another_seed_others(early: Replay) -> None:
    one, same, other = (Bootstrap(40, seed).f1(early) for seed in (0, 0, 1))
    assert one.tolist() == same.tolist() != other.tolist()
    assert len(one) == DRAWS


def test_texts_that_are_all_alike_leave_no_doubt() -> None:
    assert interval(Bootstrap(8).f1(made_up_replay([70] * 8))) == pytest.approx((70.0, 70.0))


def test_where_nothing_is_gold_and_nothing_found_f1_is_0() -> None:
    assert set(Bootstrap(3).f1(made_up_replay([0, 0, 0], gold=0, found=0))) == {0.0}


def test_a_text_without_sequences_counts_no_layer() -> None:
    replay, owners = made_up_replay([50, 60]), np.array([0, 2])  # the text between them is blank
    layers = Bootstrap(3).average_exit_layer(replay, owners)
    assert set(layers.tolist()) == {0.0, 1.0}
    assert layers.mean() > 0.9  # 0 only where a draw holds the blank text alone
