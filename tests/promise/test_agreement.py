"""A payoff's sum is at least 0 exactly where the promise is kept, and agreement bounds what gold F1 can lose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadInput
from service.promise.agreement import (
    MAX_CORRECT,
    Promise,
    disagreement_for_loss,
    excess,
    least_gold_f1,
    payoffs_above,
    payoffs_below,
)
from service.spans.score import score
from tests.promise.counts_ import scores_of

seeded = settings(derandomize=True, deadline=None, max_examples=200)
few = st.integers(0, 3)
rows_that_count = st.lists(
    st.tuples(st.integers(0, MAX_CORRECT), few, few).filter(lambda row: row[1] + row[2] <= 3), min_size=1, max_size=20
)
any_rows = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=20)
disagreements = st.floats(0.0005, 0.5)
keys = st.sets(st.tuples(st.integers(0, 5), st.just(9), st.sampled_from("ab")), max_size=9)


@seeded
@given(rows_that_count, disagreements)
def test_the_sum_is_at_least_0_exactly_where_f1_is_at_least_what_is_promised(
    rows: list[tuple[int, int, int]], disagreement: float
) -> None:
    promise, scores = Promise(disagreement), scores_of(rows)
    total = promise.payoffs(scores).sum()
    correct, answered = 2 * scores.true_positives.sum(), scores.answered.sum()
    if abs(total) > 1e-9:
        assert (total >= 0) == (correct >= promise.agreement * answered)


@seeded
@given(any_rows, disagreements)
def test_a_payoff_is_from_minus_1_to_the_most_there_can_be(
    rows: list[tuple[int, int, int]], disagreement: float
) -> None:
    promise = Promise(disagreement)
    payoffs = promise.payoffs(scores_of(rows))
    assert payoffs.min() >= -1 - 1e-12 and payoffs.max() <= promise.most_payoff + 1e-12
    assert promise.payoffs(scores_of([(0, 3, 0), (90, 0, 0)])).ravel() == pytest.approx([-1, promise.most_payoff])


@seeded
@given(any_rows, disagreements)
def test_if_the_sum_is_at_least_0_f1_lacks_no_more_than_the_errors_that_do_not_count(
    rows: list[tuple[int, int, int]], disagreement: float
) -> None:
    promise, scores = Promise(disagreement), scores_of(rows)
    if promise.payoffs(scores).sum() >= 0 and scores.answered.sum():
        uncounted = excess(scores, promise.max_errors).sum() / scores.answered.sum()
        f1 = 2 * scores.true_positives.sum() / scores.answered.sum()
        assert f1 >= promise.agreement * (1 - uncounted) - 1e-9


@seeded
@given(any_rows)
def test_on_a_grid_the_payoffs_of_every_sample_fall_above_and_rise_below(rows: list[tuple[int, int, int]]) -> None:
    agreements = np.linspace(0.5, 0.999, 30)
    above, below = (pay(scores_of(rows[:1]), agreements, 3) for pay in (payoffs_above, payoffs_below))
    assert (np.diff(above) <= 1e-12).all() and (np.diff(below) >= -1e-12).all()
    assert min(above.min(), below.min()) >= -1 - 1e-12


@seeded
@given(keys, keys, keys)
def test_gold_f1_is_at_least_what_agreement_with_full_depth_leaves(
    gold: set[tuple[int, int, str]], full: set[tuple[int, int, str]], answers: set[tuple[int, int, str]]
) -> None:
    agreement = score(full, answers).f1 if full or answers else 1.0
    full_f1 = score(gold, full).f1 if gold or full else 1.0
    gold_f1 = score(gold, answers).f1 if gold or answers else 1.0
    assert gold_f1 >= least_gold_f1(full_f1, 1 - agreement) - 1e-12


def test_the_bound_on_gold_f1_is_reached_where_full_depth_is_right() -> None:
    assert least_gold_f1(1.0, 0.02) == pytest.approx(0.98)
    assert least_gold_f1(0.9, 0.0) == pytest.approx(0.9)
    assert least_gold_f1(0.9, 0.02) == pytest.approx(0.8758, abs=1e-4)


@pytest.mark.parametrize(("full_f1", "loss"), [(0.9, 0.003), (0.6, 0.02), (1.0, 0.05), (0.02, 0.01)])
def test_a_loss_of_gold_f1_is_turned_into_the_largest_disagreement_that_keeps_it(full_f1: float, loss: float) -> None:
    disagreement = disagreement_for_loss(full_f1, loss)
    assert disagreement > 0 and full_f1 - least_gold_f1(full_f1, disagreement) == pytest.approx(loss)


def test_no_loss_allows_no_disagreement() -> None:
    assert disagreement_for_loss(0.9, 0.0) == disagreement_for_loss(0.9, -0.1) == 0.0


@pytest.mark.parametrize("given", [0.0, 0.6, -0.1])
def test_a_promise_that_cannot_be_certified_is_refused(given: float) -> None:
    with pytest.raises(BadInput, match="max_disagreement is"):
        Promise(given)


def test_a_promise_that_counts_no_errors_is_refused() -> None:
    with pytest.raises(BadInput, match="max_errors is 0"):
        Promise(0.02, max_errors=0)
