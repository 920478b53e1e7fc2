"""The control law: what it does with one observation, and how a simulated server fares under it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.autopilot.law import CALM_S, LEAST_GAP_S, LONGEST_CALM_S, PROVEN_S, ControlLaw, Observation, State
from tests.autopilot.simulated_ import FASTEST, OBJECTIVE_S, SPEEDS, fly

LAW = ControlLaw(SPEEDS, OBJECTIVE_S)
QUIET = Observation(
    interval_s=0.1,
    admitted_pieces=100,
    done_pieces=0,
    busy_s=0.0,
    open_pieces=0,
    waiting_s=0.0,
    p95_s=0.01,
    highest_level=FASTEST,
)
seeded = settings(derandomize=True, deadline=None, max_examples=12)


def seen(**changes: Any) -> Observation:
    """A quiet tenth of a second at a fifth of full depth's capacity, but for these."""
    return replace(QUIET, **changes)


def settled(level: int, **changes: Any) -> State:
    """At a level for long, with arrivals and speed known: full depth would be busy for a fifth of the time."""
    return replace(State(level, arrivals=1_000.0, work=0.2, pieces=1_000.0, calm_s=CALM_S), **changes)


# one observation


def test_quiet_traffic_stays_at_the_most_accurate_level() -> None:
    assert LAW.next(State(level=0), QUIET).level == LAW.next(settled(0), QUIET).level == 0


def test_a_queue_that_comes_near_the_objective_asks_for_a_faster_level_before_p95_shows_it() -> None:
    assert LAW.next(settled(0), seen(waiting_s=0.049)).level == 0
    assert LAW.next(settled(0), seen(waiting_s=0.051)).level == 1


def test_a_p95_that_comes_near_the_objective_asks_for_a_faster_level_though_nothing_waits() -> None:
    assert LAW.next(settled(0), seen(p95_s=0.089)).level == 0
    assert LAW.next(settled(0), seen(p95_s=0.091)).level == 1


def test_too_few_answers_for_a_p95_threaten_nothing() -> None:
    assert LAW.next(settled(0), seen(p95_s=None)).level == 0


@pytest.mark.parametrize(("load", "level"), [(1.0, 1), (1.4, 2), (1.8, 3), (2.3, 4), (9.0, 4)])
def test_a_queue_is_met_at_once_by_the_first_level_that_can_serve_what_arrives(load: float, level: int) -> None:
    overloaded = settled(0, arrivals=load * 5_000)
    assert LAW.next(overloaded, seen(admitted_pieces=load * 500, waiting_s=0.06)).level == level


def test_what_waits_counts_as_work_to_be_done_soon() -> None:
    few, many = seen(open_pieces=300), seen(open_pieces=8_000)  # 60 ms and 1.6 s of work for full depth
    assert LAW.next(settled(0), few).level < LAW.next(settled(0), many).level == 3


def test_where_delay_contradicts_the_work_the_next_level_is_tried_once_the_last_move_had_time_to_show() -> None:
    late = seen(waiting_s=0.3)
    assert LAW.next(settled(2, since_move_s=0.5), late).level == 2
    assert LAW.next(settled(2, since_move_s=1.0), late).level == 3
    assert LAW.next(settled(FASTEST), late).level == FASTEST


def test_two_moves_keep_their_distance() -> None:
    overloaded, late = settled(0, arrivals=9_000.0), seen(waiting_s=0.3)
    assert LAW.next(replace(overloaded, since_move_s=LEAST_GAP_S - 0.15), late).level == 0
    assert LAW.next(replace(overloaded, since_move_s=LEAST_GAP_S), late).level > 1


def test_a_return_is_one_level_and_begins_the_calm_anew() -> None:
    state = LAW.next(settled(3), QUIET)
    assert (state.level, state.calm_s, state.on_trial_s) == (2, 0.0, 0.0)
    assert LAW.next(state, QUIET).level == 2


@pytest.mark.parametrize("disturbance", [{"waiting_s": 0.03}, {"p95_s": 0.08}, {"open_pieces": 300}])
def test_between_calm_and_threat_nothing_moves(disturbance: dict[str, Any]) -> None:
    state = LAW.next(settled(2), seen(**disturbance))
    assert (state.level, state.calm_s) == (2, 0.0)


def test_no_return_to_a_level_that_would_be_too_busy() -> None:
    assert LAW.next(settled(2, arrivals=5_300.0), seen(admitted_pieces=530)).level == 2  # .82 of level 1's capacity
    assert LAW.next(settled(2, arrivals=5_100.0), seen(admitted_pieces=510)).level == 1  # .78


def test_a_return_that_does_not_last_doubles_the_calm_before_the_next_one_up_to_a_limit() -> None:
    state = LAW.next(settled(2), QUIET)
    failed = LAW.next(replace(state, since_move_s=1.0), seen(waiting_s=0.06))
    assert (failed.level, failed.needed_calm_s, failed.on_trial_s) == (2, 2 * CALM_S, None)
    again = replace(state, since_move_s=1.0, needed_calm_s=LONGEST_CALM_S)
    assert LAW.next(again, seen(waiting_s=0.06)).needed_calm_s == LONGEST_CALM_S


def test_a_return_that_lasts_makes_up_for_those_that_did_not() -> None:
    state = settled(0, on_trial_s=PROVEN_S - 0.15, needed_calm_s=24.0)
    state = LAW.next(state, QUIET)
    assert state.needed_calm_s == 24.0
    state = LAW.next(state, QUIET)
    assert (state.needed_calm_s, state.on_trial_s) == (12.0, None)
    assert LAW.next(settled(0, on_trial_s=PROVEN_S), QUIET).needed_calm_s == CALM_S


def test_a_level_that_may_not_be_used_any_more_is_left_at_once_and_not_entered() -> None:
    assert LAW.next(settled(3, since_move_s=0.1), seen(highest_level=1, waiting_s=9.0)).level == 1
    assert LAW.next(settled(1), seen(highest_level=1, waiting_s=9.0)).level == 1


def test_one_level_is_a_ladder_too() -> None:
    law = ControlLaw((2.0,), OBJECTIVE_S)
    assert law.next(State(level=0), seen(waiting_s=9.0, highest_level=0)).level == 0


def test_a_device_that_answers_nothing_says_nothing_of_its_speed() -> None:
    known = settled(1)
    assert LAW.next(known, seen(done_pieces=0, busy_s=0.1)).piece_s == known.piece_s == 0.0002


def test_the_time_of_a_piece_is_told_at_full_depths_speed_whatever_the_level() -> None:
    state = State(level=4)
    for _ in range(29):
        state = LAW.next(state, seen(admitted_pieces=500, done_pieces=500, busy_s=0.1 / SPEEDS[4]))
    assert state.piece_s == pytest.approx(0.0002) and state.arrivals == pytest.approx(5_000, rel=0.01)


# a simulated server


def step(moment: float) -> float:
    """From .4 to 2 times what full depth can serve, and back."""
    return 2.0 if 10 <= moment < 40 else 0.4


def test_without_autopilot_full_depth_collapses_under_a_step() -> None:
    assert fly(step, 40, has_autopilot=False).p95_s(20, 24) > 5


@pytest.mark.parametrize("seed", range(3))
def test_a_step_is_absorbed_in_two_seconds_and_level_zero_comes_back_after_it(seed: int) -> None:
    flight = fly(step, 70, seed=seed)
    assert flight.keeps_objective(0, 10) and flight.keeps_objective(12, 70)
    assert flight.level_at(12) == FASTEST and flight.level_at(60) == 0
    assert flight.moves_between(0, 10) == flight.moves_between(12, 40) == flight.moves_between(60, 70) == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_ramp_is_climbed_and_descended_without_breaking_the_objective(seed: int) -> None:
    flight = fly(lambda moment: 0.3 + (min(moment, 80 - moment) / 20 if moment < 80 else 0.0), 110, seed=seed)
    assert flight.keeps_objective(0, 110)
    assert flight.level_at(40) == FASTEST and flight.level_at(110) == 0
    assert len(flight.moves) <= 16


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95, 1.1, 1.5, 2.0])
def test_under_a_steady_load_it_hardly_moves(load: float) -> None:
    flight = fly(lambda moment: load, 120)
    assert flight.keeps_objective(3, 120)
    assert flight.moves_between(20, 120) <= 6
    assert flight.level_at(120) == 0 or load > 0.5


def test_noise_on_a_load_that_level_zero_can_serve_moves_nothing_for_long() -> None:
    flight = fly(lambda moment: 0.5 + 0.45 * math.sin(40 * moment) * math.sin(moment), 200)
    assert flight.keeps_objective(0, 200)
    assert len(flight.moves) <= 8 and flight.level_at(200) == 0


def test_a_device_that_becomes_slow_is_made_up_for_and_level_zero_comes_back_when_it_recovers() -> None:
    flight = fly(lambda moment: 0.5, 120, slowness=lambda moment: 3.0 if 10 <= moment < 40 else 1.0)
    assert flight.keeps_objective(0, 10) and flight.keeps_objective(13, 120)
    assert flight.level_at(30) >= 3 and flight.level_at(120) == 0


def test_bursts_that_keep_coming_are_met_better_than_the_first() -> None:
    flight = fly(lambda moment: 2.0 if moment % 20 < 4 and moment < 200 else 0.2, 380)
    assert flight.keeps_objective(100, 380)
    assert flight.moves_between(100, 200) <= 14 and flight.level_at(380) == 0


def test_a_calibration_that_promised_too_much_is_found_out() -> None:
    truth = (1.0, 1.05, 1.1, 1.2, 1.7)
    flight = fly(lambda moment: 1.2, 150, speeds=truth)
    assert flight.keeps_objective(3, 150)
    assert flight.level_at(150) == FASTEST and flight.moves_between(20, 150) <= 10


def test_a_load_that_nothing_can_serve_finds_it_at_the_fastest_level_and_at_rest() -> None:
    flight = fly(lambda moment: 4.0, 30)
    assert flight.level_at(30) == FASTEST and len(flight.moves) <= 4


def test_levels_that_are_closed_on_the_way_are_not_used_again() -> None:
    flight = fly(step, 70, highest_level=lambda moment: 4 if moment < 20 else 2)
    assert flight.level_at(19) == 4
    assert flight.level_at(21) <= 2 and {level for when, level in flight.moves if when > 20} <= {0, 1, 2}


changes_of_load = st.lists(st.tuples(st.floats(1, 8), st.floats(0, 3)), min_size=1, max_size=5)


@seeded
@given(changes_of_load, st.integers(0, 9), st.integers(0, FASTEST), st.floats(0.5, 3))
def test_whatever_comes_moves_are_bounded_in_number_distance_and_reach(
    changes: list[tuple[float, float]], seed: int, highest: int, slowness: float
) -> None:
    def load(moment: float) -> float:
        for seconds, height in changes:
            if moment < seconds:
                return height
            moment -= seconds
        return 0.1

    seconds = sum(seconds for seconds, _ in changes)
    options = {"seed": seed, "slowness": lambda _: slowness, "highest_level": lambda _: highest}
    flight = fly(load, seconds + 3 * LONGEST_CALM_S, **options)
    assert all(0 <= level <= highest for _, level in flight.moves)
    levels = [0, *(level for _, level in flight.moves)]
    returns = [when for (when, level), before in zip(flight.moves, levels, strict=False) if level < before]
    assert all(before - after <= 1 for before, after in pairwise(levels))
    assert all(later - earlier >= CALM_S - 1e-6 for earlier, later in pairwise(returns))
    assert all(later - earlier >= LEAST_GAP_S - 1e-6 for (earlier, _), (later, _) in pairwise(flight.moves))
    assert levels[-1] == 0
