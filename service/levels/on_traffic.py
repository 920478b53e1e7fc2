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


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSample:
    """What is counted of one sample. Nothing of its text is left.

    levels            that were scored
    scores            theirs, of this one sample
    weight, heaviest  as in SampleRun
    """

    levels: tuple[ExitPolicy, ...]
    scores: Scores
    weight: float
    heaviest: float


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
        self._on_sample, self.on_alarm = on_sample, on_alarm
        self.started = self._timestamp()
        self.samples = 0
        """How many have been run since the start, whichever levels there were."""
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
        """Score a sample and take it, in the order in which samples were drawn."""
        self.take(self.score(run))
        self.count_run()

    def score(self, run: SampleRun) -> ScoredSample:
        """Return the scores of a sample. One that could not be run counts as the worst."""
        scorer = self._scorer
        if run.readings is None:
            scores = worst_scores(len(scorer.levels), scorer.num_layers)
        else:
            scores = scorer.score(run.readings, [run.owned])
        return ScoredSample(scorer.levels, scores, run.weight, run.heaviest)

    def count_run(self) -> None:
        """Count a sample that was run."""
        with self._lock:
            self.samples += 1
        self._on_sample()

    @property
    def scored(self) -> tuple[ExitPolicy, ...]:
        """The levels that are scored: all but those whose words halt one by one."""
        return self._scored

    def take(self, sample: ScoredSample) -> None:
        """Measure the levels by a sample, and settle the bets on them."""
        self.measure(sample)
        if self.settle(sample):
            self.on_alarm()

    def measure(self, sample: ScoredSample, at: str | None = None) -> None:
        """Measure the levels by a sample; not if others are looked at since it was scored. at: see `settle`."""
        with self._lock:
            if sample.levels == self._scored:
                self._estimates.add(sample.scores, sample.weight, sample.heaviest)
                self.since = min(self.since, at or self.since)

    def settle(self, sample: ScoredSample, at: str | None = None) -> bool:
        """Settle the bets on all levels that are tested; return whether that raised an alarm.

        at: when the sample was run, ISO 8601 in UTC; by default now
        """
        with self._lock:
            if self._goal is None or self._certificates is None or sample.levels != self._scored:
                return False
            found, alarms, window = self._certificates, int(self._certificates.alarms), self._window[0]
            payoffs = self._goal.promise.payoffs(sample.scores)[0, self._indices]
            found.settle(payoffs, sample.weight, sample.heaviest)
            if int(found.window) != window or (at and int(found.samples) == 1):
                self._window = int(found.window), at or self._timestamp()
            return int(found.alarms) > alarms

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
