"""Finishes an exit after its stages, on one thread: puts the parts of every sequence together."""

from __future__ import annotations

from numba import carray

from service.kernels.cells import cells_before
from service.kernels.entities import choose
from service.kernels.layout import (
    CONFIDENCE_MEAN,
    DOUBT,
    ENTROPY_MAX,
    ENTROPY_MEAN,
    MISSED,
    NUM_SUMMARY,
    STARTS_OF_A_BLOCK,
    WEAKEST,
)
from service.kernels.rounding import num_blocks, rounded_up
from service.kernels.rows import keep_highest, kernel
from service.kernels.simd import doubles_at, floats_at, longs_at
from service.kernels.tiles import LANES

_EXTREMES = (ENTROPY_MAX, MISSED, WEAKEST)
_SUMS = (ENTROPY_MEAN, CONFIDENCE_MEAN, DOUBT)
_MEANS = (ENTROPY_MEAN, CONFIDENCE_MEAN)


@kernel
def gather_results(step):
    """Put together what the blocks of `score_cells` found, and decode it; return the number of entities found.

    A sequence that is read word by word keeps all candidates, since those of its halted words are added later.
    """
    chunks = num_blocks(step.longest_words, STARTS_OF_A_BLOCK)
    starts = carray(longs_at(step.word_starts), (step.sequences + 1,))
    parts = carray(doubles_at(step.parts), (step.sequences * chunks, NUM_SUMMARY))
    parts_found = carray(longs_at(step.parts_found), (step.sequences * chunks,))
    summaries = carray(doubles_at(step.summary), (step.sequences, NUM_SUMMARY))
    num_found = carray(longs_at(step.num_found), (step.sequences,))
    reads_words = carray(longs_at(step.reads_words), (step.sequences,))
    found = carray(floats_at(step.found), (step.words * step.longest_words, 4))
    order = carray(longs_at(step.order), (step.cells,))
    position = 0
    for sequence in range(step.sequences):
        words = starts[sequence + 1] - starts[sequence]
        before = position
        for figure in range(NUM_SUMMARY):
            summaries[sequence, figure] = 0.0
        for chunk in range(num_blocks(words, STARTS_OF_A_BLOCK)):
            part = parts[sequence * chunks + chunk]
            for figure in _EXTREMES:
                summaries[sequence, figure] = max(summaries[sequence, figure], part[figure])
            for figure in _SUMS:
                summaries[sequence, figure] += part[figure]
            origin = (starts[sequence] + chunk * STARTS_OF_A_BLOCK) * step.longest_words
            for index in range(parts_found[sequence * chunks + chunk]):
                for field in range(4):
                    found[position, field] = found[origin + index, field]
                position += 1
        if reads_words[sequence]:
            num_found[sequence] = position - before
        else:
            num_found[sequence] = choose(found[before:position], order[before:position], step.is_nested)
            position = before + num_found[sequence]
        for figure in _MEANS:
            summaries[sequence, figure] /= cells_before(words, words)
        if step.by_word:
            _gather_unsure_words(step, sequence, starts[sequence], words, chunks)
    return position


@kernel
def _gather_unsure_words(step, sequence, start, words, chunks):
    """Write how unsure each word of a sequence is, as the first and as the last word of cells, to `uncertainty`."""
    size = rounded_up(step.longest_words, LANES)
    unsure = carray(floats_at(step.unsure + 4 * start), (words,))
    for chunk in range(num_blocks(words, STARTS_OF_A_BLOCK)):
        at = step.parts_unsure + 4 * size * (sequence * chunks + chunk)
        keep_highest(carray(floats_at(at), (words,)), unsure)
    uncertainty = carray(floats_at(step.uncertainty + 4 * start), (words,))
    place_of_word = carray(longs_at(step.place_of_word + 8 * start), (words,))
    for word in range(words):
        uncertainty[word] = unsure[place_of_word[word]]
