"""Foretells when requests will be answered, and refuses those that would be too late, before any work is done.

Places, that is how much may be open at all, are the matter of `admission`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from operator import attrgetter
from types import TracebackType

from service.engine.in_turn import InTurn
from service.engine.sequence import Request
from service.errors import Overloaded

BUSY_REQUESTS = 4  # open; with fewer, how fast they are done says little of what is possible
FEWEST_REQUESTS = 8  # open; with fewer, nobody is refused, so that there is always a pace to measure
REQUEST_WORK = 50.0  # what a request costs beside its pieces and characters, in pieces
CHAR_WORK = 0.005  # what a character costs, in pieces: it is cut, though none may come of it
PIECES_PER_CHAR = 0.3  # until requests have shown what it is
LEAST_PIECES_PER_CHAR = 0.1  # however many blanks requests have
WINDOW_S = 0.2  # over which a pace is measured, and between two looks at who waits
FIRST_WINDOW_S = 1.0  # over which the first one is measured: at first, a burst is taken in and hardly worked on
MEMORY_S = 2.0  # how far back the pace in force looks
EXPIRES_S = 10.0  # a pace that has not been measured for so long says no more who is late; turns still go by it
FIRST_PACE = 10_000.0  # work a second, by which turns go until a pace was measured
BURST_S = 0.5  # how long the queue may stand before it is kept short
STANDING_S = 1.0  # in which a newcomer must be answered while the queue stands
PATIENCE = 8.0  # a request lets those pass that come while it waits for so many times what it takes itself
LATEST_TURN = 0.5  # of the time limit: when every request's turn comes
EMPTY_S = 0.05  # a wait so short is no queue
LONGEST_RETRY_S = 60.0


class Forecast:
    """The work of all open requests, the pace at which work is done, and so how long a newcomer would wait.

    Work is counted in pieces that run to full depth, and a constant for each request. The pace is the work that was
    done a second while at least BUSY_REQUESTS were open; so whatever is slowest counts: the event loop, the cutting or
    the engine.

    Short work passes long work, by a limited time, among those that can make it:
    - A request's turn comes PATIENCE times as long after its arrival as it takes itself, so that hundreds of short ones
      do not wait for a long one. Whoever comes later than that waits for it; so it is never put off for ever.
    - A newcomer waits for those whose turn is not later than its own.
    - A newcomer that would be answered after its deadline is refused at once; and one that waits, as soon as those that
      passed it have taken the time that it would need.
    - A burst is taken in as far as it can be answered in time. But once the queue has stood for BURST_S, a newcomer
      that would not be answered within STANDING_S is refused, too: a queue that stands only makes everybody late. So
      whoever is served under a lasting overload is served soon, the service is well as soon as the load is gone, and
      who asks for much is refused first: in the time of one text of 400 sentences, hundreds of others are answered.
    - Of FEWEST_REQUESTS open all but one are never refused, so that a pace that is wrong is measured anew; and a pace
      that has not been measured for EXPIRES_S refuses nobody. Turns go by it all the same: they need not be exact.

    Requests of each priority have a forecast of their own: the pace of bulk work is what interactive requests leave.
    All methods but `least_s` and `turn` are called by one thread, the event loop's.
    """

    def __init__(self, num_layers: int, clock: Callable[[], float] = time.monotonic) -> None:
        """num_layers: of the model. clock: returns monotonic seconds, on the same clock as the deadlines."""
        self.num_layers = num_layers
        self._clock = clock
        self._open: set[OpenWork] = set()
        self._in_turn = InTurn()  # what is left of them
        self._pace: float | None = None  # work a second; None before it was measured
        self._measured_at = clock()  # when it was measured last
        self._pieces_per_char = PIECES_PER_CHAR
        self._window_started: float | None = None  # None while fewer than BUSY_REQUESTS are open
        self._window_work = 0.0
        self._looked_at = clock()  # when it was last looked at who waits
        self._empty_at = clock()  # when there was no queue last

    @property
    def has_open(self) -> bool:
        """Whether any request is open."""
        return len(self._open) > 0

    @property
    def wait_s(self) -> float:
        """How long all that is open takes; 0 as long as the pace is unknown."""
        return self.least_s(self._in_turn.total)

    def least_s(self, work: float) -> float:
        """Return how long so much work takes if nothing else is done, 0 while no pace is known; any thread may ask."""
        return work / self._pace if self._pace is not None and self._is_recent(self._clock()) else 0.0

    def turn(self, pieces: float, arrived: float, deadline: float) -> float:
        """Return when a request's turn comes, in monotonic seconds; any thread may ask.

        pieces  of all its texts, that run to full depth
        """
        own_s = (REQUEST_WORK + pieces) / (self._pace or FIRST_PACE)
        return arrived + min(PATIENCE * own_s, LATEST_TURN * (deadline - arrived))

    def retry_after_s(self, wait_s: float | None = None) -> float:
        """Return in how many seconds a newcomer has room: a whole number, at least 1.

        wait_s: of the newcomer; None: of one whose turn is the last
        """
        waited_s = self.wait_s if wait_s is None else wait_s
        return min(max(1.0, math.ceil(waited_s - STANDING_S)), LONGEST_RETRY_S)

    def check(self, deadline: float, num_bytes: int = 0) -> None:
        """Raise Overloaded if a newcomer whose body is not read yet would be answered after `deadline`.

        num_bytes: of its body; 0 if that is unknown. By bytes its work is known to a factor of two, so half counts.
        """
        pieces, now = self._pieces_per_char * num_bytes / 2, self._clock()
        self._look(now)
        self._check(self.turn(pieces, now, deadline), pieces, deadline)

    def enter(self, num_chars: int, deadline: float) -> OpenWork:
        """Count a request of so many characters from now on. Raises Overloaded if it would be answered too late."""
        pieces = (self._pieces_per_char + CHAR_WORK) * num_chars
        now = self._clock()
        self._look(now)
        turn = self.turn(pieces, now, deadline)
        self._check(turn, REQUEST_WORK + pieces, deadline)
        work = OpenWork(self, turn, REQUEST_WORK + pieces, deadline)
        self._open.add(work)
        self._in_turn.add(turn, work.left)
        if len(self._open) >= BUSY_REQUESTS and self._window_started is None:
            for one in self._open:
                one.look()  # what was done before is not of this window
            self._window_started, self._window_work = now, 0.0
        return work

    def _check(self, turn: float, work: float, deadline: float) -> None:
        now = self._clock()
        if self.wait_s <= EMPTY_S:
            self._empty_at = now
        if len(self._open) < FEWEST_REQUESTS:
            return
        wait_s = self.least_s(self._in_turn.until(turn))
        stands = now - self._empty_at > BURST_S and wait_s > STANDING_S
        if stands or now + wait_s + self.least_s(work) > deadline:
            raise self._too_late(wait_s)

    def change(self, work: OpenWork, turn: float, left: float, done: float = 0.0) -> None:
        """Correct the turn of an open request and what is left of it, of which so much less was done since."""
        self._in_turn.remove(work.turn, work.left)
        self._in_turn.add(turn, left)
        work.turn, work.left = turn, left
        self._window_work += done

    def learn(self, pieces: int, num_chars: int) -> None:
        """Learn from a request how many pieces a character makes; long requests say more than short ones."""
        weight = num_chars / (num_chars + 5_000)
        if num_chars:
            shown = max(pieces / num_chars, LEAST_PIECES_PER_CHAR)
            self._pieces_per_char += weight * (shown - self._pieces_per_char)

    def leave(self, work: OpenWork, is_done: bool) -> None:
        """Count a request no more; `is_done` says whether its work was done."""
        now = self._clock()
        self._open.remove(work)
        self._in_turn.remove(work.turn, work.left)
        self._look(now)
        if self._window_started is not None:
            self._window_work += work.left * is_done
            self._measure(now)
        if len(self._open) < BUSY_REQUESTS:
            self._window_started = None
        if self.wait_s <= EMPTY_S:
            self._empty_at = now

    def _look(self, now: float) -> None:
        """From time to time, see how far the open requests are, and refuse those that cannot make it any more."""
        if now - self._looked_at < WINDOW_S:
            return
        self._looked_at = now
        for work in self._open:
            work.look()
        if len(self._open) < FEWEST_REQUESTS:
            return
        kept, before = 0, 0.0
        for work in sorted(self._open, key=attrgetter("turn")):
            wait_s = self.least_s(before)
            makes_it = kept < FEWEST_REQUESTS - 1 or now + wait_s + self.least_s(work.left) <= work.deadline
            if not makes_it and work.waits:
                work.refuse(self._too_late(wait_s))
            else:
                kept, before = kept + 1, before + work.left

    def _too_late(self, wait_s: float) -> Overloaded:
        return Overloaded(
            f"the work that waits takes about {wait_s:.1f} s, so the request would be answered too late and was not "
            "begun; send it again later",
            retry_after_s=self.retry_after_s(wait_s),
        )

    def _is_recent(self, now: float) -> bool:
        return now - self._measured_at <= EXPIRES_S

    def _measure(self, now: float) -> None:
        """Take the pace of a window that is long enough into the pace in force, and begin another one."""
        seconds = now - (self._window_started or now)
        known = self._pace if self._is_recent(now) else None
        if seconds < (FIRST_WINDOW_S if known is None else WINDOW_S) or not self._window_work:
            return
        pace = self._window_work / seconds
        self._pace = pace if known is None else known - math.expm1(-seconds / MEMORY_S) * (pace - known)
        self._measured_at = now
        self._window_started, self._window_work = now, 0.0


class OpenWork:
    """The work of one open request, as a context; leaving it without `was_done` counts what is left as not done.

    turn      when its turn comes, and
    deadline  when it must be answered, both in monotonic seconds
    left      what was not done yet at the last look
    """

    def __init__(self, forecast: Forecast, turn: float, work: float, deadline: float) -> None:
        self.turn = turn
        self.left = self._work = work
        self.deadline = deadline
        self._forecast = forecast
        self._request: Request | None = None  # once its texts are cut
        self._tell: Callable[[Overloaded], object] | None = None
        self._is_done = False

    def when_refused(self, tell: Callable[[Overloaded], object]) -> None:
        """Have `tell` called, once, as soon as the request cannot be answered in time any more; until it has begun."""
        self._tell = tell

    def is_known(self, request: Request, num_chars: int) -> None:
        """Say what the request is, once its texts of so many characters are cut and it is submitted."""
        self._forecast.learn(request.cost, num_chars)
        self._request, self._work = request, REQUEST_WORK + CHAR_WORK * num_chars + request.cost
        self._forecast.change(self, request.turn, self._work)

    def look(self) -> None:
        """See how far the request is. Of one that is finished the rest is done when it leaves, or never."""
        request = self._request
        if request is None or not request.has_started or not request.unfinished:
            return
        left = self._work * request.share_left(self._forecast.num_layers)
        if left < self.left:
            self._forecast.change(self, self.turn, left, done=self.left - left)

    @property
    def waits(self) -> bool:
        """Whether it has not begun, and somebody is to be told if it cannot make it."""
        return self._tell is not None and (self._request is None or not self._request.has_started)

    def refuse(self, error: Overloaded) -> None:
        """Tell whoever waits for it."""
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(error)

    def was_done(self) -> None:
        """Say that its work was done."""
        self._is_done = True

    def __enter__(self) -> OpenWork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._forecast.leave(self, self._is_done)
