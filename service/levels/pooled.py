"""The samples of all replicas that share a policy, summed: one order of them, in which every replica settles its bets.

    engine --(SampleRun)--> PooledSamples.add: scored, waits --(keeper's thread)--> SampleStream, for all replicas
    SampleStream --(keeper's thread: own samples and those of others, in the order of the stream)--> TrafficLevels

While the stream is away, a replica counts its own samples by itself. A sample counts once at most, whatever happens;
why the bets stay valid stands in docs/promise.md.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, Protocol

from service.engine.samples import SampleRun
from service.errors import BadInput
from service.levels.entries import SampleEntries, SampleEntry
from service.levels.on_traffic import ScoredSample, Standing, TrafficLevels
from service.policy.live import LivePolicy
from service.policy.promised import Certified, PromiseGoal
from service.policy.store import PolicyStoreDown

log = logging.getLogger(__name__)

Place = tuple[int, int]
"""Of an entry in a stream: milliseconds since 1970 by the clock of whoever keeps it, and a number among those."""
Skipped = Literal["unreadable", "other_levels", "no_room"]
"""Why a sample is not counted: what lies in the stream is none, or of other levels; or too many wait to be sent."""

START: Place = (0, 0)
MOST_AT_ONCE = 200  # entries that are sent, or read, by one look
MOST_WAITING = 10_000  # samples of this replica that wait to be sent
PAUSE_S = 1.0  # between two tries while the stream is away
LATEST = 1_000  # samples by which replicas are counted
LAST_NUMBER = 2**64 - 1  # that a place can have
LAST_MS = 253_402_300_799_000  # of the year 9999; what is later than that can't be shown


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What came of an exchange with a stream.

    added    the places that the new entries have got
    entries  what was read, oldest first: places and texts
    """

    added: Sequence[Place]
    entries: Sequence[tuple[Place, bytes]]


class SampleStream(Protocol):
    """Has the latest entries of all replicas, in one order."""

    name: str

    def exchange(self, texts: Sequence[str], after: Place, most: int) -> Exchanged:
        """Append entries, then read at most so many behind a place, in one step.

        Raises PolicyStoreDown within a second, and then the entries may have been appended or not.
        """

    def close(self) -> None:
        """End the connections."""


class PooledSamples:
    """Sums the samples of all replicas. The engine's worker adds to it, one thread tests, and any may look."""

    def __init__(
        self,
        levels: TrafficLevels,
        live: LivePolicy,
        stream: SampleStream,
        *,
        of: object,
        num_layers: int,
        clock: Callable[[], float],
        on_skipped: Callable[[Skipped], None] = lambda _: None,
    ) -> None:
        """Sum what `levels` takes from now on; they have to stay those that they are.

        of          see SampleEntries
        clock       returns monotonic seconds
        on_skipped  called with the reason for every sample that is not counted; it must return at once
        """
        self._levels = levels
        self._live = live
        self._stream = stream
        self._clock = clock
        self._on_skipped = on_skipped
        self._entries = SampleEntries(levels.scored, num_layers, of)
        self._replica = secrets.token_hex(8)
        self._waiting: deque[tuple[int, ScoredSample]] = deque()  # with the versions in force when they were scored
        self._sent = 0  # entries of this replica
        self._unsure = 0  # own entries up to this number that come from the stream have been counted already
        self._goal: PromiseGoal | None = None
        self._since = 0  # the version from which on samples are evidence for the goal
        self._read = START  # up to where the stream has been read since the goal is tested, and
        self._furthest = START  # ever
        self._is_behind = True  # whether there may be more to read; nothing is sent before all has been read
        self._has_caught_up = False  # whether all was read once since the goal is tested
        self._try_again_at = -math.inf
        self._latest: deque[str] = deque(maxlen=LATEST)
        self._has_told = False
        self.fault: str | None = None
        """Why samples are counted here alone at the moment; None while they are summed."""
        self.samples = 0
        """How many have been counted, of all replicas."""
        self.replicas = 0
        """How many replicas the latest LATEST samples are of."""

    def add(self, run: SampleRun) -> None:
        """Score a sample of this replica, to be counted in its turn. Waits for nothing."""
        version = self._live.current.version  # before it is scored: so what it shows can't have led to a later goal
        sample = self._levels.score(run)
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append((version, sample))
        else:
            self._on_skipped("no_room")
        self._levels.count_run()

    def test(self, goal: PromiseGoal | None) -> Standing | None:
        """Test as `TrafficLevels.test` does, by the samples of all; a goal begins with those that the stream still has.

        Nothing is said to be certified before all of these have been read.
        """
        if goal != self._goal:
            self._goal = goal
            if goal is not None:
                self._since = self._live.goal_since()
                self._read, self._is_behind, self._has_caught_up = START, True, False
        self._levels.test(goal)
        self._exchange()
        standing = self._levels.standing()
        if standing is None or self._has_caught_up:
            return standing
        return replace(standing, certified=Certified(standing.certified.goal))

    def close(self) -> None:
        """End the connections; nobody may be testing."""
        self._stream.close()

    def _exchange(self) -> None:
        """Send what waits, and count what the stream has; or count what waits, if it is away."""
        if self.fault is not None and self._clock() < self._try_again_at:
            self._count_alone(self._taken())
            return
        sent = [] if self._is_behind or self.fault is not None else self._taken(MOST_AT_ONCE)
        entries = [
            SampleEntry(self._replica, self._sent + number, version, sample)
            for number, (version, sample) in enumerate(sent, 1)
        ]
        self._sent += len(sent)
        try:
            texts = [self._entries.written(entry) for entry in entries]
            found = self._stream.exchange(texts, self._read, MOST_AT_ONCE)
        except PolicyStoreDown as error:
            self._note(str(error))
            if sent:
                self._unsure = self._sent
            self._count_alone([*sent, *self._taken()])
            return
        self._note(None)
        self._is_behind = True  # until all that was found is counted
        if found.added and found.added[0] <= self._furthest:  # the stream is another one, and its clock behind
            milliseconds, number = found.added[0]
            self._read = self._furthest = (milliseconds, number - 1) if number else (milliseconds - 1, LAST_NUMBER)
            return
        for place, text in found.entries:
            self._read = place
            self._count_entry(place, text)
        self._is_behind = len(found.entries) == MOST_AT_ONCE
        self._has_caught_up |= not self._is_behind
        self.replicas = len(set(self._latest))

    def _taken(self, most: int = MOST_WAITING) -> list[tuple[int, ScoredSample]]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _count_alone(self, samples: Sequence[tuple[int, ScoredSample]]) -> None:
        """Count own samples that are not summed. So alarms are raised, and certificates end, as without others."""
        self._has_caught_up = True
        for version, sample in samples:
            self._count(self._replica, version, sample, is_new=True, at=None)
        self.replicas = len(set(self._latest))

    def _count_entry(self, place: Place, text: bytes) -> None:
        is_new = place > self._furthest
        self._furthest = max(self._furthest, place)
        try:
            entry = self._entries.read(text)
        except BadInput as error:
            if is_new:
                self._skip("unreadable", str(error))
            return
        if entry is None:
            if is_new:
                self._skip("other_levels", "scored for other levels, other weights, or another share of the sentences")
        elif entry.replica != self._replica or entry.number > self._unsure:
            at = datetime.fromtimestamp(min(place[0], LAST_MS) / 1000, UTC).isoformat(timespec="milliseconds")
            self._count(entry.replica, entry.version, entry.sample, is_new=is_new, at=at)

    def _count(self, replica: str, version: int, sample: ScoredSample, *, is_new: bool, at: str | None) -> None:
        if is_new:
            self.samples += 1
            self._latest.append(replica)
            self._levels.measure(sample, at)
        if version >= self._since and self._levels.settle(sample, at) and self._has_caught_up:
            self._levels.on_alarm()

    def _skip(self, reason: Skipped, why: str) -> None:
        self._on_skipped(reason)
        if not self._has_told:
            log.warning("samples skipped", extra={"data": {"of": self._stream.name, "reason": reason, "why": why}})
        self._has_told = True

    def _note(self, fault: str | None) -> None:
        """Note why the stream cannot be used, None if it can; log what is new."""
        before, self.fault = self.fault, fault
        if fault is not None:
            self._try_again_at = self._clock() + PAUSE_S
            if before is None:
                log.warning("samples are counted here alone", extra={"data": {"reason": fault}})
        elif before is not None:
            log.info("samples are summed again")
