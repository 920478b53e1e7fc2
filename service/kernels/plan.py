"""Works out how much memory a step of some size needs, array by array. Nothing is allocated here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from service.kernels.layout import NUM_SUMMARY, PLACES, STARTS_OF_A_BLOCK, WORDS_OF_A_BLOCK
from service.kernels.rounding import num_blocks, rounded_up
from service.kernels.tiles import LANES, MAX_TILE_ROWS
from service.kernels.weighing import NUM_FIGURES
from service.spans.table import num_cells

ALIGNMENT = 64  # bytes of a cache line


@dataclass(frozen=True, slots=True)
class Sizes:
    """Holds the sizes of a step: totals over its sequences, and the most rows and words that one of them has."""

    rows: int
    sequences: int
    words: int
    cells: int
    longest_rows: int
    longest_words: int

    @classmethod
    def of(cls, lengths: Sequence[int], num_words: Sequence[int]) -> Sizes:
        """Return the sizes of a step over sequences with these numbers of pieces and words."""
        cells = sum(map(num_cells, num_words))
        return cls(sum(lengths), len(lengths), sum(num_words), cells, max(lengths), max(num_words))

    def fit(self, reserved: Sizes) -> bool:
        """Tell whether memory for `reserved` is enough."""
        return (
            self.rows <= reserved.rows
            and self.sequences <= reserved.sequences
            and self.words <= reserved.words
            and self.cells <= reserved.cells
            and self.longest_rows <= reserved.longest_rows
            and self.longest_words <= reserved.longest_words
        )

    def joined(self, other: Sizes) -> Sizes:
        """Return sizes that are large enough for both."""
        return Sizes(*(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


def arrays(
    sizes: Sizes, model: Sequence[int], threads: int, *, keeps_words: bool
) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Return the type and shape of every array whose address a record of STEP holds, except the table of cells.

    model        the int64 words of a record of STEP, of which the sizes of the model are read
    keeps_words  whether what the bilinear form reads of words is wanted
    """
    rows, sequences, words, cells = sizes.rows, sizes.sequences, sizes.words, sizes.cells
    longest_words = rounded_up(sizes.longest_words, LANES)
    blocks = sequences * num_blocks(sizes.longest_words, STARTS_OF_A_BLOCK)
    of = {name: int(model[place]) for name, place in PLACES.items()}
    hidden, intermediate, rank, labels = of["hidden"], of["intermediate"], of["rank"], of["labels"]
    found: dict[str, tuple[Any, tuple[int, ...]]] = {
        **dict.fromkeys(("row_starts", "word_starts", "moving_starts", "halted_starts"), (np.int64, (sequences + 1,))),
        **dict.fromkeys(("cell_starts", "inputs", "outputs", "reads_words", "new_words"), (np.int64, (sequences,))),
        **dict.fromkeys(("first_piece", "last_piece", "first_row", "last_row"), (np.int64, (words,))),
        **dict.fromkeys(("word_moves", "place_of_word", "word_at_place"), (np.int64, (words,))),
        **dict.fromkeys(("piece_ids", "position_ids", "shape_ids"), (np.int64, (rows,))),
        **dict.fromkeys(("row_of_piece", "piece_of_row"), (np.int64, (rows,))),
        **dict.fromkeys(("state", "sum", "context"), (np.float32, (rows, hidden))),
        "qkv": (np.float32, (rows, 3 * hidden)),
        "expanded": (np.float32, (rows, intermediate)),
        "bytes": (np.uint8, (rows, hidden)),
        "wide_bytes": (np.uint8, (rows, intermediate)),
        "of_rows": (np.float32, (rows, 2)),
        "projected": (np.float32, (rows, of["word_columns"])),
        "word_context": (np.float32, (sequences, 2 * rank)),
        "halves": (np.float32, (words, of["half_columns"])),
        "ends": (
            np.float32,
            (words + LANES * sequences, rank + labels + 1),
        ),  # a matrix a sequence, see `words.ends_of`
        "parts": (np.float64, (blocks, NUM_SUMMARY)),
        "parts_found": (np.int64, (blocks,)),
        "parts_unsure": (np.float32, (blocks, longest_words)),
        "unsure": (np.float32, (words,)),
        "order": (np.int64, (cells,)),
        "summary": (np.float64, (sequences, NUM_SUMMARY)),
        "num_found": (np.int64, (sequences,)),
        "found": (np.float32, (words * sizes.longest_words, 4)),  # first word, last word, label, log-probability
        "uncertainty": (np.float32, (words,)),
        "scratch": (np.uint8, (threads, _scratch_bytes(sizes, of))),
    }
    if keeps_words:
        found["seen_words"] = np.float32, (words, 2, rank)
    return found


def _scratch_bytes(sizes: Sizes, of: dict[str, int]) -> int:
    """Return the most memory, in bytes, that a thread needs to work in during one block of any stage."""
    rank, longest_rows = of["rank"], rounded_up(sizes.longest_rows, LANES)
    floats = max(
        (2 * of["hidden"] // of["heads"] + MAX_TILE_ROWS) * longest_rows + MAX_TILE_ROWS,  # attention
        2 * of["hidden"] + LANES,  # the context of a sequence
        (rank + rank // 4 + 2) * 2 * (WORDS_OF_A_BLOCK + of["reach"]),  # words and their neighbours
        (of["labels"] + NUM_FIGURES) * STARTS_OF_A_BLOCK * longest_rows
        + STARTS_OF_A_BLOCK * of["half_columns"],  # cells
    )
    return int(rounded_up(4 * floats, ALIGNMENT))
