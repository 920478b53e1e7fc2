"""The threads of a step: helpers that sleep, come late or never, and go; whatever they do, results are the same.

Whoever waits here waits for something that comes at once, and fails where it does not.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from service.executors.fused import FusedExecutor
from service.kernels.layout import LAYER, STEP
from service.kernels.sharing import RING, WANTED
from service.kernels.spare_cores import SpareCores
from service.kernels.team import Team
from service.models.multi_exit import MultiExitModel
from service.text.types import SequenceInput
from tests.executors.executors_ import DEADLINE_S, Said, fused, said, shared_model, within_deadline
from tests.models_ import random_sequences

ONE, MANY = random_sequences((1,)), random_sequences((20, 9, 33, 2) * 8)


def model() -> MultiExitModel:
    return shared_model("as shipped")


def step(executor: FusedExecutor, inputs: list[SequenceInput]) -> list[Said]:
    return said(*executor.run_layer(1, inputs, [None] * len(inputs)))


def expected(inputs: list[SequenceInput]) -> list[Said]:
    """What one thread says."""
    with fused(model()) as executor:
        return step(executor, inputs)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, "this should have come at once"
        os.sched_yield()


def test_helpers_that_fell_asleep_wake_for_a_step_and_fall_asleep_again() -> None:
    measure = expected(MANY)
    with fused(model(), threads=3) as executor:
        team = executor._team
        for _ in range(5):
            wait_until(lambda: team._asleep == [True, True])
            assert step(executor, MANY) == measure


def test_a_helper_that_slept_runs_while_steps_do() -> None:
    with fused(model(), threads=2) as executor:
        clock = time.pthread_getcpuclockid(executor._team._helpers[0].ident)
        wait_until(lambda: executor._team._asleep == [True])
        before = time.clock_gettime(clock)
        wait_until(lambda: bool(step(executor, MANY)) and time.clock_gettime(clock) > before + 0.005)


def test_steps_of_every_size_while_helpers_come_and_go_say_the_same() -> None:
    measure = {1: expected(ONE), len(MANY): expected(MANY)}
    with fused(model(), threads=2) as executor:

        def work() -> None:
            for number in range(200):
                if number % 20 == 0:
                    wait_until(lambda: executor._team._asleep == [True])
                inputs = MANY if number % 7 == 3 else ONE
                assert step(executor, inputs) == measure[len(inputs)], number

        within_deadline(work)


@pytest.mark.parametrize("threads", [2, 9])
def test_thousands_of_steps_with_a_large_one_in_every_round_of_descriptions_never_hang(threads: int) -> None:
    executor = FusedExecutor(model(), threads)
    measure, found = expected(MANY), []
    step(executor, MANY)

    def work() -> None:
        for number in range(300 if threads > 2 else 4000):
            if number % (RING + 1) == 0:
                found.append(step(executor, MANY))
            else:
                executor.run_layer(1, ONE, [None])

    within_deadline(work)
    within_deadline(executor.close)
    assert found and all(one == measure for one in found)


def with_helper_put_aside(executor: FusedExecutor) -> tuple[Team, int]:
    """After a step, a team whose one helper is at that step, says its place in `control`, and does nothing more.

    -> the team and the number of the step
    """
    step(executor, MANY)
    team = executor._team
    at = int(team._control[0, 0])
    team.close()  # a thread that has ended stands for one that the system does not run
    team._control[:, 0] = at
    return team, at


def test_a_helper_that_was_put_aside_keeps_the_description_of_the_step_it_is_at() -> None:
    executor, found = FusedExecutor(model(), 2), []
    team, at = with_helper_put_aside(executor)
    description, counters = team._steps[at % RING].tobytes(), team._counters[at % RING].tobytes()
    within_deadline(lambda: found.extend(step(executor, MANY[::-1]) for _ in range(2 * RING)))
    assert found == [expected(MANY)[::-1]] * (2 * RING)
    assert team._steps[at % RING].tobytes() == description
    assert team._counters[at % RING].tobytes() == counters


def test_every_other_description_is_used_in_turn() -> None:
    executor, numbers = FusedExecutor(model(), 2), []
    team, at = with_helper_put_aside(executor)
    for _ in range(3 * RING):
        within_deadline(lambda: step(executor, ONE))
        numbers.append(int(team._control[0, 0]))
    assert numbers == sorted(set(numbers)) and numbers[0] > at
    assert {number % RING for number in numbers} == set(range(RING)) - {at % RING}


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_closing_ends_every_thread_at_once_after_it_began_and_after_a_step(threads: int) -> None:
    before = set(threading.enumerate())
    for inputs in ([], ONE, MANY):
        executor = FusedExecutor(model(), threads)
        assert len(set(threading.enumerate()) - before) == threads - 1
        if inputs:
            step(executor, inputs)
        within_deadline(executor.close)
        assert set(threading.enumerate()) == before


def test_closing_ends_threads_that_sleep() -> None:
    before = set(threading.enumerate())
    executor = FusedExecutor(model(), 3)
    step(executor, ONE)
    wait_until(lambda: executor._team._asleep == [True, True])
    within_deadline(executor.close)
    assert set(threading.enumerate()) == before


def test_steps_may_be_led_by_one_thread_after_another() -> None:
    measure, found = expected(MANY), []
    with fused(model(), threads=2) as executor:
        for _ in range(3):
            within_deadline(lambda: found.append(step(executor, MANY)))
    assert found == [measure] * 3


def test_a_helper_that_is_not_wanted_sleeps_through_steps_and_wakes_when_it_is() -> None:
    measure = expected(MANY)
    with fused(model(), threads=3) as executor:
        team = executor._team
        for wanted in (1, 3, 2, 1, 2, 3):
            team._spare._wanted = wanted
            team._spare._looked_at = time.monotonic() + DEADLINE_S
            assert step(executor, MANY) == measure
            assert team._control[0, WANTED] == wanted
            wait_until(lambda: team._asleep == [True, True])
    # closed while some of them are not wanted


@pytest.mark.parametrize(
    ("threads", "cores", "notes"),
    [
        (2, 2, [(0.0, 2), (0.5, 2), (0.7, 1), (0.5, 1), (3.0, 1), (0.3, 2)]),
        (2, 3, [(1.0, 2), (1.7, 1), (1.3, 2)]),
        (4, 4, [(0.9, 3), (2.7, 1), (1.7, 2), (0.0, 4), (9.0, 1)]),
        (1, 2, [(2.0, 1)]),
        (3, 2, [(0.7, 2)]),  # more threads than cores: somebody asked for it
    ],
)
def test_a_thread_is_given_up_for_every_core_that_the_rest_of_the_process_keeps_busy(
    threads: int, cores: int, notes: list[tuple[float, int]]
) -> None:
    spare = SpareCores(threads, cores)
    assert [(busy, spare.take_note(busy)) for busy, _ in notes] == notes


@pytest.mark.parametrize("is_own", [True, False])
def test_what_the_team_takes_itself_is_not_of_the_rest(is_own: bool) -> None:
    spare, clocks = SpareCores(2, 2), [time.pthread_getcpuclockid(threading.get_ident())] if is_own else []
    spare.wanted(clocks)
    noted: list[float] = []
    spare.take_note = lambda busy: noted.append(busy) or 2  # type: ignore[method-assign,func-returns-value]
    taken, ends = time.thread_time(), time.monotonic() + DEADLINE_S
    while time.thread_time() < taken + 0.1 and time.monotonic() < ends:
        pass
    spare.wanted(clocks)
    (busy,) = noted
    assert busy < 0.01 if is_own else busy > 0.01


def test_a_team_takes_only_records_of_layers() -> None:
    with pytest.raises(TypeError, match="records of LAYER"):
        Team(np.zeros(3, dtype=np.int64), 1, 1)
    team = Team(np.zeros(3, dtype=LAYER), 2, 2)
    assert team.threads == 2
    team.close()


def test_a_description_is_all_64_bit_words() -> None:
    assert all(STEP.fields[name][0].itemsize == 8 for name in STEP.names)
    assert STEP.itemsize == 8 * len(STEP.names)
