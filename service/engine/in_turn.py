"""Amounts of work in the order in which they are to be done."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort


class InTurn:
    """The work of the open requests, by their turns: monotonic seconds, of which the earliest goes first.

    Adding, removing and asking take time in proportion to how many are open, at a few nanoseconds each.
    """

    def __init__(self) -> None:
        self._open: list[tuple[float, float]] = []  # (turn, work), sorted
        self.total = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, turn: float, work: float) -> None:
        """Add the work of a request."""
        insort(self._open, (turn, work))
        self.total += work

    def remove(self, turn: float, work: float) -> None:
        """Remove what was added so. Raises KeyError if nothing was."""
        index = bisect_left(self._open, (turn, work))
        if self._open[index : index + 1] != [(turn, work)]:
            raise KeyError(f"no work of {work} at turn {turn}")
        del self._open[index]
        self.total = self.total - work if self._open else 0.0

    def until(self, turn: float) -> float:
        """Return the work of all whose turn is not later than `turn`."""
        end = bisect_right(self._open, (turn, math.inf))
        return self.total if end == len(self._open) else sum([work for _, work in self._open[:end]])
