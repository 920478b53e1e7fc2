"""The last stage of an exit: turns the scores of cells into a summary, candidates and the table itself.

`weighing` works out the figures of a cell from its scores; `gather` puts the parts of a sequence together.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from service.kernels.layout import NUM_SUMMARY, STARTS_OF_A_BLOCK
from service.kernels.rounding import num_blocks, rounded_up
from service.kernels.rows import add, copy, inlined, keep_highest, kernel, multiply_floats
from service.kernels.simd import doubles_at, floats_at, longs_at, lowest_and_highest
from service.kernels.tiles import LANES
from service.kernels.weighing import (
    BEST,
    ENTROPY,
    HIGHEST,
    NORMALIZER,
    NUM_FIGURES,
    UNSURE,
    keep_apart,
    sum_up,
    weigh_cells,
)
from service.kernels.words import ends_of, words_of

_ZERO = np.float32(0)


@kernel
def cells_before(words, word):
    """Return how many cells of a table over `words` words begin with a word before `word`."""
    return word * words - word * (word - 1) // 2


@inlined
def blocks_of_cells(step):
    """Return the number of blocks of the first words of all sequences; 0 where no exit is wanted."""
    return step.sequences * num_blocks(step.longest_words, STARTS_OF_A_BLOCK) if step.with_exit else 0


@kernel
def score_cells(block, step, layer, scratch):
    """Score the cells of some first words: write their part of the summary, candidates, and, if wanted, more.

    More are the table and how unsure words are. In a sequence with halted words only the cells with a word that moves
    are scored, and there is no summary.
    scratch: (labels, cells) scores, (NUM_FIGURES, cells) figures, and (words, half_columns) what `_score_new_cells`
    gathers; each first word has a cell for every last word, padded.
    """
    chunks = num_blocks(step.longest_words, STARTS_OF_A_BLOCK)
    sequence, chunk = block // chunks, block % chunks
    start, words = words_of(step, sequence)
    summary = carray(doubles_at(step.parts + 8 * NUM_SUMMARY * block), (NUM_SUMMARY,))
    num_found = carray(longs_at(step.parts_found), (block + 1,))
    for figure in range(NUM_SUMMARY):
        summary[figure] = 0.0
    num_found[block] = 0
    first, last = chunk * STARTS_OF_A_BLOCK, min(chunk * STARTS_OF_A_BLOCK + STARTS_OF_A_BLOCK, words)
    if first >= last:
        return
    if carray(longs_at(step.new_words), (step.sequences,))[sequence] < words:
        _score_new_cells(block, step, layer, scratch, sequence, first, last)
        return
    skipped = first // LANES * LANES  # last words come LANES at a time
    width = rounded_up(words, LANES) - skipped
    labels, count = step.labels, last - first
    scores = carray(floats_at(scratch), (labels, count * width))
    figures = carray(floats_at(scratch + 4 * labels * count * width), (NUM_FIGURES, count * width))
    half = step.halves + 4 * step.half_columns * (start + first)
    ends = ends_of(step, sequence, start) + 4 * skipped
    depth = step.rank + labels + 1
    for label in range(labels):
        multiply_floats(
            half + 4 * depth * label,
            4 * step.half_columns,
            ends,
            4 * (width + skipped),
            depth,
            scratch + 4 * label * count * width,
            4 * width,
            count,
            width,
        )
        bias = carray(floats_at(layer.span_bias + 4 * step.longest_span * label), (words,))
        for index in range(count):
            word = first + index
            cell = index * width + word - skipped
            add(scores[label, cell : cell + words - word], bias)
    weigh_cells(scores, figures)
    for figure in (NORMALIZER, ENTROPY, UNSURE, BEST):  # beside the valid cells lies what is none
        for index in range(count):
            for cell in range(index * width, index * width + first + index - skipped):
                figures[figure, cell] = _ZERO
            for cell in range(index * width + words - skipped, (index + 1) * width):
                figures[figure, cell] = _ZERO
    keep_apart(figures)
    sum_up(cells_before(words, last) - cells_before(words, first), figures, summary)
    if step.by_word:
        _note_unsure_words(step, block, start + first, count, skipped, figures)
    has_found = lowest_and_highest(figures[BEST].ctypes.data, count * width)[1] > _ZERO
    if not (has_found or step.with_table):
        return
    origin = carray(longs_at(step.cell_starts), (step.sequences,))[sequence]
    room = (start + first) * step.longest_words
    for index in range(count):
        word = first + index
        cell = index * width + word - skipped
        if step.with_table:
            _write_table(step, origin + cells_before(words, word), cell, words - word, scores, figures)
        if has_found:
            num_found[block] += _find(step, room + num_found[block], word, words, cell, figures)


@kernel
def _score_new_cells(block, step, layer, scratch, sequence, first, last):
    """Score the cells with a word that moves whose first word is at a place from `first` to `last` - 1.

    Words that move have the first places in the sequence's order. They are paired with any last word; the other words
    only with a last word that moves.
    """
    start, words = words_of(step, sequence)
    new = carray(longs_at(step.new_words), (step.sequences,))[sequence]
    word_at = carray(longs_at(step.word_at_place + 8 * start), (words,))
    columns = words if first < new else new
    width, count = rounded_up(columns, LANES), last - first
    labels, depth = step.labels, step.rank + step.labels + 1
    row = 4 * step.half_columns
    gathered = scratch + 4 * (labels + NUM_FIGURES) * count * width
    for index in range(count):
        half = carray(floats_at(step.halves + row * (start + word_at[first + index])), (step.half_columns,))
        copy(half, carray(floats_at(gathered + row * index), (step.half_columns,)))
    scores = carray(floats_at(scratch), (labels, count * width))
    figures = carray(floats_at(scratch + 4 * labels * count * width), (NUM_FIGURES, count * width))
    ends, stride = ends_of(step, sequence, start), 4 * rounded_up(words, LANES)
    for label in range(labels):
        out = scratch + 4 * label * count * width
        multiply_floats(gathered + 4 * depth * label, row, ends, stride, depth, out, 4 * width, count, width)
        bias = carray(floats_at(layer.span_bias + 4 * step.longest_span * label), (words,))
        for index in range(count):
            for place in range(columns):
                distance = word_at[place] - word_at[first + index]
                if distance >= 0:
                    scores[label, index * width + place] += bias[distance]
    weigh_cells(scores, figures)
    origin = carray(longs_at(step.cell_starts), (step.sequences,))[sequence]
    found = carray(floats_at(step.found + 16 * (start + first) * step.longest_words), (count * columns, 4))
    position = 0
    for index in range(count):
        word = word_at[first + index]
        for place in range(width):
            cell = index * width + place
            is_new = place < columns and word_at[place] >= word and (first + index < new or place < new)
            if not is_new:
                figures[ENTROPY, cell] = _ZERO
                continue
            if step.with_table:
                at = origin + cells_before(words, word) + word_at[place] - word
                _write_table(step, at, cell, 1, scores, figures)
            if figures[BEST, cell] > _ZERO:
                found[position, 0], found[position, 1] = word, word_at[place]
                found[position, 2], found[position, 3] = figures[BEST, cell], -figures[NORMALIZER, cell]
                position += 1
    carray(longs_at(step.parts_found), (block + 1,))[block] = position
    _note_unsure_words(step, block, start + first, count, 0, figures)


@kernel
def _note_unsure_words(step, block, first, count, skipped, figures):
    """Write the largest entropy of the cells of each first word, and of each last word in this block; by place."""
    width = figures.shape[1] // count
    unsure = carray(floats_at(step.unsure), (step.words,))
    size = rounded_up(step.longest_words, LANES)
    of_last = carray(floats_at(step.parts_unsure + 4 * block * size), (size,))
    for place in range(size):
        of_last[place] = _ZERO
    for index in range(count):
        row = figures[ENTROPY, index * width : (index + 1) * width]
        unsure[first + index] = lowest_and_highest(row.ctypes.data, width)[1]
        keep_highest(row, of_last[skipped : skipped + width])


@kernel
def _write_table(step, cell, first, count, scores, figures):
    """Write the log-probabilities of `count` cells to the table from `cell` on, label 0 first."""
    labels = step.labels
    table = carray(floats_at(step.table + 4 * (labels + 1) * cell), (count, labels + 1))
    for index in range(count):
        normalizer = figures[HIGHEST, first + index] + figures[NORMALIZER, first + index]
        table[index, 0] = -normalizer
        for label in range(labels):
            table[index, label + 1] = scores[label, first + index] - normalizer


@kernel
def _find(step, position, word, words, cell, figures):
    """Write the candidates that begin with `word`, as in `layout`'s `found`; return how many there are."""
    found = carray(floats_at(step.found + 16 * position), (words - word, 4))
    best, normalizer = figures[BEST], figures[NORMALIZER]
    count = 0
    for last in range(word, words):
        at = cell + last - word
        if best[at] > _ZERO:
            found[count, 0], found[count, 1] = word, last
            found[count, 2], found[count, 3] = best[at], -normalizer[at]
            count += 1
    return count
