"""The stages of an exit that read words: projections, context, neighbours, and one half of the bilinear form.

Pairs of words are scored in `cells`. Every stage takes (block, step, layer, scratch), see `encoder`.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from service.kernels.layout import WORDS_OF_A_BLOCK
from service.kernels.rounding import num_blocks, rounded_up
from service.kernels.rows import PANEL, activate, add, copy, inlined, kernel, multiply_bytes, quantize_row
from service.kernels.simd import bytes_at, floats_at, longs_at
from service.kernels.tiles import LANES

_ONE, _ZERO = np.float32(1), np.float32(0)
_GELU = 0
_SIDES = 2  # of a span: its first word, its last word


@inlined
def words_of(step, sequence):
    """Return where a sequence's words begin among all words of the step, and how many it has."""
    starts = carray(longs_at(step.word_starts), (step.sequences + 1,))
    return starts[sequence], starts[sequence + 1] - starts[sequence]


@inlined
def ends_of(step, sequence, start):
    """Return the address of a sequence's part of `ends`: (rank + labels + 1, padded words), a column per last word."""
    return step.ends + 4 * (step.rank + step.labels + 1) * (start + LANES * sequence)


# pieces and sequences


@inlined
def blocks_of_projections(step):
    """Return the number of blocks: those of the columns of `projected`, and one for each sequence's context."""
    return num_blocks(step.word_columns, PANEL) + step.sequences if step.with_exit else 0


@kernel
def project_words(block, step, layer, scratch):
    """Compute a panel of `projected`, or the context of a sequence where the model has one."""
    panels = num_blocks(step.word_columns, PANEL)
    if block < panels:
        columns, column = step.word_columns, block * PANEL
        multiply_bytes(
            step.bytes,
            step.hidden,
            step.of_rows,
            step.rows,
            step.hidden,
            layer.words_weight + column * step.hidden,
            layer.words_columns + 4 * column,
            columns,
            step.projected + 4 * column,
            4 * columns,
        )
    elif step.is_contextual:
        _project_mean(block - panels, step, layer, scratch)


@kernel
def _project_mean(sequence, step, layer, scratch):
    """Project the mean of a sequence's words by the context's projections, and write it to `word_context`."""
    size, columns = step.hidden, _SIDES * step.rank
    start, words = words_of(step, sequence)
    first_row = carray(longs_at(step.first_row), (step.words,))
    state = carray(floats_at(step.state), (step.rows, size))
    mean = carray(floats_at(scratch), (size,))
    for index in range(size):
        mean[index] = _ZERO
    for word in range(start, start + words):
        for index in range(size):
            mean[index] += state[first_row[word], index]
    share = _ONE / np.float32(words)
    for index in range(size):
        mean[index] *= share
    of_mean, quantized = scratch + 4 * size, scratch + 4 * size + 4 * LANES
    scale = carray(floats_at(of_mean), (2,))
    scale[0], scale[1] = quantize_row(mean, carray(bytes_at(quantized), (size,)))
    out = step.word_context + 4 * columns * sequence
    for column in range(0, columns, PANEL):
        multiply_bytes(
            quantized,
            size,
            of_mean,
            1,
            size,
            layer.context_weight + column * size,
            layer.context_columns + 4 * column,
            columns,
            out + 4 * column,
            4 * columns,
        )


# words


@inlined
def blocks_of_words(step):
    """Return the number of blocks of words, once as first words and once as last words."""
    return step.sequences * _SIDES * num_blocks(step.longest_words, WORDS_OF_A_BLOCK) if step.with_exit else 0


@kernel
def mix_words(block, step, layer, scratch):
    """Add neighbours and context to some words of one side; write first words to `halves`, or last words to `ends`.

    scratch: (words + 2 reach, rank) the words and their neighbours, (words, rank) the result, and what
    `_add_neighbours` and `_multiply_first_words` quantise
    """
    chunks = num_blocks(step.longest_words, WORDS_OF_A_BLOCK)
    sequence, side, chunk = block // (_SIDES * chunks), block // chunks % _SIDES, block % chunks
    start, words = words_of(step, sequence)
    first, last = chunk * WORDS_OF_A_BLOCK, min(chunk * WORDS_OF_A_BLOCK + WORDS_OF_A_BLOCK, words)
    if first >= last:
        return
    rank, reach, count = step.rank, step.reach, last - first
    window_rows = count + 2 * reach
    window = carray(floats_at(scratch), (window_rows, rank))
    _window(step, start, words, first, side, window)
    mixed_at = scratch + 4 * rank * window_rows
    of_words = mixed_at + 4 * rank * count
    quantized = of_words + 8 * count
    if reach:
        _add_neighbours(step, layer, side, window, mixed_at, of_words, quantized)
    else:
        mixed_at = scratch
    mixed = carray(floats_at(mixed_at), (count, rank))
    if step.is_contextual:
        context = carray(floats_at(step.word_context + 4 * rank * (_SIDES * sequence + side)), (rank,))
        for word in range(count):
            add(mixed[word], context)
        activate(carray(floats_at(mixed_at), (count * rank,)), _GELU)
    if step.seen_words:
        for word in range(count):
            at = step.seen_words + 4 * rank * (_SIDES * (start + first + word) + side)
            copy(mixed[word], carray(floats_at(at), (rank,)))
    if side == 0:
        _multiply_first_words(step, layer, start, first, mixed, of_words, quantized)
    else:
        _place_last_words(step, sequence, start, words, first, mixed)


@kernel
def _window(step, start, words, first, side, out):
    """Copy a sequence's projected words of one side from `first` - reach on to `out`; zeros beyond its ends."""
    rank, columns = step.rank, step.word_columns
    at_last = side == 1 and step.ends_at_last_piece
    rows = carray(longs_at(step.last_row if at_last else step.first_row), (step.words,))
    projected = carray(floats_at(step.projected), (step.rows, columns))
    for index in range(len(out)):
        word = first - step.reach + index
        if 0 <= word < words:
            for column in range(rank):
                out[index, column] = projected[rows[start + word], side * rank + column]
        else:
            for column in range(rank):
                out[index, column] = _ZERO


@inlined
def _add_neighbours(step, layer, side, window, mixed_at, of_words, quantized):
    """Add their neighbours to the words of a window, (words + 2 reach, rank); write (words, rank) at `mixed_at`.

    of_words, quantized: addresses of (words, 2) floats and of (words + 2 reach, rank) bytes to work in
    """
    rank, reach = step.rank, step.reach
    count, numbers = len(window) - 2 * reach, len(window) * rank
    mixed = carray(floats_at(mixed_at), (count, rank))
    of_window = quantize_row(carray(floats_at(window.ctypes.data), (numbers,)), carray(bytes_at(quantized), (numbers,)))
    scales = carray(floats_at(of_words), (count, 2))
    for word in range(count):
        scales[word, 0], scales[word, 1] = of_window
    depth = (2 * reach + 1) * rank  # a word and its neighbours lie one after the other: a row of the product
    weight = layer.end_neighbours_weight if side else layer.start_neighbours_weight
    of_columns = layer.end_neighbours_columns if side else layer.start_neighbours_columns
    for column in range(0, rank, PANEL):
        multiply_bytes(
            quantized,
            rank,
            of_words,
            count,
            depth,
            weight + column * depth,
            of_columns + 4 * column,
            rank,
            mixed_at + 4 * column,
            4 * rank,
        )
    for word in range(count):
        add(mixed[word], window[reach + word])


@kernel
def _multiply_first_words(step, layer, start, first, mixed, of_words, quantized):
    """Write to `halves` what last words are multiplied by, for some first words.

    For each label these are the first word's projection through the bilinear form (rank), a 1 in the place of the
    label's score of the last word (labels), and the label's score of the first word.
    """
    count, rank = mixed.shape
    labels, columns = step.labels, step.half_columns
    scales = carray(floats_at(of_words), (count, 2))
    for index in range(count):
        scales[index, 0], scales[index, 1] = quantize_row(
            mixed[index], carray(bytes_at(quantized + index * rank), (rank,))
        )
    target = step.halves + 4 * columns * (start + first)
    for column in range(0, columns, PANEL):
        multiply_bytes(
            quantized,
            rank,
            of_words,
            count,
            rank,
            layer.bilinear_weight + column * rank,
            layer.bilinear_columns + 4 * column,
            columns,
            target + 4 * column,
            4 * columns,
        )
    halves = carray(floats_at(target), (count, columns))
    rows = carray(longs_at(step.first_row + 8 * (start + first)), (count,))
    projected = carray(floats_at(step.projected), (step.rows, step.word_columns))
    depth = rank + labels + 1
    for index in range(count):
        for label in range(labels):
            halves[index, depth * label + depth - 1] = projected[rows[index], _SIDES * rank + label]


@kernel
def _place_last_words(step, sequence, start, words, first, mixed):
    """Write some last words to `ends`, a column each: projection (rank), score of every label (labels), and a 1."""
    count, rank = mixed.shape
    labels = step.labels
    at_last = step.last_row if step.ends_at_last_piece else step.first_row
    rows = carray(longs_at(at_last + 8 * (start + first)), (count,))
    places = carray(longs_at(step.place_of_word + 8 * (start + first)), (count,))
    projected = carray(floats_at(step.projected), (step.rows, step.word_columns))
    ends = carray(floats_at(ends_of(step, sequence, start)), (rank + labels + 1, rounded_up(words, LANES)))
    for word in range(count):
        place = places[word]
        for index in range(rank):
            ends[index, place] = mixed[word, index]
        for label in range(labels):
            ends[rank + label, place] = projected[rows[word], _SIDES * rank + labels + label]
        ends[rank + labels, place] = _ONE
