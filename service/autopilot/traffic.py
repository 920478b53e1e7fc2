"""What happens between two looks of the autopilot: counted where it happens, by many threads. Decides nothing."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence

from service.autopilot.law import Observation
from service.engine.admission import EngineLoad

P95_S = 1.0  # how far back p95 looks, where that is far enough for FEWEST_REQUESTS
LONGEST_P95_S = 5.0  # and where it is not
FEWEST_REQUESTS = 20  # of which a 95th percentile says something
MOST_REQUESTS = 2_048  # that are remembered


class Traffic:
    """Told by the engine and the routes, asked by the autopilot."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: monotonic seconds, as whoever calls `answered` reads them."""
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below
        self._busy_s = 0.0
        self._done_pieces = 0
        self._answered: deque[tuple[float, float]] = deque(maxlen=MOST_REQUESTS)  # came in when, was answered when
        self._looked = clock()
        self._admitted_pieces = 0

    def step_done(self, seconds: float) -> None:
        """The engine worked for so long."""
        with self._lock:
            self._busy_s += seconds

    def sequence_left(self, pieces: int) -> None:
        """The engine is done with so many pieces."""
        with self._lock:
            self._done_pieces += pieces

    def answered(self, received: float, finished: float) -> None:
        """A request that came in then was answered now."""
        with self._lock:
            self._answered.append((received, finished))

    def look(self, load: EngineLoad, since: float, highest_level: int) -> Observation:
        """What happened since the last look; p95 is of requests that came in after `since`."""
        now = self._clock()
        with self._lock:
            busy_s, self._busy_s = self._busy_s, 0.0
            done_pieces, self._done_pieces = self._done_pieces, 0
            answered = [times for times in self._answered if times[0] >= since]
        seen = Observation(
            interval_s=now - self._looked,
            admitted_pieces=load.admitted_pieces - self._admitted_pieces,
            done_pieces=done_pieces,
            busy_s=busy_s,
            open_pieces=load.open_pieces,
            waiting_s=load.waiting_s,
            p95_s=p95_s(answered, now),
            highest_level=highest_level,
        )
        self._looked, self._admitted_pieces = now, load.admitted_pieces
        return seen


def p95_s(answered: Sequence[tuple[float, float]], now: float) -> float | None:
    """The nearest rank over the latest answers of requests (came in when, was answered when); None of too few."""
    latest = [times for times in answered if times[1] >= now - P95_S]
    if len(latest) < FEWEST_REQUESTS:
        latest = [times for times in answered[-FEWEST_REQUESTS:] if times[1] >= now - LONGEST_P95_S]
    if len(latest) < FEWEST_REQUESTS:
        return None
    return sorted(finished - received for received, finished in latest)[math.ceil(0.95 * len(latest)) - 1]
