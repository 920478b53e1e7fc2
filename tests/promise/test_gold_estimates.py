"""Counts against gold give what the sentences one by one would have given, in whatever order, and keep no more."""

from __future__ import annotations

import json

import numpy as np
import pytest

from service.errors import BadInput
from service.promise.agreement import payoffs_above, payoffs_below
from service.promise.estimates import DELTA
from service.promise.gold import F1_GRID, MAX_GOLD_ERRORS, GoldCounts
from service.promise.scoring import Scores
from service.promise.wealth import Wealth, even_shares
from tests.promise.counts_ import scores_of


def counts_of(rows: list[tuple[int, int, int]]) -> GoldCounts:
    """Of one level: true positives, false positives and false negatives of every sentence."""
    counts = GoldCounts(1)
    for row in rows:
        counts.add(scores_of([row]))
    return counts


def drawn(count: int, seed: int = 0) -> list[tuple[int, int, int]]:
    draw = np.random.default_rng(seed)
    rows = [draw.poisson([2.0, 0.4, 0.6]).tolist() for _ in range(count)]
    return [(correct, wrong, missed) for correct, wrong, missed in rows]


def test_before_the_first_sentence_nothing_is_known() -> None:
    (found,) = GoldCounts(1).estimates()
    assert (found.f1, found.f1_interval) == (None, (0.0, 1.0))


def test_f1_is_of_the_sums_whatever_the_sentences_hold() -> None:
    counts = counts_of([(40, 20, 10), (0, 0, 0), (3, 1, 0)])
    assert counts.sentences == 3
    assert counts.f1(0) == pytest.approx(2 * 43 / (2 * 43 + 31))


def test_levels_are_counted_apart() -> None:
    counts = GoldCounts(2)
    ones = np.ones((1, 2), dtype=np.int64)
    counts.add(Scores(ones, np.array([[4, 1]]), np.array([[0, 2]]), np.array([[0, 1]])))
    assert [found.f1 for found in counts.estimates()] == [1.0, pytest.approx(2 / 5)]


def test_the_interval_is_that_of_bets_on_the_sentences_one_after_another() -> None:
    rows = drawn(120)
    above, below = Wealth(even_shares(1, len(F1_GRID))), Wealth(even_shares(1, len(F1_GRID)))
    one = np.ones(1)
    for row in rows:
        above.settle(payoffs_above(scores_of([row]), F1_GRID, MAX_GOLD_ERRORS), one, one)
        below.settle(payoffs_below(scores_of([row]), F1_GRID, MAX_GOLD_ERRORS), one, one)
    (found,) = counts_of(rows).estimates()
    low, high = F1_GRID[above.total[0] >= 2 / DELTA].max(), F1_GRID[below.total[0] >= 2 / DELTA].min()
    assert found.f1_interval == (low, high)
    assert low < 2 * 2.0 / (2 * 2.0 + 1.0) < high and high - low < 0.4
    assert counts_of(rows[::-1]).estimates() == [found]


def test_counts_of_two_processes_add_up_and_survive_their_file() -> None:
    rows = drawn(40)
    both = counts_of(rows[:25]).plus(counts_of(rows[25:]))
    again = GoldCounts.from_json(json.loads(json.dumps(both.to_json())))
    assert again.to_json() == both.to_json() == counts_of(rows).to_json()
    assert again.estimates() == counts_of(rows).estimates()


@pytest.mark.parametrize(
    "broken",
    [
        {"sentences": -1},
        {"sentences": 2},
        {"sentences": 1.0},
        {"levels": [{"sums": [1, 0, 0], "cells": {"100000": 1}}]},
        {"levels": [{"sums": [1, 0], "cells": {"9": 1}}]},
        {"levels": [{"sums": [1, 0, 0], "cells": {"x": 1}}]},
        {"levels": None},
    ],
    ids=str,
)
def test_what_is_no_counts_is_refused(broken: dict[str, object]) -> None:
    whole = counts_of([(1, 0, 0)]).to_json()
    assert GoldCounts.from_json(whole).sentences == 1
    with pytest.raises(BadInput, match="count"):
        GoldCounts.from_json({**whole, **broken})
