"""An autopilot whose clock and traffic are what a test says. No test lives here."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.autopilot.pilot import Autopilot
from service.autopilot.traffic import Traffic
from service.engine.admission import EngineLoad
from service.policy.live import LivePolicy
from tests.engine.scripted_ import Clock

WISH = {"p95_ms": 100, "max_f1_loss": 4.0}  # levels: ACCURATE, BALANCED, FAST


@dataclass
class Cockpit:
    """An autopilot, the live policy it moves, and an engine whose queue is what the test says."""

    live: LivePolicy
    clock: Clock = field(default_factory=Clock)
    waiting_s: float = 0.0

    def __post_init__(self) -> None:
        self.pilot = Autopilot(self.live, Traffic(self.clock), self.load, self.clock)
        self.look(0.1)  # the first look is the beginning

    def load(self) -> EngineLoad:
        """What the engine would say."""
        return EngineLoad(0, 0, self.waiting_s)

    def look(self, seconds: float = 0.1, *, waiting_s: float = 0.0) -> int | None:
        """Let time pass in tenths of a second, with such a queue; -> the level that it ends at."""
        self.waiting_s = waiting_s
        for _ in range(round(10 * seconds)):
            self.clock.now += 0.1
            self.pilot.look()
        return self.live.current.level
