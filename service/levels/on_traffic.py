"""Scores samples of the traffic for every operating point, and tests a promise on them, while threads look on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from service.engine.samples import SampleRun
from service.exits.policy import ExitPolicy
from service.policy.promised import Certified, PromiseGoal
from service.promise.agreement import worst_scores
from service.promise.certificates import Certificates
from service.promise.estimates import Estimate, TrafficEstimates
from service.promise.scoring import LevelScorer, Scores


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the tests for a promise are.

    certified  the levels that are certified, for the goal that is tested
    since      when the evidence of this window began, ISO 8601 in UTC
    samples    of this window
    alarms     raised since the goal is tested: a level that was in force was proven to break the promise
    """

    certified: Certified
    since: str
    samples: int
    alarms: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What one level gives on the traffic.

    estimate      on the traffic since the first sample
    is_certified  whether it is certified for the goal that is tested; None where it is not tested
    """

    estimate: Estimate
    is_certified: bool | None


class TrafficLevels:
    """What samples say of every level. The engine's worker adds to it, and any thread may look."""

    def __init__(
        self,
        levels: Sequence[ExitPolicy],
        to_certify: Sequence[ExitPolicy],
        num_layers: int,
        *,
        now: Callable[[], datetime],
        on_sample: Callable[[], None] = lambda: None,
        on_alarm: Callable[[], None] = lambda: None,
    ) -> None:
        """Start without samples.

        levels      the operating points; those whose words halt one by one are not scored
        to_certify  those of them that are tested for a promise, the safest first
        now         returns the wall clock in UTC
        on_sample   called after every sample, and `on_alarm` at every alarm; they must return at once
        """
        self._num_layers = num_layers
        self._now = now
        self._on_sample, self._on_alarm = on_sample, on_alarm
        self.started = self._timestamp()
        self.samples = 0
        """How many have been taken since the start, whichever levels there were."""
        self._lock = threading.Lock()  # guards the fields that `look_at` sets
        self.look_at(levels, to_certify)

    def look_at(self, levels: Sequence[ExitPolicy], to_certify: Sequence[ExitPolicy]) -> None:
        """Look at these levels from now on, as `__init__` takes them. All that was found of others is given up."""
        with self._lock:
            self._scored = tuple(dict.fromkeys(level for level in (*levels, *to_certify) if level.is_replayable))
            self._to_certify = tuple(to_certify)
            self._indices = [self._scored.index(level) for level in to_certify]
            self._scorer = LevelScorer(self._scored, self._num_layers)
            self._estimates = TrafficEstimates(len(self._scored), self._num_layers)
            self._goal: PromiseGoal | None = None
            self._certificates: Certificates | None = None  # of the goal
            self._window = (0, "")  # the number of the window of evidence, and when it began
            self.since = self._timestamp()
            """When these levels were looked at first."""

    def add(self, run: SampleRun) -> None:
        """Take a sample, in the order in which samples were drawn. One that could not be run counts as the worst."""
        scorer = self._scorer
        if run.readings is None:
            scores = worst_scores(len(scorer.levels), scorer.num_layers)
        else:
            scores = scorer.score(run.readings, [run.owned])
        self.take(scores, run.weight, run.heaviest, scorer.levels)

    @property
    def scored(self) -> tuple[ExitPolicy, ...]:
        """The levels that are scored: all but those whose words halt one by one."""
        return self._scored

    def take(
        self, scores: Scores, weight: float, heaviest: float, levels: tuple[ExitPolicy, ...] | None = None
    ) -> None:
        """Take the scores that levels, by default all in `scored`, have on a sample; the rest as in SampleRun."""
        with self._lock:
            self.samples += 1
            is_alarm = False
            if levels in (None, self._scored):  # else others are looked at since it was scored
                self._estimates.add(scores, weight, heaviest)
                is_alarm = self._settle(scores, weight, heaviest)
        self._on_sample()
        if is_alarm:
            self._on_alarm()

    def test(self, goal: PromiseGoal | None) -> Standing | None:
        """Test for a goal from now on, None for none, and return how far that is. The same goal as before goes on.

        Evidence for another goal begins anew: what was seen before may have led to its choice.
        """
        with self._lock:
            if goal != self._goal:
                self._goal = goal
                self._certificates = self._begin(goal) if goal is not None and self._to_certify else None
                self._window = 0, self._timestamp()
            return self._standing()

    def standing(self) -> Standing | None:
        """Return how far the tests are; None while nothing is tested."""
        with self._lock:
            return self._standing()

    def measured(self) -> dict[ExitPolicy, Measured]:
        """Return what is known of every level that is scored, which is all but those whose words halt one by one."""
        with self._lock:
            estimates = self._estimates.estimates()
            certified = self._certified()
            tested = self._to_certify if self._goal else ()
            scored = self._scored
        return {
            level: Measured(estimate, level in certified if level in tested else None)
            for level, estimate in zip(scored, estimates, strict=True)
        }

    def _begin(self, goal: PromiseGoal) -> Certificates:
        return Certificates(len(self._to_certify), goal.terms, most_payoff=goal.promise.most_payoff)

    def _settle(self, scores: Scores, weight: float, heaviest: float) -> bool:
        """Settle the bets on all levels that are tested; return whether an alarm was raised."""
        if self._goal is None or self._certificates is None:
            return False
        certificates, alarms = self._certificates, int(self._certificates.alarms)
        payoffs = self._goal.promise.payoffs(scores)[0, self._indices]
        certificates.settle(payoffs, weight, heaviest)
        if int(certificates.window) != self._window[0]:
            self._window = int(certificates.window), self._timestamp()
        return int(certificates.alarms) > alarms

    def _certified(self) -> tuple[ExitPolicy, ...]:
        if self._certificates is None:
            return ()
        return self._to_certify[: int(self._certificates.fastest) + 1]

    def _standing(self) -> Standing | None:
        if self._goal is None:
            return None
        found = self._certificates
        samples, alarms = (int(found.samples), int(found.alarms)) if found else (0, 0)
        return Standing(Certified(self._goal, self._certified()), self._window[1], samples, alarms)

    def _timestamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds")
