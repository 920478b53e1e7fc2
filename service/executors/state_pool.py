"""Where states of sequences lie on a GPU between their layers: in rows of one array, whose address never changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from service.executors.buckets import UNUSED
from service.spans.types import IntArray


class PooledState:
    """The state of one sequence after a layer. Its rows are free again as soon as nobody refers to it any more.

    places  (pieces,) rows of the pool, in any order
    table   (cells, K) float32, what the exit said, if somebody wanted the table
    """

    __slots__ = ("_pool", "places", "table")

    def __init__(self, pool: StatePool, places: IntArray) -> None:
        self._pool, self.places = pool, places
        self.table: Tensor | None = None

    def __del__(self) -> None:
        self._pool.give_back(self.places)

    @property
    def rows(self) -> Tensor:
        """(pieces, hidden) a copy, for steps that are not run in the pool."""
        return self._pool.read(self.places)


class StatePool:
    """Rows for states, and which of them are free. Steps run one after the other, so a row may be taken again at once.

    rows  (rows, hidden); UNUSED is never taken
    """

    def __init__(self, rows: Tensor, send: Callable[[Tensor], Tensor]) -> None:
        """send: copies an array from the host to where the rows are."""
        self.rows, self._send = rows, send
        self._free: list[IntArray] = [np.arange(UNUSED + 1, len(rows))]

    @property
    def free(self) -> IntArray:
        """The rows that nobody has taken."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self._free])

    def take(self, lengths: Sequence[int]) -> tuple[list[PooledState], IntArray] | None:
        """Take rows for a state of so many pieces each; -> the states, and their rows one after the other.

        None if there are not as many: then none is taken.
        """
        taken: list[IntArray] = []
        missing = sum(lengths)
        while missing:
            if not self._free:
                self._free += taken
                return None
            part = self._free.pop()
            if len(part) > missing:
                self._free.append(part[missing:])
            taken.append(part[:missing])
            missing -= len(taken[-1])
        places = np.concatenate(taken)
        bounds = pairwise(accumulate(lengths, initial=0))
        return [PooledState(self, places[start:end]) for start, end in bounds], places

    def give_back(self, places: IntArray) -> None:
        """Make rows free again. Whichever thread lets go of a state does this: a list takes it in one step."""
        self._free.append(places)

    def read(self, places: IntArray) -> Tensor:
        """(pieces, hidden) a copy of rows."""
        return self.rows.index_select(0, self._send(torch.from_numpy(places)))
