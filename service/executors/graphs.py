"""Runs work by replaying its recording: as it is when it is met first, recorded the second time, then replayed.

What is met once is not worth recording. What is recorded, and how, is for the caller to say.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

log = logging.getLogger(__name__)

Work = Callable[[], None]
MOST = 512  # recordings; for more, the one that was replayed longest ago is dropped


@dataclass(slots=True)
class Counts:
    """How often work was replayed, and run as it is; how often it was recorded, and how many seconds that took."""

    replayed: int = 0
    launched: int = 0
    recorded: int = 0
    record_s: float = 0.0


class Graphs:
    """Recordings of work, by key."""

    def __init__(self, record: Callable[[Work], Work]) -> None:
        """record: takes work down; -> what does it. It may do it meanwhile, and raise RuntimeError."""
        self._record = record
        self._seen: set[Hashable] = set()
        self._replays: OrderedDict[Hashable, Work] = OrderedDict()
        self.counts = Counts()
        self.has_failed = False  # then nothing is recorded any more

    def run(self, key: Hashable, work: Work) -> None:
        """Do some work. Under the same key it is the same work every time, on the same memory.

        It may be done twice: it reads nothing that it has written.
        """
        replay = self._recording(key, work)
        if replay is None:
            self._seen.add(key)
            self.counts.launched += 1
            work()
        else:
            self.counts.replayed += 1
            replay()

    def _recording(self, key: Hashable, work: Work) -> Work | None:
        """The recording of work that was met before; None for what is met first, and where recording has failed."""
        if key in self._replays:
            self._replays.move_to_end(key)
            return self._replays[key]
        if self.has_failed or key not in self._seen:
            return None
        started = time.perf_counter()
        try:
            replay = self._record(work)
        except RuntimeError:
            log.warning(
                "a step cannot be recorded as a graph; what has none is launched kernel by kernel", exc_info=True
            )
            self.has_failed = True
            return None
        self.counts.recorded += 1
        self.counts.record_s += time.perf_counter() - started
        self._replays[key] = replay
        if len(self._replays) > MOST:
            self._replays.popitem(last=False)
        return replay
