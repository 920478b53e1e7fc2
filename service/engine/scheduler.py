"""Which sequences run next, and at which layer. Pure bookkeeping: no torch, no threads, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from service.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """Run `layer` over `sequences`; all of them stand before that layer."""

    layer: int
    sequences: tuple[Sequence, ...]


class Scheduler:
    """Sequences wait before a layer; the deepest layer that has any runs next, oldest first, under a piece budget.

    Deepest first means that whoever started is finished before newcomers start: nobody starves, and a sequence shares
    a step only with others at its layer.
    """

    def __init__(self, num_layers: int, max_step_pieces: int) -> None:
        self._waiting: list[deque[Sequence]] = [deque() for _ in range(num_layers)]  # [layer - 1]
        self._max_step_pieces = max_step_pieces

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Put sequences before the layer that each has to run next."""
        for sequence in sequences:
            self._waiting[sequence.layer].append(sequence)

    def next_step(self) -> Step | None:
        """Take the next step's sequences out; None when nothing waits. One sequence always fits."""
        for index in reversed(range(len(self._waiting))):
            waiting = self._waiting[index]
            if waiting:
                taken = [waiting.popleft()]
                pieces = taken[0].input.num_pieces
                while waiting and pieces + waiting[0].input.num_pieces <= self._max_step_pieces:
                    pieces += waiting[0].input.num_pieces
                    taken.append(waiting.popleft())
                return Step(index + 1, tuple(taken))
        return None

    @property
    def has_work(self) -> bool:
        """Whether anything waits."""
        return any(self._waiting)
