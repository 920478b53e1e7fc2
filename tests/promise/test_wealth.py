"""Wealth never grows in expectation where the average is not above 0: worked out exactly, over every outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pytest

from service.promise.sampling import MAX_WEIGHT
from service.promise.wealth import (
    BETS,
    MOST_STAKE,
    NUM_BETS,
    DroppedWealth,
    Wealth,
    bold_shares,
    even_shares,
)
from service.spans.types import DoubleArray

ONE = np.array(1.0)
STEPS = 8


def settled(wealth: Wealth | DroppedWealth, payoffs: Sequence[float], weights: Sequence[float] | None = None) -> float:
    for payoff, weight in zip(payoffs, weights or [1.0] * len(payoffs), strict=True):
        wealth.settle(np.array(payoff), np.array(weight), np.array(weight))
    return float(wealth.total)


def outcomes(means: Sequence[float]) -> Iterator[tuple[float, list[float]]]:
    """Every sequence of payoffs of -1 or 0.5 with these means, and its probability."""
    for falls in product((True, False), repeat=len(means)):
        chances = [(0.5 - mean) / 1.5 if fall else (1 + mean) / 1.5 for fall, mean in zip(falls, means, strict=True)]
        yield float(np.prod(chances)), [-1.0 if fall else 0.5 for fall in falls]


@pytest.mark.parametrize(
    "means",
    [[0.0] * STEPS, [-0.1] * STEPS, [0.3] * 4 + [-0.3] * 4, [-0.4, 0.4] * 4, [0.45] + [-0.45 / 7] * 7],
    ids=["zero", "below", "good then bad", "in turns", "good once"],
)
def test_where_the_average_is_not_above_0_wealth_is_not_expected_to_grow_however_the_means_drift(
    means: list[float],
) -> None:
    assert sum(means) <= 1e-12
    expected = sum(chance * settled(Wealth(even_shares()), payoffs) for chance, payoffs in outcomes(means))
    assert expected <= 1 + 1e-12


def test_where_the_average_is_above_0_wealth_is_expected_to_grow() -> None:
    means = [0.2] * STEPS
    assert sum(chance * settled(Wealth(even_shares()), payoffs) for chance, payoffs in outcomes(means)) > 1.3


def test_weights_make_up_for_how_seldom_a_time_is_sampled() -> None:
    """Four sentences of a quiet time that pay 0.25, then four of a peak that pay -0.25, sampled with 1/4."""

    def expected(weight: float) -> float:
        total = 0.0
        for drawn in product((True, False), repeat=4):
            chance = float(np.prod([0.25 if is_drawn else 0.75 for is_drawn in drawn]))
            wealth = Wealth(even_shares())
            for payoff in [0.25] * 4 + [-0.25 * is_drawn for is_drawn in drawn]:
                of = weight if len(drawn) and payoff <= 0 else 1.0
                wealth.settle(np.array(payoff), np.array(of), np.array(of))
            total += chance * float(wealth.total)
        return total

    assert expected(4.0) <= 1 + 1e-12
    assert expected(1.0) > 1.1


def test_a_bet_that_a_weight_could_make_lose_too_much_is_given_up_and_its_wealth_with_it() -> None:
    wealth = Wealth(even_shares())
    assert settled(wealth, [0.0], [4.0]) == pytest.approx((NUM_BETS - 3) / NUM_BETS)
    assert settled(wealth, [1.0]) == pytest.approx((1 + BETS[3:]).sum() / NUM_BETS)


def test_a_bet_is_given_up_for_a_weight_that_no_sample_happened_to_have() -> None:
    wealth = Wealth(even_shares())
    wealth.settle(np.array(1.0), ONE, np.array(2.0))
    assert float(wealth.total) == pytest.approx((1 + BETS[2:]).sum() / NUM_BETS)


def test_wealth_stays_positive_whatever_happens() -> None:
    worst = settled(Wealth(even_shares()), [-1.0] * 300)
    assert 0 < worst < 1
    assert 0 < settled(Wealth(even_shares()), [-1.0] * 20, [1.0, 16.0] * 10) < worst * 1e20


def test_wealth_without_end_does_not_overflow() -> None:
    best = settled(Wealth(even_shares()), [1.0] * 3_000)
    assert np.isfinite(best) and best > 1e200
    assert np.isfinite(settled(DroppedWealth(even_shares(), 3_000), [-1.0] * 3_000))


@pytest.mark.parametrize("payoffs", [[-0.2, 0.5, -1.0, 0.1], [0.3] * 5, [-0.3] * 5])
def test_dropped_wealth_is_the_average_over_every_start_of_bets_against_the_payoffs(payoffs: list[float]) -> None:
    window = 6
    starts = [settled(Wealth(even_shares()), [-payoff for payoff in payoffs[start:]]) for start in range(len(payoffs))]
    not_in_yet = 1 - len(payoffs) / window
    assert settled(DroppedWealth(even_shares(), window), payoffs) == pytest.approx(sum(starts) / window + not_in_yet)


def test_dropped_wealth_is_not_expected_to_grow_where_no_stretch_was_below_0() -> None:
    means = [0.0] * 4 + [0.1, 0.2, 0.0, 0.3]
    assert (
        sum(chance * settled(DroppedWealth(even_shares(), STEPS), payoffs) for chance, payoffs in outcomes(means)) <= 1
    )


def test_a_drop_is_found_as_soon_after_a_long_good_time_as_at_once() -> None:
    def needed(good: int) -> int:
        wealth = DroppedWealth(even_shares(), 1_000)
        settled(wealth, [0.02] * good)
        return next(count for count in range(1, 200) if settled(wealth, [-0.3]) >= 20)

    assert needed(700) <= needed(0) < 50


def test_a_restart_forgets_in_its_place_alone() -> None:
    wealth, dropped = Wealth(even_shares(2)), DroppedWealth(even_shares(2), 50)
    for _ in range(5):
        wealth.settle(np.array([0.5, 0.5]), np.ones(1), np.ones(1))
        dropped.settle(np.array([-0.5, -0.5]), np.ones(1), np.ones(1))
    before = wealth.total[1], dropped.total[1]
    wealth.restart(np.array([True, False]))
    dropped.restart(np.array([True, False]))
    assert wealth.total.tolist() == pytest.approx([1.0, before[0]])
    assert dropped.total.tolist() == pytest.approx([1.0, before[1]])


def test_no_bet_may_lose_more_than_the_stake_that_keeps_it_alive() -> None:
    assert BETS[0] == MOST_STAKE < 1 and (np.diff(BETS) < 0).all()
    assert BETS[-1] * MAX_WEIGHT <= MOST_STAKE  # so that some are left in the busiest times


def test_the_bold_spread_is_of_the_whole_capital_and_proves_in_fewer_samples_than_the_even_one() -> None:
    assert float(Wealth(bold_shares()).total) == pytest.approx(1.0)

    def needed(shares: DoubleArray) -> int:
        wealth = Wealth(shares)
        return next(count for count in range(1, 1_000) if settled(wealth, [0.015]) >= 20)

    assert needed(bold_shares()) < needed(even_shares())
