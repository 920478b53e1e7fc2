"""A simulated server under the control law: Poisson arrivals, one worker that serves what waits, time that is made up.

No test lives here. Full depth's capacity is one unit of load: a load of 2 is twice what full depth can serve.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.autopilot.law import ControlLaw, State
from service.autopilot.pilot import PERIOD_S
from service.autopilot.traffic import Traffic
from service.engine.engine import EngineLoad

SPEEDS = (1.0, 1.3, 1.7, 2.2, 2.8)  # as calibrated
OBJECTIVE_S = 0.1
PIECES = 30  # of every request
MOST_IN_A_STEP = 8  # requests
FULL_DEPTH_S = 0.002  # the worker's time for one request at full depth, in a step that is full
STEP_S = 0.0005  # what every step takes beside it
Load = Callable[[float], float]


@dataclass(frozen=True)
class Answer:
    """A request: when it came in, how long it took, the level it was served at."""

    received: float
    seconds: float
    level: int


@dataclass
class Flight:
    """What happened in a simulation.

    moves  when, and to which level
    """

    answers: list[Answer] = field(default_factory=list)
    moves: list[tuple[float, int]] = field(default_factory=list)

    def p95_s(self, start: float, end: float) -> float:
        """Of requests that came in between."""
        took = sorted(answer.seconds for answer in self.answers if start <= answer.received < end)
        return took[math.ceil(0.95 * len(took)) - 1] if took else 0.0

    def level_at(self, moment: float) -> int:
        """Where it was."""
        return next((level for when, level in reversed(self.moves) if when <= moment), 0)

    def moves_between(self, start: float, end: float) -> int:
        """How many there were."""
        return sum(start <= when < end for when, _ in self.moves)

    def on_objective_from(self, start: float, end: float) -> float:
        """Seconds behind `start` from which on p95 of every second keeps the objective; infinity if never."""
        late = [
            second for second in range(int(end - start)) if self.p95_s(start + second, start + second + 1) > OBJECTIVE_S
        ]
        return late[-1] + 1 if late else 0.0


def fly(
    load: Load,
    seconds: float,
    *,
    seed: int = 0,
    speeds: Sequence[float] = SPEEDS,
    truth: Callable[[float, int], float] | None = None,
    slowness: Callable[[float], float] = lambda moment: 1.0,
    highest_level: Callable[[float], int] = lambda moment: len(SPEEDS) - 1,
    is_on: bool = True,
) -> Flight:
    """Simulate: `load` over time; `truth` is a level's true speed, if calibration was wrong; slowness: of the device."""
    draw = random.Random(seed)
    flight, state, law = Flight(), State(level=0), ControlLaw(tuple(speeds), OBJECTIVE_S)
    waiting: deque[float] = deque()
    clock = admitted = open_requests = 0.0
    free_at, arrives, looks = 0.0, 0.0, PERIOD_S
    being_served: list[float] = []

    def engine_load() -> EngineLoad:
        waiting_s = clock - waiting[0] if waiting else 0.0
        return EngineLoad(int(admitted) * PIECES, int(open_requests) * PIECES, waiting_s)

    traffic = Traffic(engine_load, lambda: clock)
    served_for, served_at, moved = 0.0, 0, -math.inf
    full_rate = 1 / (FULL_DEPTH_S + STEP_S / MOST_IN_A_STEP)
    true_speed = truth or (lambda moment, level: speeds[level])
    while clock < seconds:
        clock = min(arrives, looks, free_at if being_served else math.inf)
        if being_served and clock == free_at:
            traffic.step_done(served_for)
            for received in being_served:
                traffic.sequence_left(PIECES)
                traffic.answered(received, clock)
                flight.answers.append(Answer(received, clock - received, served_at))
            open_requests -= len(being_served)
            being_served = []
        if clock == arrives:
            rate = full_rate * load(clock)
            if rate > 0 and clock > 0:
                waiting.append(clock)
                admitted, open_requests = admitted + 1, open_requests + 1
            arrives = clock + (draw.expovariate(rate) if rate > 0 else 0.05)
        if clock == looks:
            looks += PERIOD_S
            before, state = state, law.next(state, traffic.look(moved, highest_level(clock)))
            if not is_on:
                state = before
            elif state.level != before.level:
                moved = clock
                flight.moves.append((clock, state.level))
        if waiting and not being_served:
            being_served = [waiting.popleft() for _ in range(min(MOST_IN_A_STEP, len(waiting)))]
            each = FULL_DEPTH_S / true_speed(clock, state.level) * slowness(clock)
            served_for, served_at = STEP_S + len(being_served) * each, state.level
            free_at = clock + served_for
    return flight
