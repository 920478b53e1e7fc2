"""How many threads a step should have, by what the rest of the process does.

A helper that shares its core with another thread is put aside in the middle of a block, and everybody waits for it. So
while the rest of the process (the event loop, above all) keeps a core busy, the step does with one thread fewer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

LOOK_S = 0.05  # between two looks at what the rest of the process does
BUSY, CALM = 0.6, 0.4  # of a core, above which a thread is given up, and below which it is taken back


class SpareCores:
    """Says how many threads a team should have, by the processor time that the rest of the process takes."""

    def __init__(self, threads: int, cores: int) -> None:
        """threads: the most; cores: those of the process."""
        self._threads, self._unused = threads, max(0, cores - threads)
        self._wanted = threads
        self._looked_at = self._rest_s = 0.0
        self._own_clocks: Sequence[int] | None = None

    def wanted(self, own_clocks: Sequence[int]) -> int:
        """Return a number from 1 to `threads`; own_clocks: of the processor time of the team's threads."""
        now = time.monotonic()
        if (passed := now - self._looked_at) >= LOOK_S:
            rest_s = time.process_time() - sum(map(time.clock_gettime, own_clocks))
            if own_clocks == self._own_clocks:
                self.take_note((rest_s - self._rest_s) / passed)
            self._looked_at, self._rest_s, self._own_clocks = now, rest_s, own_clocks
        return self._wanted

    def take_note(self, busy: float) -> int:
        """Take note that the rest of the process keeps so many cores busy; return how many threads there should be."""
        given_up = self._threads - self._wanted
        over = busy - self._unused
        while over > given_up + BUSY and given_up < self._threads - 1:
            given_up += 1
        while given_up and over < given_up - 1 + CALM:
            given_up -= 1
        self._wanted = self._threads - given_up
        return self._wanted
