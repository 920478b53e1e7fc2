"""What an exit of the fused executor says of sequences that are read word by word.

The kernels work out the cells with a word that moves. Those of two halted words stay as they were said after the layer
before, and join them here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from service.exits.candidates import Candidates
from service.exits.reading import Reading
from service.exits.words import Flags
from service.spans.table import num_cells
from service.spans.types import DoubleArray, FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What an exit said of one sequence, for later layers in which words of it are halted.

    cells  (candidates, 4), see Candidates; without those that decoding leaves out, unless the sequence is read by word
    table  (cells, K), if it was wanted
    """

    cells: FloatArray
    table: FloatArray | None


def tables_of(table: FloatArray, num_words: Sequence[int]) -> Iterator[FloatArray]:
    """The part of every sequence of a packed table, (cells, K), to read or to write."""
    start = 0
    for words in num_words:
        yield table[start : start + num_cells(words)]
        start += num_cells(words)


def begin_table(table: FloatArray, num_words: Sequence[int], before: Sequence[Said | None]) -> None:
    """Write what exits said before to a table, (cells, K), where the kernels will write the new cells."""
    for own, said in zip(tables_of(table, num_words), before, strict=True):
        if said is not None and said.table is not None:
            own[:] = said.table


def join(
    new: Candidates,
    num_words: Sequence[int],
    active: Sequence[Flags | None],
    before: Sequence[Said | None],
    table: FloatArray | None,
) -> tuple[Candidates, list[Said | None]]:
    """New candidates joined by those of two halted words; and what to keep of every sequence for the next layer.

    active  per sequence, (words,) which of its words move; None: it is not read word by word
    before  what was kept of every sequence
    table   (cells, K) of all sequences, if it was wanted
    """
    tables = [None] * len(num_words) if table is None else tables_of(table, num_words)
    parts: list[FloatArray] = []
    kept: list[Said | None] = []
    for own, flags, said, of_table in zip(new.split(), active, before, tables, strict=True):
        cells = own if flags is None or flags.all() else _in_order(own, flags, said)
        parts.append(cells)
        kept.append(None if flags is None else Said(cells, of_table))
    return Candidates.join(parts, are_entities=False), kept


def _in_order(new: FloatArray, flags: Flags, said: Said | None) -> FloatArray:
    """(candidates, 4) new ones and those that were said of two halted words, in the order of the table."""
    cells = new
    if said is not None and len(said.cells):
        ends = said.cells[:, :2].astype(np.int64)
        cells = np.concatenate([said.cells[~flags[ends].any(axis=1)], new])
    return cells[np.lexsort((cells[:, 1], cells[:, 0]))] if len(cells) > 1 else cells


def sum_up(
    summary: DoubleArray,
    num_words: Sequence[int],
    active: Sequence[Flags | None],
    table: FloatArray | None,
    *,
    nested: bool,
) -> None:
    """Write the summary of sequences that have halted words: of their table if there is one, else NaN.

    summary: (sequences, SUMMARY), which the kernels have written of all others
    """
    tables = [None] * len(num_words) if table is None else tables_of(table, num_words)
    for index, (words, flags, own) in enumerate(zip(num_words, active, tables, strict=True)):
        if flags is None or flags.all():
            continue
        summary[index] = np.nan
        if own is not None:
            summary[index] = Reading(torch.from_numpy(own), (words,), nested=nested).summary[0]
