"""A simulated server under the control law: Poisson arrivals, one worker that serves what waits, time that is made up.

No test lives here. Load is in units of what full depth can serve: at 2, twice as much arrives.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from service.autopilot.law import ControlLaw, State
from service.autopilot.pilot import PERIOD_S
from service.autopilot.traffic import Traffic
from service.engine.admission import EngineLoad

SPEEDS = (1.0, 1.3, 1.7, 2.2, 2.8)  # by level, as calibrated
FASTEST = len(SPEEDS) - 1
OBJECTIVE_S = 0.1
PIECES = 30  # of a request
STEP_REQUESTS = 4  # at the most
STEP_S, REQUEST_S = 0.0005, 0.004  # what a step takes, and beside it every request in it at full depth
FULL_DEPTH_RATE = 1 / (REQUEST_S + STEP_S / STEP_REQUESTS)  # requests a second that full depth can serve
IDLE_S = 0.05  # how often it is asked for the load while that is 0

Of = Callable[[float], float]  # something that changes over time


@dataclass
class Flight:
    """What happened in a simulation.

    answers  when a request came in, and how long it took
    moves    when, and to which level
    """

    answers: list[tuple[float, float]] = field(default_factory=list)
    moves: list[tuple[float, int]] = field(default_factory=list)

    def p95_s(self, start: float, end: float) -> float:
        """Of requests that came in between; 0 where none did."""
        took = sorted(seconds for received, seconds in self.answers if start <= received < end)
        return took[math.ceil(0.95 * len(took)) - 1] if took else 0.0

    def keeps_objective(self, start: float, end: float) -> bool:
        """Whether p95 does in every second between."""
        return all(self.p95_s(second, second + 1) <= OBJECTIVE_S for second in range(int(start), int(end)))

    def level_at(self, moment: float) -> int:
        """Where it was."""
        return next((level for when, level in reversed(self.moves) if when <= moment), 0)

    def moves_between(self, start: float, end: float) -> int:
        """How many there were."""
        return sum(start <= when < end for when, _ in self.moves)


class Simulation:
    """Events in their order, each at its moment; levels are what the law says, or 0 for ever without autopilot."""

    def __init__(
        self,
        load: Of,
        *,
        seed: int = 0,
        speeds: tuple[float, ...] = SPEEDS,
        slowness: Of = lambda moment: 1.0,
        highest_level: Callable[[float], int] = lambda moment: FASTEST,
        has_autopilot: bool = True,
    ) -> None:
        """speeds: the true ones, if calibration was wrong; slowness: by what everything takes longer than it should."""
        self._load, self._speeds, self._slowness, self._highest_level = load, speeds, slowness, highest_level
        self._has_autopilot = has_autopilot
        self._draw = random.Random(seed)
        self._now = 0.0
        self._traffic = Traffic(lambda: self._now)
        self._law, self._state = ControlLaw(SPEEDS, OBJECTIVE_S), State(level=0)
        self._moved = -math.inf
        self._waiting: deque[float] = deque()
        self._in_step: list[float] = []
        self._step_started = self._step_ends = 0.0
        self._admitted = 0
        self.flight = Flight()

    def run(self, seconds: float) -> Flight:
        """From the start to then."""
        arrives, looks = self._next_arrival(), PERIOD_S
        while self._now < seconds:
            self._now = min(arrives, looks, self._step_ends if self._in_step else math.inf)
            if self._in_step and self._now == self._step_ends:
                self._end_step()
            if self._now == arrives:
                self._arrive()
                arrives = self._next_arrival()
            if self._now == looks:
                self._look()
                looks += PERIOD_S
            if self._waiting and not self._in_step:
                self._start_step()
        return self.flight

    def _next_arrival(self) -> float:
        rate = FULL_DEPTH_RATE * self._load(self._now)
        return self._now + (self._draw.expovariate(rate) if rate else IDLE_S)

    def _arrive(self) -> None:
        if self._load(self._now):
            self._waiting.append(self._now)
            self._admitted += 1

    def _start_step(self) -> None:
        self._in_step = [self._waiting.popleft() for _ in range(min(STEP_REQUESTS, len(self._waiting)))]
        took = STEP_S + len(self._in_step) * REQUEST_S / self._speeds[self._state.level]
        self._step_started, self._step_ends = self._now, self._now + took * self._slowness(self._now)

    def _end_step(self) -> None:
        self._traffic.step_done(self._now - self._step_started)
        for received in self._in_step:
            self._traffic.sequence_left(PIECES)
            self._traffic.answered(received, self._now)
            self.flight.answers.append((received, self._now - received))
        self._in_step = []

    def _look(self) -> None:
        waiting_s = self._now - self._waiting[0] if self._waiting else 0.0
        num_open = len(self._waiting) + len(self._in_step)
        engine = EngineLoad(PIECES * self._admitted, PIECES * num_open, waiting_s)
        seen = self._traffic.look(engine, self._moved, self._highest_level(self._now))
        before = self._state.level
        if self._has_autopilot:
            self._state = self._law.next(self._state, seen)
        if self._state.level != before:
            self._moved = self._now
            self.flight.moves.append((self._now, self._state.level))


def fly(load: Of, seconds: float, **options: object) -> Flight:
    """What happens under a load that changes over time; options as of Simulation."""
    return Simulation(load, **options).run(seconds)  # type: ignore[arg-type]
