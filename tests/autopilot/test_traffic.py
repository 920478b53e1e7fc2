"""What happens between two looks: counted once, and no request is forgotten or counted for too long."""

from __future__ import annotations

import threading

import pytest

from service.autopilot.traffic import FEWEST_REQUESTS, LONGEST_P95_S, MOST_REQUESTS, P95_S, Traffic, p95_s
from service.engine.admission import EngineLoad
from tests.engine.scripted_ import DEADLINE_S, Clock

IDLE = EngineLoad(admitted_pieces=0, open_pieces=0, waiting_s=0.0)


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def traffic(clock: Clock) -> Traffic:
    return Traffic(clock)


def test_a_look_tells_what_happened_since_the_last_one(traffic: Traffic, clock: Clock) -> None:
    traffic.step_done(0.02)
    traffic.step_done(0.03)
    traffic.sequence_left(7)
    clock.now += 0.5
    seen = traffic.look(EngineLoad(70, 40, 0.25), 0.0, 3)
    assert (seen.interval_s, seen.busy_s, seen.done_pieces, seen.admitted_pieces) == (0.5, 0.05, 7, 70)
    assert (seen.open_pieces, seen.waiting_s, seen.p95_s, seen.highest_level) == (40, 0.25, None, 3)
    clock.now += 0.25
    seen = traffic.look(EngineLoad(75, 0, 0.0), 0.0, 3)
    assert (seen.interval_s, seen.busy_s, seen.done_pieces, seen.admitted_pieces) == (0.25, 0.0, 0, 5)


def answered(*took: float, finished: float = 100.0) -> list[tuple[float, float]]:
    """Requests that took so long, answered at one moment."""
    return [(finished - seconds, finished) for seconds in took]


def test_p95_is_the_nearest_rank() -> None:
    assert p95_s(answered(*(float(number) for number in range(100, 0, -1))), 100.0) == 95.0
    assert p95_s(answered(*[0.125] * 19, 9.0), 100.0) == 0.125


def test_p95_is_of_the_last_second_and_looks_back_further_only_for_as_many_as_it_needs() -> None:
    many, old = answered(*[0.25] * FEWEST_REQUESTS), answered(*[4.0] * 500, finished=98.5)
    assert p95_s(old + many, 100.0) == 0.25
    assert p95_s(old + many[2:], 100.0) == 4.0 == p95_s(old, 100.0)
    assert p95_s(old + many, 100.0 + P95_S + 0.5) == 0.25


def test_p95_of_too_few_or_too_long_ago_is_unknown() -> None:
    enough = answered(*[1.0] * FEWEST_REQUESTS)
    assert p95_s(enough[1:], 100.0) is None
    assert p95_s(enough, 100.0 + LONGEST_P95_S) == 1.0
    assert p95_s(enough, 100.1 + LONGEST_P95_S) is None


def test_requests_that_came_in_before_the_last_move_say_nothing_of_it(traffic: Traffic, clock: Clock) -> None:
    for received, finished in ((100.0, 102.0), (101.0, 102.25)):
        for _ in range(FEWEST_REQUESTS):
            traffic.answered(received, finished)
    clock.now = 102.5
    assert traffic.look(IDLE, 100.0, 0).p95_s == 2.0
    assert traffic.look(IDLE, 100.5, 0).p95_s == 1.25
    assert traffic.look(IDLE, 101.5, 0).p95_s is None


def test_many_threads_tell_and_nothing_is_lost(traffic: Traffic) -> None:
    def tell() -> None:
        for _ in range(2_000):
            traffic.step_done(0.5)
            traffic.sequence_left(1)

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    looks = [traffic.look(IDLE, 0.0, 0) for _ in range(50)]
    for thread in threads:
        thread.join(DEADLINE_S)
    looks.append(traffic.look(IDLE, 0.0, 0))
    assert sum(seen.done_pieces for seen in looks) == 8_000
    assert sum(seen.busy_s for seen in looks) == 4_000.0


def test_the_times_of_the_latest_requests_alone_are_remembered() -> None:
    traffic = Traffic(lambda: 0.0)
    for number in range(3 * MOST_REQUESTS):
        traffic.answered(float(number), float(number))
    assert len(traffic._answered) == MOST_REQUESTS and traffic._answered[0][0] == 2 * MOST_REQUESTS
