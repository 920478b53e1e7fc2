"""Which sequences run next, and at which layer. Pure bookkeeping: no torch, no threads, no clock."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from service.engine.sequence import Sequence

MAX_PASSED_OVER = 8  # steps of other layers that may run while a sequence is first before its own
FULL_SHARE = 0.75  # of the budget: a batch that loses a few sequences at every exit must still count as full
BULK_PART = 4  # of a step's budget, a bulk step has one part in so many: an interactive request may wait for one step
BULK_SHARE = 0.05  # of the pieces that interactive requests move: what bulk work gets while they leave nothing


@dataclass(frozen=True, slots=True)
class Step:
    """A layer to run, and the sequences to run it over, which all stand before it. `pieces` counts those that move.

    An executor may go on through layers whose exits none of the sequences needs, see `service.stepping.advance`.
    """

    layer: int
    sequences: tuple[Sequence, ...]
    pieces: int


class Scheduler:
    """Chooses the next step: of interactive requests while they have any, else of bulk work.

    A bulk step is small, since an interactive request that comes meanwhile waits for its end. While interactive
    requests leave no gap, bulk work gets BULK_SHARE of what they move, so that it goes on at least so fast.
    """

    def __init__(self, num_layers: int, max_step_pieces: int) -> None:
        self._interactive = Lane(num_layers, max_step_pieces)
        self._most_bulk_pieces = max(1, max_step_pieces // BULK_PART)
        self._bulk = Lane(num_layers, self._most_bulk_pieces)
        self._due_pieces = 0.0  # of bulk work; below 0 after a bulk step that was larger

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Put sequences before the layer that each has to run next."""
        for sequence in sequences:
            (self._bulk if sequence.request.priority == "bulk" else self._interactive).add(sequence)

    def next_step(self) -> Step:
        """Take out and return the next step; its first sequence may exceed the budget. Call it only if `has_work`."""
        has_bulk = self._bulk.has_work
        if self.has_interactive and not (has_bulk and self._due_pieces >= self._most_bulk_pieces):
            step = self._interactive.next_step()
            self._due_pieces += BULK_SHARE * step.pieces if has_bulk else 0.0
            return step
        step = self._bulk.next_step()
        self._due_pieces = self._due_pieces - step.pieces if self.has_interactive else min(self._due_pieces, 0.0)
        return step

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits."""
        return self._interactive.has_work or self._bulk.has_work

    @property
    def has_interactive(self) -> bool:
        """Whether any sequence of an interactive request waits."""
        return self._interactive.has_work


class Lane:
    """The sequences of one priority. They wait before their next layer, in order of their requests' turns.

    A step takes the sequences that wait before one layer, up to a budget of pieces. The layer is chosen in this order:
    1. a layer that was passed over at least MAX_PASSED_OVER times, the most often first, so that none starves;
    2. a layer that has a full step's worth of pieces, since a full step costs least per piece;
    3. any other layer that has work.
    Among several, the layer whose first sequence has the earliest turn comes first; among equal turns, the deepest
    layer, since it is nearest to an answer. While any sequence waits, there is a next step.

    Sequences that have begun hold memory on the device. While as many pieces have begun as make a full step of every
    layer, layer 1 is not chosen, so that no order of turns makes more and more sequences begin.
    """

    def __init__(self, num_layers: int, max_step_pieces: int) -> None:
        self._waiting: list[list[tuple[float, int, Sequence]]] = [[] for _ in range(num_layers)]  # [layer - 1] heaps
        self._numbers = itertools.count()
        self._pieces = [0] * num_layers
        self._passed_over = [0] * num_layers
        self._max_step_pieces = max_step_pieces
        self._most_begun = num_layers * max_step_pieces

    def add(self, sequence: Sequence) -> None:
        """Put a sequence before the layer that it has to run next."""
        entry = (sequence.request.turn, next(self._numbers), sequence)
        heapq.heappush(self._waiting[sequence.layer], entry)
        self._pieces[sequence.layer] += sequence.step_pieces

    def next_step(self) -> Step:
        """Take out and return the next step, as `Scheduler` says."""
        with_work = [index for index, waiting in enumerate(self._waiting) if waiting]
        may_begin = sum(self._pieces[1:]) < self._most_begun
        chosen = max((index for index in with_work if index or may_begin), key=self._precedence)
        for index in with_work:
            self._passed_over[index] += 1
        self._passed_over[chosen] = 0
        waiting = self._waiting[chosen]
        taken = [heapq.heappop(waiting)[2]]
        pieces = taken[0].step_pieces
        while waiting and pieces + waiting[0][2].step_pieces <= self._max_step_pieces:
            pieces += waiting[0][2].step_pieces
            taken.append(heapq.heappop(waiting)[2])
        self._pieces[chosen] -= pieces
        return Step(chosen + 1, tuple(taken), pieces)

    def _precedence(self, index: int) -> tuple[int, bool, float, int]:
        starving = self._passed_over[index] if self._passed_over[index] >= MAX_PASSED_OVER else 0
        is_full = self._pieces[index] >= FULL_SHARE * self._max_step_pieces
        return starving, is_full, -self._waiting[index][0][0], index

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits."""
        return any(self._waiting)
