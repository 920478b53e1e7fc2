"""What samples say of every level: certified from the safest on, withdrawn by an alarm, measured all the time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.engine.samples import SampleRun
from service.exits.policies.tokee import Tokee
from service.exits.policy import ExitPolicy
from service.levels.on_traffic import Standing, TrafficLevels
from service.policy.promised import PromiseGoal
from tests.levels.promised_ import (
    FASTEST,
    LEVELS,
    MIDDLE,
    NOON,
    NUM_LAYERS,
    SAFE,
    SURE_AT_SECOND,
    agreeing,
    sample_run,
    traffic_levels,
    wrong_if_fastest,
)

GOAL = PromiseGoal(0.5, confidence=0.8)  # soon proven
ENOUGH = 400  # samples to prove it where all agrees


def add(levels: TrafficLevels, run: Callable[[], SampleRun], count: int) -> None:
    for _ in range(count):
        levels.add(run())


def standing(levels: TrafficLevels) -> Standing:
    found = levels.standing()
    assert found is not None
    return found


def certified(levels: TrafficLevels) -> tuple[ExitPolicy, ...]:
    return standing(levels).certified.levels


def until(levels: TrafficLevels, run: Callable[[], SampleRun], condition: Callable[[], object]) -> int:
    """Add samples until a condition holds; -> how many."""
    for count in range(1, ENOUGH + 1):
        levels.add(run())
        if condition():
            return count
    raise AssertionError(f"not after {ENOUGH} samples")


def test_nothing_is_certified_before_it_is_proven_and_nothing_is_tested_before_somebody_asks() -> None:
    levels = traffic_levels()
    assert levels.standing() is None
    levels.add(agreeing())
    assert {found.is_certified for found in levels.measured().values()} == {None}
    levels.test(GOAL)
    levels.add(agreeing())
    assert standing(levels) == Standing(standing(levels).certified, NOON.isoformat(timespec="milliseconds"), 1, 0)
    assert certified(levels) == () and not levels.measured()[SAFE].is_certified


def test_levels_are_certified_where_all_agrees() -> None:
    levels = traffic_levels()
    levels.test(GOAL)
    until(levels, agreeing, lambda: certified(levels) == LEVELS)
    assert all(found.is_certified for found in levels.measured().values())


def test_a_level_that_errs_is_not_certified_and_holds_up_no_safer_one() -> None:
    levels, goal = traffic_levels(), PromiseGoal(0.2, confidence=0.8)
    levels.test(goal)
    turns = iter(range(2 * ENOUGH))
    until(levels, lambda: wrong_if_fastest() if next(turns) % 2 else agreeing(), lambda: MIDDLE in certified(levels))
    assert certified(levels) == (SAFE, MIDDLE)
    measured = levels.measured()
    assert (measured[FASTEST].is_certified, measured[MIDDLE].is_certified) == (False, True)
    assert measured[MIDDLE].estimate.agreement == 1.0
    assert measured[FASTEST].estimate.agreement == pytest.approx(0.5, abs=0.01)


def test_an_alarm_takes_all_levels_out_of_force_and_those_that_hold_are_proven_anew() -> None:
    alarms: list[int] = []
    levels = TrafficLevels(LEVELS, LEVELS, NUM_LAYERS, now=lambda: NOON, on_alarm=lambda: alarms.append(1))
    levels.test(GOAL)
    until(levels, agreeing, lambda: certified(levels) == LEVELS)
    until(levels, wrong_if_fastest, lambda: alarms)
    assert certified(levels) == ()
    assert (standing(levels).alarms, standing(levels).samples) == (1, 0)  # the evidence begins anew
    until(levels, wrong_if_fastest, lambda: certified(levels) == (SAFE, MIDDLE))


def test_another_goal_begins_anew_and_the_same_goes_on() -> None:
    levels = traffic_levels()
    levels.test(GOAL)
    until(levels, agreeing, lambda: certified(levels) == LEVELS)
    again = levels.test(PromiseGoal(GOAL.max_disagreement, GOAL.confidence))
    assert again is not None and again.certified.levels == LEVELS
    other = levels.test(PromiseGoal(0.4))
    assert other is not None and (other.samples, other.certified.levels) == (0, ())
    assert levels.test(None) is None


def test_every_sample_is_counted_and_weighed() -> None:
    told: list[int] = []
    levels = TrafficLevels(LEVELS, LEVELS, NUM_LAYERS, now=lambda: NOON, on_sample=lambda: told.append(1))
    levels.add(sample_run([1, 1, 1, 1], SURE_AT_SECOND, weight=3.0))
    levels.add(wrong_if_fastest())
    measured = levels.measured()
    assert len(told) == measured[SAFE].estimate.samples == 2
    assert [measured[level].estimate.average_exit_layer for level in LEVELS] == [2.0, 1.25, 1.0]
    assert [measured[level].estimate.agreement for level in LEVELS] == [1.0, 1.0, pytest.approx(6 / 8)]


def test_a_sample_that_could_not_be_run_counts_as_the_worst_there_is() -> None:
    levels = traffic_levels()
    levels.add(agreeing())
    levels.add(SampleRun(None, (0, 1), 3, 1.0, 1.0))
    estimate = levels.measured()[SAFE].estimate
    assert (estimate.agreement, estimate.average_exit_layer) == (pytest.approx(2 / 5), 2.5)


def test_a_sentence_whose_other_window_answers_for_a_word_does_not_count_it() -> None:
    levels, run = traffic_levels(), agreeing()
    levels.add(SampleRun(run.readings, (1, 1), 3, 1.0, 1.0))
    assert levels.measured()[SAFE].estimate.agreement is None


def test_levels_whose_words_halt_one_by_one_are_not_scored() -> None:
    levels = TrafficLevels((Tokee(), SAFE), (SAFE,), NUM_LAYERS, now=lambda: NOON)
    levels.add(agreeing())
    assert levels.measured().keys() == {SAFE}


def test_a_model_of_which_nothing_can_be_tested_never_certifies() -> None:
    levels = TrafficLevels((), (), NUM_LAYERS, now=lambda: NOON)
    found = levels.test(GOAL)
    assert found is not None and found.certified.levels == () and levels.measured() == {}


def test_a_window_is_the_longer_the_less_may_be_lost() -> None:
    assert [PromiseGoal(of).terms.window for of in (0.005, 0.02, 0.05, 0.5)] == [4_000, 1_000, 400, 400]
