"""Counts what happens between two looks of the autopilot, in many threads. It decides nothing."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence

from service.autopilot.law import Observation
from service.engine.admission import EngineLoad

P95_S = 1.0  # how far back p95 looks, if FEWEST_REQUESTS were answered in that time
LONGEST_P95_S = 5.0  # how far back it looks if not
FEWEST_REQUESTS = 20  # for a 95th percentile that means something
MOST_REQUESTS = 2_048  # that are remembered


class Traffic:
    """Counters that the engine and the routes increase and the autopilot reads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: returns monotonic seconds, on the same clock as the times given to `answered`."""
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below
        self.busy_s = 0.0
        """Seconds that the engine worked since the start, in steps for requests."""
        self._done_pieces = 0
        self._answered: deque[tuple[float, float]] = deque(maxlen=MOST_REQUESTS)  # came in when, was answered when
        self._looked = clock()
        self._admitted_pieces = 0
        self._looked_busy_s = 0.0

    def step_done(self, seconds: float) -> None:
        """Count seconds that the engine worked."""
        with self._lock:
            self.busy_s += seconds

    def sequence_left(self, pieces: int) -> None:
        """Count the pieces of a sequence that left."""
        with self._lock:
            self._done_pieces += pieces

    def answered(self, received: float, finished: float) -> None:
        """Count a request by the times at which it came in and was answered, in monotonic seconds."""
        with self._lock:
            self._answered.append((received, finished))

    def look(self, load: EngineLoad, since: float, highest_level: int) -> Observation:
        """Return what happened since the last look; p95 is of requests that came in after `since`."""
        now = self._clock()
        with self._lock:
            busy_s = self.busy_s
            done_pieces, self._done_pieces = self._done_pieces, 0
            answered = [times for times in self._answered if times[0] >= since]
        seen = Observation(
            interval_s=now - self._looked,
            admitted_pieces=load.admitted_pieces - self._admitted_pieces,
            done_pieces=done_pieces,
            busy_s=busy_s - self._looked_busy_s,
            open_pieces=load.open_pieces,
            waiting_s=load.waiting_s,
            p95_s=p95_s(answered, now),
            highest_level=highest_level,
        )
        self._looked, self._admitted_pieces, self._looked_busy_s = now, load.admitted_pieces, busy_s
        return seen


def p95_s(answered: Sequence[tuple[float, float]], now: float) -> float | None:
    """Return the 95th percentile (nearest rank) of seconds from arrival to answer over the latest; None of too few."""
    latest = [times for times in answered if times[1] >= now - P95_S]
    if len(latest) < FEWEST_REQUESTS:
        latest = [times for times in answered[-FEWEST_REQUESTS:] if times[1] >= now - LONGEST_P95_S]
    if len(latest) < FEWEST_REQUESTS:
        return None
    return sorted(finished - received for received, finished in latest)[math.ceil(0.95 * len(latest)) - 1]
