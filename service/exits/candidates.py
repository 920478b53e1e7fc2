"""Holds the cells that decoding chooses from, sequence by sequence. How it chooses is in `service.spans.decode`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise

import numpy as np
from numpy.typing import NDArray

from service.spans.table import cell_words, num_cells
from service.spans.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Candidates:
    """Holds the cells whose most probable label is not 0, sequence by sequence, in the order of the table.

    counts        how many candidates every sequence has
    cells         (candidates, 4) float32: first word, last word (inclusive), label, and its log-probability
    are_entities  whether decoding has been done: candidates that conflict with better ones have been left out
    """

    counts: tuple[int, ...]
    cells: FloatArray
    are_entities: bool = False

    @classmethod
    def at(cls, cells: IntArray, figures: NDArray[np.float64], num_words: Sequence[int]) -> Candidates:
        """Make candidates of some cells of a packed table.

        cells      (candidates,) where the cells lie in the table, ascending
        figures    (candidates, 2) label and log-probability of each cell
        num_words  of every sequence
        """
        starts = np.cumsum([0, *map(num_cells, num_words)])
        owner = np.searchsorted(starts, cells, side="right") - 1
        found = np.empty((len(cells), 4), dtype=np.float32)
        found[:, 2:] = figures
        for sequence in np.unique(owner).tolist():
            own = owner == sequence
            first, last = cell_words(num_words[sequence])
            within = cells[own] - starts[sequence]
            found[own, 0], found[own, 1] = first[within], last[within]
        return cls(tuple(np.bincount(owner, minlength=len(num_words)).tolist()), found)

    @cached_property
    def bounds(self) -> list[int]:
        """Where the cells of each sequence begin, and where the last ones end: sequences + 1 numbers."""
        return list(accumulate(self.counts, initial=0))

    def __getitem__(self, sequences: slice) -> Candidates:
        """Return the candidates of consecutive sequences; the slice needs a start and a stop."""
        start, end = sequences.start, sequences.stop
        return Candidates(self.counts[sequences], self.cells[self.bounds[start] : self.bounds[end]], self.are_entities)

    def split(self) -> list[FloatArray]:
        """Return the cells of every sequence, (candidates of the sequence, 4) each."""
        if len(self.counts) == 1:
            return [self.cells]
        return [self.cells[start:end] for start, end in pairwise(self.bounds)]

    @staticmethod
    def join(cells: Sequence[FloatArray], *, are_entities: bool) -> Candidates:
        """Make candidates of the cells of every sequence; the reverse of `split`."""
        return Candidates(tuple(map(len, cells)), cells[0] if len(cells) == 1 else np.concatenate(cells), are_entities)

    @staticmethod
    def concatenate(parts: Sequence[Candidates]) -> Candidates:
        """Put the sequences of some candidates after those of others."""
        counts = tuple(chain.from_iterable(part.counts for part in parts))
        are_entities = all(part.are_entities for part in parts)
        return Candidates(counts, np.concatenate([part.cells for part in parts]), are_entities)
