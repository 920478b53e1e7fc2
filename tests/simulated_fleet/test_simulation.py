"""What the simulation gives where it can be worked out, and what holds of every run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.simulated_fleet.figures import figures
from benchmarks.simulated_fleet.machine import Machine, Thread
from benchmarks.simulated_fleet.process import Served
from benchmarks.simulated_fleet.simulation import Fleet, simulate
from benchmarks.simulated_fleet.traffic import arrivals, constant, of_day, share_of_peak
from service.api.server import SWITCH_INTERVAL_S
from tests.simulated_fleet.fleets_ import LAYER_S, LAYERS, autopilot, costs_of, recording_of

OBJECTIVE_MS = 150.0
ALONE = Fleet(Served("full_depth"), cores=2)


def test_one_request_alone_takes_the_sum_of_its_parts() -> None:
    costs = costs_of(take=0.001, reply=0.003, turn=0.0005, wake=0.0002, step=0.0001, answer=0.0004)
    (call,) = simulate(ALONE, costs, recording_of(), np.array([1.0])).calls
    loop_s, engine_s = 0.001 + 0.003 + 2 * 0.0005 + 2 * 0.0002, 0.0002 + LAYERS * (LAYER_S + 0.0001) + 0.0004
    assert call.done - call.due == pytest.approx(loop_s + engine_s)


def test_one_sequence_at_a_time_waits_as_in_an_m_d_1_queue() -> None:
    service_s, utilisation = 0.002, 0.7
    due = arrivals(utilisation / service_s, 8.0, seed=3)
    costs = costs_of(service_s, num_layers=1, at_once=1)
    calls = simulate(ALONE, costs, recording_of(num_layers=1), due).calls
    waited = [call.done - call.due - service_s for call in calls]
    expected = [0.0]  # by Lindley's recursion
    for gap in np.diff(due):
        expected.append(max(0.0, expected[-1] + service_s - gap))
    assert waited == pytest.approx(expected, abs=1e-9)
    assert np.mean(waited) == pytest.approx(service_s * utilisation / (2 * (1 - utilisation)), rel=0.2)


def test_two_threads_of_one_process_take_turns_at_its_interpreter_and_those_of_two_do_not() -> None:
    due = np.arange(400) * 0.0001
    costs = costs_of(0.0, take=0.001, step=0.001, sequence=0.001)
    one, two = (
        simulate(Fleet(Served("full_depth"), cores=4, processes=processes), costs, recording_of(), due).calls
        for processes in (1, 2)
    )
    assert max(call.done for call in one) == pytest.approx(400 * (0.001 + LAYERS * 0.001), rel=0.15)
    assert max(call.done for call in two) < 0.6 * max(call.done for call in one)


@pytest.mark.parametrize("losses", [{}, {0.3: 1, 0.6: 1}])
def test_every_request_is_accounted_for_once_whatever_becomes_of_it(losses: dict[float, int]) -> None:
    fleet = Fleet(Served("full_depth", timeout_s=0.2), replicas=3, routing="random")
    due = arrivals(3_000.0, 1.0, seed=1)  # twice what they can do
    costs = costs_of(take=0.0001, reply=0.0001, refusal=0.0001)
    calls = simulate(fleet, costs, recording_of(), due, losses=losses).calls
    counts = Counter(call.status for call in calls)
    assert counts.total() == len(due) and counts["open"] == 0
    assert counts["answered"] and counts["refused"] and bool(counts["lost"]) == bool(losses)
    assert all(call.done > call.due for call in calls)
    found = figures(calls, 1.0, recording_of())
    assert found.refused + found.failed + counts["answered"] / len(due) == pytest.approx(1.0)


def test_a_seed_gives_the_same_run_again_and_another_one_another() -> None:
    fleet = Fleet(autopilot(), replicas=2, routing="random")
    due = arrivals(500.0, 2.0, seed=1)

    def done(seed: int) -> list[float]:
        recording = recording_of((10,), (10, 30))
        return [call.done for call in simulate(fleet, costs_of(take=0.0001), recording, due, seed=seed).calls]

    assert done(1) == done(1) != done(2)


def test_the_autopilot_keeps_its_objective_in_a_peak_that_full_depth_cannot_serve_and_returns_behind_it() -> None:
    capacity = 1 / (LAYERS * LAYER_S)
    low, high = 0.2 * capacity, 2 * capacity
    due = np.concatenate([arrivals(low, 3.0, 1), 3 + arrivals(high, 6.0, 2), 9 + arrivals(low, 10.0, 3)])
    flown = simulate(Fleet(autopilot(OBJECTIVE_MS)), costs_of(), recording_of(), due)
    fixed = simulate(Fleet(Served("full_depth")), costs_of(), recording_of(), due)
    recording = recording_of()
    in_peak = [figures(outcome.between(6, 9), 3, recording) for outcome in (flown, fixed)]
    assert in_peak[0].p99_ms <= OBJECTIVE_MS and in_peak[0].refused == 0 and in_peak[0].f1_loss > 0.9
    assert in_peak[1].p99_ms > 500
    levels = dict(flown.levels)
    assert max(levels.values()) == 1 and flown.levels[0][1] == flown.levels[-1][1] == 0
    assert figures(flown.between(0, 3), 3, recording).f1_loss == 0


def test_a_client_on_the_machine_takes_of_its_cores_and_reads_answers_late() -> None:
    due = np.array([1.0])
    (call,) = simulate(Fleet(Served("full_depth"), has_client=True), costs_of(client=0.002), recording_of(), due).calls
    assert call.done - call.due == pytest.approx(0.002 + LAYERS * LAYER_S)


def test_requests_are_for_the_texts_that_are_given() -> None:
    recording = recording_of((10,), (20,), (30, 30))
    calls = simulate(ALONE, costs_of(), recording, np.array([1.0, 2.0, 3.0]), texts=[2, 0, 1]).calls
    assert [call.text for call in calls] == [2, 0, 1]
    assert [len(call.request.sequences) for call in calls if call.request] == [2, 1, 1]


def test_the_interpreter_is_passed_on_when_python_is_done_or_an_interval_is_over() -> None:
    machine, ended = Machine(2.0), list[tuple[str, float]]()
    threads = {name: Thread(0) for name in ("long", "short")}
    machine.start(threads["long"], "python", 0.005, lambda now: ended.append(("long", now)))
    machine.start(threads["short"], "python", 0.0015, lambda now: ended.append(("short", now)))
    machine.share()
    while machine.due < math.inf:
        machine.run_to(machine.due)
        machine.share()
    (first, at), (second, end) = ended
    assert (first, second) == ("short", "long")
    assert at == pytest.approx(2 * SWITCH_INTERVAL_S + 0.0015) and end == pytest.approx(0.0065)


def test_the_dinner_hour_is_the_peak_of_the_day_and_arrivals_follow_it() -> None:
    hours = np.linspace(0, 24, 24 * 60, endpoint=False)
    shares = share_of_peak(hours)
    assert hours[shares.argmax()] == pytest.approx(19.0, abs=0.1) and shares.max() <= 1 and shares.min() > 0.05
    due = arrivals(500.0, 24.0, 1, of_day(1.0))
    by_hour = np.histogram(due, bins=24, range=(0, 24))[0]
    assert by_hour == pytest.approx(500 * share_of_peak(np.arange(24) + 0.5), rel=0.25, abs=30)
    assert len(arrivals(500.0, 24.0, 1, constant)) == pytest.approx(12_000, rel=0.05)


def test_figures_are_plain_numbers() -> None:
    found = figures([], 1.0, recording_of())
    assert asdict(found)["offered"] == 0 and not found.keeps_goal
