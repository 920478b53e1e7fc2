"""The few sizes that steps on a GPU are filled up to, so that one graph serves many; and what a step is told there.

Numbers alone: how they reach the GPU, and what is done with them, is in `fixed_steps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.spans.table import num_cells
from service.spans.types import IntArray
from service.text.types import SequenceInput

ROWS = (32, 64, 128, 256, 512, 1_024, 1_536, 2_048, 3_072, 4_096, 6_144, 8_192)  # finer where a row costs something
SEQUENCES = (1, 4, 16, 64, 256, 1_024)
LONGEST = (32, 64, 128, 256, 512, 1_024)  # pieces of the longest sequence
BOUNDS = ("cu_seqlens", "word_starts", "cell_starts")
UNUSED = 0  # the row of the pool that rows beyond the last sequence are read from and written to


class Bucket(NamedTuple):
    """The sizes of a step: rows, sequences, and pieces of the longest sequence, at most."""

    rows: int
    sequences: int
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Bucket | None:
        """Return the smallest bucket for sequences of so many pieces each; None if no bucket holds them."""
        needed = zip((ROWS, SEQUENCES, LONGEST), (sum(lengths), len(lengths), max(lengths)), strict=True)
        sizes = [next((size for size in sizes if size >= least), None) for sizes, least in needed]
        return None if None in sizes else cls(*(size for size in sizes if size is not None))


class Kind(NamedTuple):
    """All steps that one recorded graph serves: they run the same layers in the same way, filled up to the same sizes.

    first, last  layers, from 1
    with_exit    whether the exit after the last one runs
    with_table   whether its table is wanted
    """

    first: int
    last: int
    with_exit: bool
    with_table: bool
    bucket: Bucket

    @property
    def columns(self) -> tuple[str, ...]:
        """What is told of every row; words are counted like rows, of which there are at least as many."""
        begins = ("piece_ids", "shape_ids", "positions") if self.first == 1 else ("before",)
        return (*begins, "after", *(("first_piece", "last_piece") if self.with_exit else ()))

    @property
    def size(self) -> int:
        """How many int64 numbers a step is told."""
        return len(BOUNDS) * (self.bucket.sequences + 1) + len(self.columns) * self.bucket.rows

    def places(self) -> Iterator[tuple[str, slice]]:
        """Yield where the bounds and the columns stand among these numbers."""
        start = 0
        for names, length in ((BOUNDS, self.bucket.sequences + 1), (self.columns, self.bucket.rows)):
            for name in names:
                yield name, slice(start, start := start + length)


def laid_out(kind: Kind, inputs: Sequence[SequenceInput], before: Sequence[IntArray], after: IntArray) -> IntArray:
    """Lay out what a step is told: (kind.size,) int64.

    before  rows of the pool in which each sequence's state is; empty where the first layer runs
    after   rows of the pool that the states after the step are written to, (pieces,)

    Bounds say where each sequence's pieces, words and cells begin, and where the last one's end. Sequences beyond the
    last one are empty, rows and words beyond the last one are UNUSED, and nobody reads what becomes of them.
    `cu_seqlens` is int32, as attention wants it, and takes the first half of its place.
    """
    told = np.full(kind.size, UNUSED, dtype=np.int64)
    places = {name: told[place] for name, place in kind.places()}
    lengths, words = [one.num_pieces for one in inputs], [one.num_words for one in inputs]
    _bound(places["cu_seqlens"].view(np.int32)[: kind.bucket.sequences + 1], lengths)
    _bound(places["word_starts"], words)
    _bound(places["cell_starts"], list(map(num_cells, words)))
    rows, starts = len(after), np.cumsum(lengths) - lengths
    places["after"][:rows] = after
    if kind.first == 1:
        np.concatenate([one.piece_ids for one in inputs], out=places["piece_ids"][:rows])
        np.concatenate([one.shape_ids for one in inputs], out=places["shape_ids"][:rows])
        places["positions"][:rows] = np.arange(rows) - np.repeat(starts, lengths)
    else:
        np.concatenate(before, out=places["before"][:rows])
    if kind.with_exit:
        shift = np.repeat(starts, words)
        places["first_piece"][: len(shift)] = np.concatenate([one.first_piece for one in inputs]) + shift
        places["last_piece"][: len(shift)] = np.concatenate([one.last_piece for one in inputs]) + shift
    return told


def _bound(place: NDArray[np.int32] | IntArray, counts: Sequence[int]) -> None:
    """Write where so many rows of each sequence begin; what is beyond the last sequence begins where that ends."""
    place[0] = 0
    place[1 : len(counts) + 1] = list(accumulate(counts))
    place[len(counts) + 1 :] = place[len(counts)]
