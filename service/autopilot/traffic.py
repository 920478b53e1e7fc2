"""What happens between two looks of the autopilot: counted where it happens, by many threads. Decides nothing."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable

from service.autopilot.law import Observation
from service.engine.engine import EngineLoad

P95_S = 5.0  # how far back p95 looks
P95_REQUESTS = 2_048  # and to how many
FEWEST_REQUESTS = 20  # of which a 95th percentile says something


class Traffic:
    """Told by the engine and the routes, asked by the autopilot."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: monotonic seconds, as whoever calls `answered` reads them."""
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below
        self._busy_s = 0.0
        self._done_pieces = 0
        self._answered: deque[tuple[float, float]] = deque(maxlen=P95_REQUESTS)  # when it came in; seconds it took
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
            self._answered.append((received, finished - received))

    def look(self, load: EngineLoad, since: float, highest_level: int) -> Observation:
        """What happened since the last look; p95 of requests that came in after `since`, in the last P95_S."""
        now = self._clock()
        since = max(since, now - P95_S)
        with self._lock:
            busy_s, self._busy_s = self._busy_s, 0.0
            done_pieces, self._done_pieces = self._done_pieces, 0
            took = [seconds for received, seconds in self._answered if received >= since]
        seen = Observation(
            interval_s=now - self._looked,
            admitted_pieces=load.admitted_pieces - self._admitted_pieces,
            done_pieces=done_pieces,
            busy_s=busy_s,
            open_pieces=load.open_pieces,
            waiting_s=load.waiting_s,
            p95_s=p95(took),
            highest_level=highest_level,
        )
        self._looked, self._admitted_pieces = now, load.admitted_pieces
        return seen


def p95(seconds: list[float]) -> float | None:
    """The nearest rank; None of too few."""
    if len(seconds) < FEWEST_REQUESTS:
        return None
    return sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]
