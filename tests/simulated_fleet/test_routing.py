"""Which process gets a request."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.simulated_fleet.process import Served
from benchmarks.simulated_fleet.routing import ROUTERS, Connections
from benchmarks.simulated_fleet.simulation import Fleet, simulate
from benchmarks.simulated_fleet.traffic import arrivals
from tests.simulated_fleet.fleets_ import LAYER_S, LAYERS, costs_of, recording_of


def process(requests: int, chars: int) -> Any:
    return SimpleNamespace(open=set(range(requests)), chars=chars)


def test_round_robin_asks_one_after_the_other() -> None:
    processes = [process(9, 0), process(0, 0), process(5, 0)]
    router = ROUTERS["round-robin"](random.Random(0))
    assert [processes.index(router.choose(processes)) for _ in range(5)] == [0, 1, 2, 0, 1]


def test_least_loaded_asks_whoever_has_the_fewest_requests_and_equals_in_turn() -> None:
    router = ROUTERS["least-loaded"](random.Random(0))
    processes = [process(2, 0), process(1, 900), process(1, 0)]
    assert [processes.index(router.choose(processes)) for _ in range(3)] == [1, 2, 1]


def test_length_aware_asks_whoever_has_the_least_work() -> None:
    router = ROUTERS["length-aware"](random.Random(0))
    processes = [process(2, 40), process(1, 9_000), process(3, 0)]
    assert processes.index(router.choose(processes)) == 0


def test_random_asks_all_alike() -> None:
    processes = [process(index, 0) for index in range(4)]
    router = ROUTERS["random"](random.Random(0))
    counts = Counter(processes.index(router.choose(processes)) for _ in range(4_000))
    assert all(abs(count - 1_000) < 120 for count in counts.values())


def test_a_client_takes_the_connection_that_became_free_last() -> None:
    processes: list[Any] = [process(0, 0), process(0, 0)]
    router = Connections(random.Random(0))
    first, second = router.choose(processes), router.choose(processes)
    router.settled(SimpleNamespace(process=second))  # type: ignore[arg-type]
    router.settled(SimpleNamespace(process=first))  # type: ignore[arg-type]
    assert [router.choose(processes), router.choose(processes)] == [first, second]


def test_who_knows_more_makes_requests_wait_less() -> None:
    recording = recording_of(*[(10,)] * 7, (10,) * 12)
    capacity = 4 / (LAYERS * LAYER_S * (7 + 12) / 8)
    due = arrivals(0.6 * capacity, 3.0, seed=2)

    def mean_s(routing: str) -> float:
        fleet = Fleet(Served("full_depth"), replicas=4, routing=routing)
        calls = simulate(fleet, costs_of(), recording, due).calls
        return sum(call.done - call.due for call in calls) / len(calls)

    random_, in_turn, least, by_length = (mean_s(routing) for routing in ROUTERS)
    assert by_length < least < in_turn < random_


def test_replicas_that_are_lost_get_no_requests_any_more() -> None:
    due = np.arange(100) * 0.01
    fleet = Fleet(Served("full_depth"), replicas=2, routing="round-robin")
    calls = simulate(fleet, costs_of(), recording_of(), due, losses={0.505: 1}).calls
    asked = [call.process.number for call in calls if call.process]
    assert set(asked[:51]) == {0, 1} and set(asked[51:]) == {1}
