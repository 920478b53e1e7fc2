"""Which sequences run next, and at which layer. Pure bookkeeping: no torch, no threads, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from service.engine.sequence import Sequence

MAX_PASSED_OVER = 8  # steps that may run elsewhere while a sequence waits at the head of its layer
FULL_SHARE = 0.75  # of the budget: what leaves a few behind at every layer must still count as a full step


@dataclass(frozen=True, slots=True)
class Step:
    """Run `layer` over `sequences`, which all stand before it; pieces: what that costs, in pieces that move."""

    layer: int
    sequences: tuple[Sequence, ...]
    pieces: int


class Scheduler:
    """Sequences wait before a layer; a step takes those before one layer, in order of arrival, under a piece budget.

    Next runs, in this order of precedence:
    1. a layer whose head was passed over MAX_PASSED_OVER times, the most often passed over one first: nobody starves;
    2. a layer with a full step's worth of pieces, as a full step costs least per piece;
    3. any layer that has work.
    Among several of these, the one whose head has the earliest deadline; among equal deadlines, the deepest, which is
    nearest to its answer. Nothing is ever waited for: while anything waits, there is a next step.
    """

    def __init__(self, num_layers: int, max_step_pieces: int) -> None:
        self._waiting: list[deque[Sequence]] = [deque() for _ in range(num_layers)]  # [layer - 1]
        self._pieces = [0] * num_layers
        self._passed_over = [0] * num_layers
        self._max_step_pieces = max_step_pieces

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Put sequences before the layer that each has to run next."""
        for sequence in sequences:
            self._waiting[sequence.layer].append(sequence)
            self._pieces[sequence.layer] += sequence.step_pieces

    def next_step(self) -> Step:
        """Take the next step's sequences out, of which one always fits; there is one as long as `has_work`."""
        candidates = [index for index, waiting in enumerate(self._waiting) if waiting]
        chosen = max(candidates, key=self._precedence)
        for index in candidates:
            self._passed_over[index] += 1
        self._passed_over[chosen] = 0
        waiting = self._waiting[chosen]
        taken = [waiting.popleft()]
        pieces = taken[0].step_pieces
        while waiting and pieces + waiting[0].step_pieces <= self._max_step_pieces:
            pieces += waiting[0].step_pieces
            taken.append(waiting.popleft())
        self._pieces[chosen] -= pieces
        return Step(chosen + 1, tuple(taken), pieces)

    def _precedence(self, index: int) -> tuple[int, bool, float, int]:
        starving = self._passed_over[index] if self._passed_over[index] >= MAX_PASSED_OVER else 0
        is_full = self._pieces[index] >= FULL_SHARE * self._max_step_pieces
        return starving, is_full, -self._waiting[index][0].request.deadline, index

    @property
    def has_work(self) -> bool:
        """Whether anything waits."""
        return any(self._waiting)
