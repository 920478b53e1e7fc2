"""The control law: it chooses a level from what was observed. It is pure: no clock, no threads, no I/O.

Two signals decide. Delay says *that* the law must act: a queue or a p95 comes near the objective. Work says *how far*
it must go: the law measures the engine's time for a piece, converted to full depth; from that, and from the pieces that
arrive and that wait, it predicts the utilisation of every level, and goes straight to the first level that suffices,
however many it skips. If work says that the current level suffices and delay says that it does not (the device became
slow, or time is lost elsewhere), delay is right: the law goes one level further, and looks again after SETTLE_S.

The law returns one level at a time, after some seconds of calm and only if the slower level would not be too busy. A
return that does not last doubles the calm that the next return needs; a return that lasts halves it again. So no load
makes the law swing for long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

QUEUE_THREATENS, QUEUE_IS_CALM = 0.5, 0.25  # shares of the objective: the queue is what p95 will be
P95_THREATENS, P95_IS_CALM = 0.9, 0.5  # shares of the objective: p95 is what has been
SUFFICES = 0.85  # highest predicted utilisation of a level chosen in a threat
MAY_RETURN = 0.8  # the same of a level returned to; a wrong return is noticed long before p95 breaks
RECOVERY_S = 1.0  # a level suffices if it also works off the open pieces in this time
ARRIVALS_S, SPEED_S = 0.5, 2.0  # how far back the averages of arrivals and of time per piece look
SETTLE_S = 1.0  # the effect of a move shows after this time
LEAST_GAP_S = 0.3  # from a move to the next faster level
CALM_S, LONGEST_CALM_S = 5.0, 60.0  # that a return needs: at first, and at most
PROVEN_S = 30.0  # a return that has lasted this long was right


@dataclass(frozen=True, slots=True)
class Observation:
    """What happened since the previous observation, and the state at this moment.

    interval_s       seconds since the previous observation
    admitted_pieces  pieces admitted in the interval
    done_pieces      pieces of the sequences that left in the interval
    busy_s           seconds that the engine worked in the interval
    open_pieces      cost of the requests that are not answered yet, in pieces that run to full depth
    waiting_s        seconds for which a request has waited for its first step since its turn came, at most
    p95_s            of the latest answers to requests that came in after the last move; None if they are too few
    highest_level    the fastest level that may be used
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

    level          the level in force; 0 is the most accurate one
    arrivals       average of pieces admitted per second
    work, pieces   the engine's seconds, converted to full depth, and its pieces; both fade, and their ratio is used
    since_move_s   seconds since the last move
    calm_s         seconds of calm so far; 0 after a move
    needed_calm_s  seconds of calm that the next return needs
    on_trial_s     seconds since the last return; None once it is proven or has failed
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
        """The engine's seconds for a piece, converted to full depth; 0 before anything is known."""
        return self.work / self.pieces if self.pieces else 0.0


@dataclass(frozen=True, slots=True)
class ControlLaw:
    """The control law of one ladder and one objective.

    speeds       by level, ascending: how many times as fast as full depth
    objective_s  the p95 to keep, in seconds
    """

    speeds: tuple[float, ...]
    objective_s: float

    def next(self, state: State, seen: Observation) -> State:
        """Return the state after an observation; its level is the level to use."""
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
        """Return the state with averages and times brought up to date."""
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
        """Estimate for how many seconds a request that comes now would wait."""
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
        """Predict the utilisation of a level by the pieces that arrive, and the open ones, to be done in RECOVERY_S."""
        return (state.arrivals + seen.open_pieces / RECOVERY_S) * state.piece_s / self.speeds[level]

    def _faster(self, state: State, seen: Observation) -> int:
        """Return the level to use in a threat."""
        if state.since_move_s < LEAST_GAP_S:
            return state.level
        levels = range(state.level, len(self.speeds))
        level = next((level for level in levels if self._load(state, seen, level) <= SUFFICES), levels[-1])
        if level == state.level and state.since_move_s >= SETTLE_S:
            return min(level + 1, levels[-1])
        return level

    def _sped_up(self, state: State, level: int) -> State:
        """Return the state after a move to a faster level; if the move undoes a return, the return has failed."""
        needed_calm_s = state.needed_calm_s
        if state.on_trial_s is not None:
            needed_calm_s = min(2 * needed_calm_s, LONGEST_CALM_S)
        return replace(_moved(state, level), needed_calm_s=needed_calm_s, on_trial_s=None)


def _moved(state: State, level: int) -> State:
    return replace(state, level=level, since_move_s=0.0, calm_s=0.0)
