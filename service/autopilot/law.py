"""The control law: from what was observed to the level to be at. Pure: no clock, no threads, no I/O.

Two things decide. Delay says *that* something has to be done: a queue or a p95 that comes near the objective. Work says
*how much*: the engine's time for a piece, at full depth's speed, is measured all along; with it, with the pieces that
arrive and those that wait, every level's utilisation is foretold, and the law goes straight to the first that suffices,
however many that skips. Where work says that the level suffices and delay says that it does not (the device became
slow, or time is lost elsewhere), delay is right: one level further, and another look when that has had time to show.

Back it goes a level at a time, after some seconds of calm and only if the slower level would not be too busy. A return
that does not last doubles the calm that the next one takes, one that does halves it again; so no load makes the law
swing for long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

QUEUE_THREATENS, QUEUE_IS_CALM = 0.5, 0.25  # of the objective: a queue is what p95 is about to be
P95_THREATENS, P95_IS_CALM = 0.9, 0.5  # of the objective: p95 is what has been
SUFFICES = 0.85  # utilisation of a level that is gone to in a threat
MAY_RETURN = 0.8  # utilisation of a level that is worth a return; a wrong one is noticed long before p95 breaks
RECOVERY_S = 1.0  # a level suffices if it also works off what waits in this time
ARRIVALS_S, SPEED_S = 0.5, 2.0  # what the averages of arrivals, and of the engine's time for a piece, look back on
SETTLE_S = 1.0  # what a move has done shows after this time
LEAST_GAP_S = 0.3  # between two moves of any kind
CALM_S, LONGEST_CALM_S = 5.0, 60.0  # before a return: at first, and at the most
PROVEN_S = 30.0  # a return that has lasted so long was right


@dataclass(frozen=True, slots=True)
class Observation:
    """What happened since the observation before, and what is the case now.

    interval_s               since then
    admitted_pieces          that came in
    done_pieces, busy_s      that left, and the time that the engine worked
    open_pieces              that are not answered
    waiting_s                how long the request has waited that waits longest for its first layer
    p95_s                    of the latest requests, of those that came in after the last move; None for too few
    highest_level            the fastest level that may be used
    """

    interval_s: float
    admitted_pieces: int
    done_pieces: int
    busy_s: float
    open_pieces: int
    waiting_s: float
    p95_s: float | None
    highest_level: int


@dataclass(frozen=True, slots=True)
class State:
    """All that the law remembers.

    arrivals       pieces a second
    work, pieces   the engine's time, as at full depth's speed, and the pieces it was for: both fade, their ratio counts
    since_move_s   after the last move
    calm_s         for how long there has been no threat; 0 after a move
    needed_calm_s  before a return
    on_trial_s     after the last return, until it is proven or has failed; None then
    """

    level: int
    arrivals: float = 0.0
    work: float = 0.0
    pieces: float = 0.0
    since_move_s: float = math.inf
    calm_s: float = 0.0
    needed_calm_s: float = CALM_S
    on_trial_s: float | None = None

    @property
    def piece_s(self) -> float:
        """The engine's time for a piece at full depth's speed; 0 before anything is known."""
        return self.work / self.pieces if self.pieces else 0.0


@dataclass(frozen=True, slots=True)
class ControlLaw:
    """For one ladder and one objective.

    speeds  by level, ascending: times as fast as full depth
    """

    speeds: tuple[float, ...]
    objective_s: float

    def next(self, state: State, seen: Observation) -> State:
        """The state after an observation; its level is where to be."""
        state = self._remember(state, seen)
        if state.level > seen.highest_level:
            return _moved(state, seen.highest_level)
        if self._is_threatened(state, seen):
            state = replace(state, calm_s=0.0)
            level = min(self._faster(state, seen), seen.highest_level)
            return self._sped_up(state, level) if level > state.level else state
        if not self._is_calm(state, seen):
            return replace(state, calm_s=0.0)
        is_due = state.level > 0 and state.calm_s >= state.needed_calm_s
        if is_due and self._load(state, seen, state.level - 1) <= MAY_RETURN:
            return replace(_moved(state, state.level - 1), on_trial_s=0.0)
        return state

    def _remember(self, state: State, seen: Observation) -> State:
        """The averages, and the time that has passed."""
        passed = seen.interval_s
        recent = -math.expm1(-passed / ARRIVALS_S)
        arrivals = state.arrivals + recent * (seen.admitted_pieces / passed - state.arrivals)
        work, pieces = state.work, state.pieces
        if seen.done_pieces:
            fading = math.exp(-passed / SPEED_S)
            work = fading * work + seen.busy_s * self.speeds[state.level]
            pieces = fading * pieces + seen.done_pieces
        on_trial_s = None if state.on_trial_s is None else state.on_trial_s + passed
        needed_calm_s = state.needed_calm_s
        if on_trial_s is not None and on_trial_s >= PROVEN_S:
            needed_calm_s, on_trial_s = max(needed_calm_s / 2, CALM_S), None
        return State(
            level=state.level,
            arrivals=arrivals,
            work=work,
            pieces=pieces,
            since_move_s=state.since_move_s + passed,
            calm_s=state.calm_s + passed,
            needed_calm_s=needed_calm_s,
            on_trial_s=on_trial_s,
        )

    def _queue_s(self, state: State, seen: Observation) -> float:
        """How long one would wait that comes now, as far as can be told."""
        return max(seen.waiting_s, seen.open_pieces * state.piece_s / self.speeds[state.level])

    def _is_threatened(self, state: State, seen: Observation) -> bool:
        return (
            self._queue_s(state, seen) >= QUEUE_THREATENS * self.objective_s
            or (seen.p95_s or 0.0) >= P95_THREATENS * self.objective_s
        )

    def _is_calm(self, state: State, seen: Observation) -> bool:
        return (
            self._queue_s(state, seen) <= QUEUE_IS_CALM * self.objective_s
            and (seen.p95_s or 0.0) <= P95_IS_CALM * self.objective_s
        )

    def _load(self, state: State, seen: Observation, level: int) -> float:
        """The utilisation that a level would have: by what arrives, and by what waits if it is to go in RECOVERY_S."""
        return (state.arrivals + seen.open_pieces / RECOVERY_S) * state.piece_s / self.speeds[level]

    def _faster(self, state: State, seen: Observation) -> int:
        """Where to be in a threat."""
        if state.since_move_s < LEAST_GAP_S:
            return state.level
        levels = range(state.level, len(self.speeds))
        level = next((level for level in levels if self._load(state, seen, level) <= SUFFICES), levels[-1])
        if level == state.level and state.since_move_s >= SETTLE_S:
            return min(level + 1, levels[-1])
        return level

    def _sped_up(self, state: State, level: int) -> State:
        """A move to a faster level; if it undoes a return, that one has failed."""
        needed_calm_s = state.needed_calm_s
        if state.on_trial_s is not None:
            needed_calm_s = min(2 * needed_calm_s, LONGEST_CALM_S)
        return replace(_moved(state, level), needed_calm_s=needed_calm_s, on_trial_s=None)


def _moved(state: State, level: int) -> State:
    return replace(state, level=level, since_move_s=0.0, calm_s=0.0)
