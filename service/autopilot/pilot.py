"""The autopilot's thread: it looks at the traffic, asks the control law, and changes the live policy."""

from __future__ import annotations

import logging
from collections.abc import Callable

from service.autopilot.law import ControlLaw, State
from service.autopilot.traffic import Traffic
from service.engine.admission import EngineLoad
from service.errors import PolicyConflict
from service.policy.goals import Ladder
from service.policy.live import LivePolicy
from service.policy.thread import PolicyThread
from service.policy.versions import PolicyVersion

log = logging.getLogger(__name__)

PERIOD_S = 0.1  # between two looks
PAUSE_S = 5.0  # after a move that could not be made, for instance because the disk is full


class Autopilot(PolicyThread):
    """Moves the policy while an objective is set; it starts afresh from every version that somebody else made."""

    def __init__(
        self, live: LivePolicy, traffic: Traffic, load: Callable[[], EngineLoad], clock: Callable[[], float]
    ) -> None:
        """load: returns the engine's work at the moment; clock: returns monotonic seconds, as the traffic's does."""
        super().__init__("autopilot")
        self._live = live
        self._traffic = traffic
        self._load = load
        self._clock = clock
        self._version = 0  # to which the fields below belong
        self._state = State(level=0)
        self._moved = clock()  # when the policy changed last

    def _run(self) -> None:
        pause_s = PERIOD_S
        while not self._stop.wait(pause_s):
            pause_s = PERIOD_S
            try:
                self.look()
            except Exception:  # whatever it was, a peak needs the autopilot
                log.exception("the autopilot could not do what it wanted; it goes on in %g s", PAUSE_S)
                pause_s = PAUSE_S

    def look(self) -> None:
        """Look once, and move if need be."""
        current, highest_level = self._live.current, self._live.highest_level()
        if current.ladder is None or highest_level is None:
            return
        seen = self._traffic.look(self._load(), self._moved, highest_level)
        if current.version != self._version:
            self._begin(current, current.ladder)
            return
        law = ControlLaw(current.ladder.speeds, current.ladder.objective.p95_ms / 1_000)
        state = law.next(self._state, seen)
        if state.level == self._state.level:
            self._state = state
        else:
            self._move(current, current.ladder, state)

    def _begin(self, current: PolicyVersion, ladder: Ladder) -> None:
        """Start afresh from a version that somebody else made; nothing that was seen before counts."""
        state = State(level=current.level or 0)
        if current.level is None:  # the model was calibrated anew since the policy was saved
            self._move(current, ladder, state)
        else:
            self._version, self._state, self._moved = current.version, state, self._clock()

    def _move(self, current: PolicyVersion, ladder: Ladder, state: State) -> None:
        """Put the state's level in force, unless somebody else has changed the policy meanwhile."""
        policy = ladder.policies[state.level]
        try:
            made = self._live.change(policy.to_json(), source="autopilot", if_versions=(current.version,))
        except PolicyConflict:
            return
        self._version, self._state, self._moved = made.version, state, self._clock()
