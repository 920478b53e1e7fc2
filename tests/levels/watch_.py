"""A keeper of promises whose clock and certificates are what a test says. No test lives here."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.exits.policy import ExitPolicy
from service.levels.keeper import PromiseKeeper
from service.levels.on_traffic import Standing, TrafficLevels
from service.policy.live import LivePolicy
from service.policy.promised import Certified, PromiseGoal
from tests.engine.scripted_ import Clock
from tests.levels.promised_ import LEVELS, NOON


class ScriptedLevels(TrafficLevels):
    """Certifies what a test says, for whatever goal is tested."""

    def __init__(self) -> None:
        super().__init__(LEVELS, LEVELS, 4, now=lambda: NOON)
        self.certified: tuple[ExitPolicy, ...] = ()
        self.alarms = 0
        self.goals: list[PromiseGoal | None] = []

    def test(self, goal: PromiseGoal | None) -> Standing | None:
        self.goals.append(goal)
        return None if goal is None else Standing(Certified(goal, self.certified), "noon", 123, self.alarms)


@dataclass
class Watch:
    """A keeper, the live policy that it moves, and what is certified."""

    live: LivePolicy
    levels: ScriptedLevels = field(default_factory=ScriptedLevels)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.keeper = PromiseKeeper(self.live, self.levels, self.clock)

    def look(self, *certified: ExitPolicy, after_s: float = 0.1) -> ExitPolicy:
        """Let time pass, and look with these levels certified; -> the policy in force."""
        self.clock.now += after_s
        self.levels.certified = certified
        self.keeper.look()
        return self.live.current.policy
