"""The layout of a span table: it stores only valid cells (first word <= last word), row by row.

A sequence of w words has w (w + 1) / 2 valid cells: (0, 0), (0, 1), ..., (0, w - 1), (1, 1), ... where the second index
is the *last* word of the span, inclusive. A packed table holds the cells of several sequences, one after another.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from service.spans.types import IntArray

SUMMARY = ("entropy_max", "entropy_mean", "confidence_mean", "doubt", "missed", "weakest")
"""The names of the numbers that sum up a table, over all valid cells of a sequence.

entropy_max, entropy_mean  largest and mean normalised entropy of a cell
confidence_mean            mean of every cell's highest probability
doubt                      -log of the probability that all labels are right, if cells were independent
missed                     highest probability of an entity among the cells where none is most probable
weakest                    1 - the lowest probability of a cell's label among the cells where an entity is most probable
"""

LONGEST_REMEMBERED = 256  # words of a table whose cells are remembered: of all such tables, some 45 MB


def num_cells(num_words: int) -> int:
    """Return the number of valid cells of a table over `num_words` words: Z in Eq. 6 and 7 of VEE-BERT."""
    return num_words * (num_words + 1) // 2


def cell_index(num_words: int, first: int, last: int) -> int:
    """Return the place in the table of the span from word `first` to word `last` (inclusive)."""
    return first * num_words - first * (first - 1) // 2 + last - first


def cell_words(num_words: int) -> tuple[IntArray, IntArray]:
    """Return the first and the last word (inclusive) of every valid cell: (cells,) each, read-only since shared."""
    return _remembered(num_words) if num_words <= LONGEST_REMEMBERED else _cell_words(num_words)


@lru_cache(maxsize=LONGEST_REMEMBERED + 1)
def _remembered(num_words: int) -> tuple[IntArray, IntArray]:
    return _cell_words(num_words)


def _cell_words(num_words: int) -> tuple[IntArray, IntArray]:
    first, last = np.triu_indices(num_words)
    first.setflags(write=False)
    last.setflags(write=False)
    return first, last
