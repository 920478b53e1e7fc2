"""Whether a newcomer would be answered in time: how fast work is done, and who is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import pytest

from service.engine.forecast import (
    BURST_S,
    BUSY_REQUESTS,
    CHAR_WORK,
    EXPIRES_S,
    FEWEST_REQUESTS,
    FIRST_WINDOW_S,
    LATEST_TURN,
    PATIENCE,
    PIECES_PER_CHAR,
    REQUEST_WORK,
    STANDING_S,
    WINDOW_S,
    Forecast,
    OpenWork,
)
from service.engine.sequence import Request, Sequence
from service.errors import Overloaded

PIECES = 950
CHARS = round(PIECES / PIECES_PER_CHAR)
WORK = REQUEST_WORK + PIECES + CHAR_WORK * CHARS  # of each request here
PACE = 10.0  # requests a second
TIMEOUT_S = 10.0
LAYERS = 6


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Queue:
    """Requests of one size that come in, and are answered first come, first served."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.forecast = Forecast(LAYERS, self.clock)
        self.open: list[OpenWork] = []
        self.refused = 0

    def come(self, timeout_s: float = TIMEOUT_S) -> None:
        try:
            work = self.forecast.enter(CHARS, self.clock.now + timeout_s)
        except Overloaded:
            self.refused += 1
            return
        work.is_known(self.request(PIECES, timeout_s), CHARS)
        self.open.append(work.__enter__())

    def request(self, pieces: int, timeout_s: float = TIMEOUT_S, parts: int = 1) -> Request:
        """Of a newcomer, whose text makes so many sequences."""
        deadline = self.clock.now + timeout_s
        request = Request((), deadline, self.clock.now, turn=self.turn(pieces, timeout_s), cost=pieces)
        sequences = [SimpleNamespace(layer=0, exit_reason=None) for _ in range(parts)]
        request.sequences, request.unfinished = cast("list[Sequence]", sequences), parts
        return request

    def turn(self, pieces: int, timeout_s: float = TIMEOUT_S) -> float:
        """Of a newcomer."""
        return self.forecast.turn(pieces, self.clock.now, self.clock.now + timeout_s)

    def answer(self, *, is_done: bool = True) -> None:
        work = self.open.pop(0)
        if is_done:
            work.was_done()
        work.__exit__(None, None, None)

    def run(self, seconds: float, per_answer: int, pace: float = PACE) -> None:
        """Answer `pace` requests a second, while `per_answer` come for each that is answered."""
        for _ in range(round(seconds * pace)):
            for _ in range(per_answer):
                self.come()
            self.clock.now += 1 / pace
            if self.open:
                self.answer()


@pytest.fixture
def queue() -> Queue:
    """A queue whose pace is known, and that is empty."""
    queue = Queue()
    for _ in range(BUSY_REQUESTS):
        queue.come()
    queue.run(20.0, 1)
    while queue.open:
        queue.answer()
    queue.clock.now += 1.0
    assert queue.refused == 0
    return queue


def test_nobody_is_refused_as_long_as_the_pace_is_unknown() -> None:
    queue = Queue()
    for _ in range(10_000):
        queue.come(0.001)
    assert queue.refused == 0 and queue.forecast.wait_s == 0.0


def test_a_newcomer_waits_for_all_that_is_open(queue: Queue) -> None:
    for _ in range(30):
        queue.come()
    assert queue.forecast.wait_s == pytest.approx(3.0, rel=0.05)
    assert queue.forecast.least_s(WORK) == pytest.approx(0.1, rel=0.05)


def test_a_burst_is_taken_as_far_as_it_can_be_answered_in_time_and_no_further(queue: Queue) -> None:
    for _ in range(300):
        queue.come()
    assert len(queue.open) == pytest.approx(TIMEOUT_S * PACE, rel=0.05)
    admitted = len(queue.open)
    queue.come(TIMEOUT_S + 1.0)
    assert len(queue.open) == admitted + 1  # who gives it more time is taken
    queue.come(2.0)
    assert len(queue.open) == admitted + 1


def test_a_queue_that_stands_is_kept_short(queue: Queue) -> None:
    queue.run(30.0, 5)
    assert queue.forecast.wait_s <= STANDING_S + 2 / PACE
    refused = queue.refused
    queue.run(10.0, 5)
    assert queue.refused - refused == 4 * 10.0 * PACE  # as many are served as can be


def test_who_is_served_while_it_stands_is_served_soon_and_the_load_leaves_nothing_behind(queue: Queue) -> None:
    queue.run(30.0, 5)
    queue.run(STANDING_S + 2 / PACE, 0)
    assert not queue.open
    queue.clock.now += BURST_S
    queue.come()
    for _ in range(50):
        queue.come()
    assert len(queue.open) == 51  # a burst is welcome again


def test_a_turn_comes_the_later_the_more_a_request_asks_for_but_not_beyond_a_part_of_its_time_limit(
    queue: Queue,
) -> None:
    now = queue.clock.now
    short, long, longest = (queue.turn(pieces) for pieces in (0, PIECES, 1_000 * PIECES))
    assert now < short < long == pytest.approx(now + PATIENCE / PACE, rel=0.01)
    assert longest == now + LATEST_TURN * TIMEOUT_S


def test_before_the_pace_is_known_short_ones_pass_long_ones_all_the_same() -> None:
    queue = Queue()
    assert queue.clock.now < queue.turn(100) < queue.clock.now + 1.0 < queue.turn(10_000)


def test_a_newcomer_waits_for_those_alone_whose_turn_is_not_later_than_its_own(queue: Queue) -> None:
    for _ in range(300):
        queue.come()
    with pytest.raises(Overloaded):
        queue.forecast.enter(CHARS, queue.clock.now + 2.0)
    queue.open.append(queue.forecast.enter(1, queue.clock.now + 2.0).__enter__())  # the others have more to do
    queue.clock.now += PATIENCE / PACE + 0.01  # now it is their turn
    with pytest.raises(Overloaded):
        queue.forecast.enter(1, queue.clock.now + 2.0)


def test_while_the_queue_stands_short_and_long_ones_are_served(queue: Queue) -> None:
    much = 10 * CHARS
    long_ones = refused = 0
    for _ in range(round(60 * PACE)):
        for _ in range(3):
            queue.come()
        try:
            queue.open.append(queue.forecast.enter(much, queue.clock.now + TIMEOUT_S).__enter__())
            long_ones += 1
        except Overloaded:
            refused += 1
        queue.open.sort(key=lambda work: work.turn)
        queue.clock.now += (10 if queue.open[0].left > 2 * WORK else 1) / PACE
        queue.answer()
    assert long_ones >= 5 and refused > 100


def test_a_load_that_it_can_bear_is_never_refused(queue: Queue) -> None:
    for _ in range(BUSY_REQUESTS):
        queue.come()
    queue.run(60.0, 1)
    assert queue.refused == 0


def test_a_pace_that_changes_is_soon_known(queue: Queue) -> None:
    queue.run(10.0, 5)
    queue.run(5.0, 5, pace=10 * PACE)
    assert queue.forecast.least_s(WORK) == pytest.approx(0.1 / 10, rel=0.1)
    queue.run(10.0, 5, pace=PACE)
    assert queue.forecast.least_s(WORK) == pytest.approx(0.1, rel=0.1)


def test_work_that_was_not_done_is_no_pace(queue: Queue) -> None:
    least_s = queue.forecast.least_s(WORK)
    for _ in range(50):
        queue.come()
    for _ in range(50):
        queue.clock.now += 0.001
        queue.answer(is_done=False)
    assert queue.forecast.least_s(WORK) == least_s
    assert queue.forecast.wait_s == 0.0


def test_with_few_open_nobody_is_refused_so_that_a_wrong_pace_mends_itself(queue: Queue) -> None:
    for _ in range(BUSY_REQUESTS):
        queue.come()
    queue.clock.now += 1_000.0  # it hung
    while queue.open:
        queue.answer()
    for _ in range(FEWEST_REQUESTS):
        queue.come(0.001)
    assert queue.refused == 0
    queue.run(5.0, 2)
    assert queue.forecast.least_s(WORK) == pytest.approx(0.1, rel=0.1)


def test_a_pace_of_long_ago_refuses_nobody(queue: Queue) -> None:
    queue.forecast._pace = 1e-6  # whatever it came from
    assert queue.forecast.least_s(WORK) > 1e6
    queue.clock.now += EXPIRES_S + 1.0
    assert queue.forecast.least_s(WORK) == 0.0
    queue.run(5.0, 2)
    assert queue.forecast.least_s(WORK) == pytest.approx(0.1, rel=0.1)


def test_blanks_are_work_and_do_not_teach_that_texts_have_no_pieces() -> None:
    queue = Queue()
    blanks = queue.forecast.enter(1_000_000, queue.clock.now + TIMEOUT_S).__enter__()
    assert blanks.left >= REQUEST_WORK + 1_000_000 * CHAR_WORK
    blanks.is_known(queue.request(0), 1_000_000)
    assert blanks.left == REQUEST_WORK + 1_000_000 * CHAR_WORK
    assert queue.forecast.enter(1_000, queue.clock.now + TIMEOUT_S).left >= 100


# those that wait


def test_one_that_waits_is_refused_as_soon_as_others_have_taken_the_time_that_it_needs(queue: Queue) -> None:
    told: list[Overloaded] = []
    for _ in range(FEWEST_REQUESTS):
        queue.come()
    work = queue.forecast.enter(40 * CHARS, queue.clock.now + 7.0).__enter__()  # needs four seconds of its seven
    work.when_refused(told.append)
    queue.run(2.0, 1)  # all with turns before its own
    assert not told
    queue.run(0.3 + 2 * WINDOW_S, 1)
    assert [error.retry_after_s for error in told] == [1.0]


def test_however_wrong_the_pace_is_the_first_are_never_refused_so_that_it_mends_itself(queue: Queue) -> None:
    told: list[Overloaded] = []
    for _ in range(FEWEST_REQUESTS + 3):
        queue.come()
        queue.open[-1].when_refused(told.append)
    queue.forecast._pace = 1e-6
    queue.clock.now += WINDOW_S
    with pytest.raises(Overloaded):
        queue.forecast.check(queue.clock.now + TIMEOUT_S)
    assert len(told) == 4
    queue.run(5.0, 0)
    for _ in range(3):
        queue.come()
    assert queue.refused == 0


def test_work_that_ended_without_being_done_is_not_counted_as_done_nor_refused() -> None:
    queue, told = Queue(), list[Overloaded]()
    for _ in range(FEWEST_REQUESTS):
        queue.come(2.0)
        queue.open[-1].when_refused(told.append)
    for work in queue.open:
        queue.clock.now += 2 * FIRST_WINDOW_S
        request = work._request
        assert request is not None
        request.let_go()
        work.__exit__(None, None, None)
    assert queue.forecast._pace is None and not told


def test_one_that_has_begun_is_not_refused(queue: Queue) -> None:
    told: list[Overloaded] = []
    request = queue.request(10 * PIECES)
    work = queue.forecast.enter(10 * CHARS, queue.clock.now + 0.5).__enter__()
    for _ in range(FEWEST_REQUESTS):
        queue.come(0.1)
    work.when_refused(told.append)
    work.is_known(request, 10 * CHARS)
    request.has_started = True
    queue.run(2 * WINDOW_S, 1)
    assert not told
    request.has_started = False
    queue.run(2 * WINDOW_S, 1)
    assert len(told) == 1


def test_parts_of_a_request_that_are_done_count_as_done(queue: Queue) -> None:
    for _ in range(BUSY_REQUESTS):
        queue.come()
    request = queue.request(100 * PIECES, parts=100)
    work = queue.forecast.enter(100 * CHARS, math.inf).__enter__()
    work.is_known(request, 100 * CHARS)
    request.has_started = True
    for sequence in request.sequences[:-1]:
        queue.clock.now += 1 / PACE
        sequence.exit_reason = "final"
        queue.forecast.check(math.inf)
    assert work.left == pytest.approx(PIECES, rel=0.02)
    queue.answer()
    assert queue.forecast.least_s(PIECES) == pytest.approx(1 / PACE, rel=0.1)


def test_who_is_refused_is_told_when_there_is_room(queue: Queue) -> None:
    for _ in range(300):
        queue.come()
    with pytest.raises(Overloaded, match=r"takes about \d+\.\d s") as refused:
        queue.forecast.enter(CHARS, queue.clock.now + TIMEOUT_S)
    assert refused.value.retry_after_s == pytest.approx(TIMEOUT_S, abs=1.5)
    assert refused.value.retry_after_s == int(refused.value.retry_after_s)


def test_pieces_by_character_are_learnt(queue: Queue) -> None:
    for _ in range(50):
        work = queue.forecast.enter(10_000, queue.clock.now + TIMEOUT_S).__enter__()
        work.is_known(queue.request(10_000), 10_000)
        work.was_done()
        work.__exit__(None, None, None)
    with queue.forecast.enter(1_000, queue.clock.now + TIMEOUT_S):
        assert queue.forecast.wait_s == pytest.approx((1_000 + REQUEST_WORK) / WORK / PACE, rel=0.1)
