"""The keeper of a promise: a thread that serves the fastest certified level, and nothing that is not certified."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from service.errors import PolicyConflict
from service.exits.policy import ExitPolicy
from service.levels.on_traffic import Standing, TrafficLevels
from service.policy.live import LivePolicy
from service.policy.thread import LookingThread

log = logging.getLogger(__name__)

PERIOD_S = 0.1  # between two looks: for so long at most is a level served that an alarm has put out of force
PAUSE_S = 5.0  # after a move that could not be made, for instance because the disk is full
LEAST_GAP_S = 60.0  # between two moves to a faster level; a slower one is taken at once


class PromiseKeeper(LookingThread):
    """Tells the tests what is to be promised and the live policy what is certified, and moves it while it promises."""

    def __init__(self, live: LivePolicy, levels: TrafficLevels, clock: Callable[[], float]) -> None:
        """clock: returns monotonic seconds."""
        failure = "the promise could not be kept as it should be"
        super().__init__("promise-keeper", period_s=PERIOD_S, pause_s=PAUSE_S, failure=failure)
        self._live = live
        self._levels = levels
        self._clock = clock
        self._alarms = 0  # as the last look found them
        self._sped_up = -math.inf  # when it moved to a faster level last

    def look(self) -> None:
        """Look once, and move if need be; at the start, so that nothing certified in an earlier life is served."""
        current = self._live.current
        standing = self._levels.test(current.to_certify)
        self._live.set_certified(standing.certified if standing else None)
        if standing is None or current.promise is None:
            return
        is_alarm, self._alarms = standing.alarms > self._alarms, standing.alarms
        levels = (self._live.full_depth(), *standing.certified.levels)
        is_faster = current.policy in levels[:-1]
        if current.policy == levels[-1] or (is_faster and self._clock() < self._sped_up + LEAST_GAP_S):
            return
        why = _reason(standing, is_faster=is_faster, is_alarm=is_alarm)
        self._move(levels[-1], current.version, why)
        if is_faster:
            self._sped_up = self._clock()

    def _move(self, policy: ExitPolicy, looked_at: int, why: str) -> None:
        """Put a policy in force, unless somebody else has changed it meanwhile."""
        try:
            self._live.change(policy.to_json(), source="promise", changed_by=why, if_versions=(looked_at,))
        except PolicyConflict:
            log.info("somebody else changed the policy first")


def _reason(standing: Standing, *, is_faster: bool, is_alarm: bool) -> str:
    goal, count = standing.certified.goal, len(standing.certified.levels)
    promise = f"a disagreement of at most {goal.max_disagreement:g} at a confidence of {goal.confidence:g}"
    if is_faster:
        return f"certified for {promise}, by {standing.samples} samples since {standing.since}"
    if is_alarm:
        return f"alarm: the level in force was proven to break the promise of {promise}"
    return f"no longer certified for {promise}" if count else f"nothing is certified for {promise}"
