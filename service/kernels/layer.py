"""One layer of an encoder and the exit after it over some packed sequences: the stages of a step.

A stage is a number of blocks that do not depend on each other, so that threads can share them; a stage begins when the
one before it is done.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from service.kernels import maths
from service.kernels.entities import choose
from service.kernels.rows import (
    PANEL,
    activate,
    add,
    apply_gain,
    attend,
    copy,
    inlined,
    kernel,
    multiply_bytes,
    multiply_floats,
    normalize_row,
    quantize_row,
    standardize_row,
    total,
)
from service.kernels.simd import (
    bytes_at,
    doubles_at,
    floats_at,
    longs_at,
    lowest_and_highest,
)
from service.kernels.tiles import LANES
from service.spans.table import SUMMARY

_LINEAR = ("weight", "columns")  # packed bytes; (3, columns) float32: steps, sums and biases of the columns

_EXIT_LINEARS = ("words", "context", "start_neighbours", "end_neighbours", "bilinear")

LAYER = np.dtype(
    [(f"{linear}_{part}", np.int64) for linear in ("qkv", "attended", "up", "down") for part in _LINEAR]
    + [
        (f"{norm}_{part}", np.int64)
        for norm in ("input_norm", "attention_norm", "exit_norm")
        for part in ("gain", "bias")
    ]
    + [(f"{linear}_{part}", np.int64) for linear in _EXIT_LINEARS for part in _LINEAR]
    + [("span_bias", np.int64)]
)
"""Addresses of a layer's and its exit's weights; see `service.models.quantized`, which lays them out.

input_norm  of the layer before, whose states the layer reads; 0 for layer 1
exit_norm   of the layer that the exit belongs to
words       hidden -> start projection (rank), end projection (rank), start scores, end scores (labels each); padded
context     hidden -> context of starts (rank) and of ends (rank), of the mean over a sequence's words
start_neighbours, end_neighbours
            (2 reach + 1) words' projections -> what they add to the word in the middle (rank)
bilinear    a first word (rank) -> for each label, what its last words are multiplied by (rank + labels + 1); padded
span_bias   (labels, longest_span) float32
"""

STEP = np.dtype(
    [
        (name, np.int64)
        for name in (
            # this step: sizes, what is wanted, and the layer, from 0
            *("rows", "sequences", "words", "longest_words", "cells", "layer", "with_exit", "with_table"),
            # rows that move, which come first; and whether some sequences are read word by word
            *("moving_rows", "by_word"),
            # the model
            *("hidden", "heads", "intermediate", "activation", "rank", "labels", "reach", "longest_span"),
            *("word_columns", "half_columns", "is_contextual", "ends_at_last_piece", "is_nested", "has_one_exit"),
            # embedding tables, float32
            *("pieces", "positions", "shapes", "token_type", "embedding_gain", "embedding_bias"),
            # int64: first row and word of every sequence and (+ 1) of nobody, first cell of every sequence
            *("row_starts", "word_starts", "cell_starts"),
            # int64: (words,) pieces of their sequence; (sequences,) addresses of states before and after the layer
            *("first_piece", "last_piece", "inputs", "outputs"),
            # (rows,) int64: what to look up in the embedding tables
            *("piece_ids", "position_ids", "shape_ids"),
            # int64: (words,) whether a word moves; (sequences,) whether a sequence is read word by word
            *("word_moves", "reads_words"),
            # worked out by `arrange`, int64: (rows,) the row of a piece, and the piece of a row; (sequences + 1,) where
            # each one's rows that move begin, and halted ones; (words,) rows of every word's ends; of a
            # sequence's words those first whose cells are new: (sequences,) how many, (words,) their order
            *("row_of_piece", "piece_of_row", "moving_starts", "halted_starts", "first_row", "last_row"),
            *("new_words", "place_of_word", "word_at_place"),
            # results: (cells, labels + 1) float32; (sequences, SUMMARY) float64; (sequences,) int64; (cells, 4) float32
            # and (words,) float32; (words, 2 * rank) float32 what the bilinear form reads of first and last words, or 0
            *("table", "summary", "num_found", "found", "uncertainty", "seen_words"),
            # to work in
            *("state", "sum", "qkv", "context", "expanded", "bytes", "of_rows", "wide_bytes"),
            *(
                "projected",
                "word_context",
                "halves",
                "ends",
                "parts",
                "parts_found",
                "parts_unsure",
                "unsure",
                "order",
                "scratch",
            ),
            "scratch_bytes",
        )
    ]
    + [("epsilon", np.float64)]
)
"""What every thread must know of a step: sizes, and addresses of the arrays."""

NUM_STAGES = 13
WORDS_OF_A_BLOCK = 28
STARTS_OF_A_BLOCK = 8
ROWS_OF_A_BLOCK = 4
PANELS_OF_A_BLOCK = 2
_ONE, _ZERO = np.float32(1), np.float32(0)
_NUM_SUMMARY = len(SUMMARY)


@kernel
def _ceil(count, size):
    return (count + size - 1) // size


@inlined
def blocks_of(stage, step):
    """How many blocks a stage has."""
    if stage >= 10 and not step.with_exit:
        return 0
    if stage in (0, 9):
        return _ceil(step.rows, ROWS_OF_A_BLOCK)
    if stage in (3, 5, 7):
        return _ceil(step.moving_rows, ROWS_OF_A_BLOCK)
    if stage == 1:
        return _ceil(3 * step.hidden, PANEL * PANELS_OF_A_BLOCK)
    if stage == 2:
        return step.sequences * step.heads
    if stage in (4, 8):
        return _ceil(step.hidden, PANEL * PANELS_OF_A_BLOCK)
    if stage == 6:
        return _ceil(step.intermediate, PANEL * PANELS_OF_A_BLOCK)
    if stage == 10:
        return _ceil(step.word_columns, PANEL) + step.sequences
    if stage == 11:
        return step.sequences * 2 * _ceil(step.longest_words, WORDS_OF_A_BLOCK)
    return step.sequences * _ceil(step.longest_words, STARTS_OF_A_BLOCK)


@inlined
def run_block(stage, block, step, layer, thread):
    scratch = step.scratch + thread * step.scratch_bytes
    hidden = step.hidden
    if stage == 0:
        _load_rows(block, step, layer)
    elif stage == 1:  # queries of the rows that move, keys and values of all
        _linear(block, step, step.bytes, hidden, layer.qkv_weight, layer.qkv_columns, step.qkv, 3 * hidden, hidden)
    elif stage == 2:
        _attention(block, step, scratch)
    elif stage == 3:
        _quantize_rows(block, step, step.context, hidden, step.bytes, -1)
    elif stage == 4:
        _linear(
            block, step, step.bytes, hidden, layer.attended_weight, layer.attended_columns, step.sum, hidden, hidden
        )
    elif stage == 5:
        _add_and_normalize(block, step, layer.attention_norm_gain, layer.attention_norm_bias)
    elif stage == 6:
        wide = step.intermediate
        _linear(block, step, step.bytes, hidden, layer.up_weight, layer.up_columns, step.expanded, wide, wide)
    elif stage == 7:
        _quantize_rows(block, step, step.expanded, step.intermediate, step.wide_bytes, step.activation)
    elif stage == 8:
        weight, columns = layer.down_weight, layer.down_columns
        _linear(block, step, step.wide_bytes, step.intermediate, weight, columns, step.sum, hidden, hidden)
    elif stage == 9:
        _store_rows(block, step, layer)
    elif stage == 10:
        _project_words(block, step, layer, scratch)
    elif stage == 11:
        _mix_words(block, step, layer, scratch)
    else:
        _score_spans(block, step, layer, scratch)


@kernel
def _sequence_of(row, starts, sequences):
    """Which sequence a row belongs to."""
    low, high = 0, sequences
    while high - low > 1:
        middle = (low + high) // 2
        if starts[middle] <= row:
            low = middle
        else:
            high = middle
    return low


@kernel
def _load_rows(block, step, layer):
    """The states before the layer as it reads them, or the embeddings, and their bytes."""
    size = step.hidden
    state = carray(floats_at(step.state), (step.rows, size))
    first = block * ROWS_OF_A_BLOCK
    for row in range(first, min(first + ROWS_OF_A_BLOCK, step.rows)):
        if step.layer == 0:
            _embed(row, step, state[row])
        else:
            gain = carray(floats_at(layer.input_norm_gain), (size,))
            bias = carray(floats_at(layer.input_norm_bias), (size,))
            apply_gain(carray(floats_at(_kept(row, step, step.inputs)), (size,)), gain, bias, state[row])
        _quantize(row, step, state[row], step.bytes)


@kernel
def _kept(row, step, states):
    """Address of what is kept of a row, among the sequences' states before or after the layer."""
    starts = carray(longs_at(step.row_starts), (step.sequences + 1,))
    piece = carray(longs_at(step.piece_of_row), (step.rows,))[row]
    sequence = _sequence_of(piece, starts, step.sequences)
    return carray(longs_at(states), (step.sequences,))[sequence] + 4 * step.hidden * (piece - starts[sequence])


@kernel
def _embed(row, step, out):
    size = step.hidden
    piece = carray(longs_at(step.piece_ids), (step.rows,))[row]
    position = carray(longs_at(step.position_ids), (step.rows,))[row]
    pieces = carray(floats_at(step.pieces + 4 * size * piece), (size,))
    positions = carray(floats_at(step.positions + 4 * size * position), (size,))
    token_type = carray(floats_at(step.token_type), (size,))
    for index in range(size):
        out[index] = pieces[index] + positions[index] + token_type[index]
    if step.shapes:
        shape = carray(longs_at(step.shape_ids), (step.rows,))[row]
        shapes = carray(floats_at(step.shapes + 4 * size * shape), (size,))
        for index in range(size):
            out[index] += shapes[index]
    gain, bias = carray(floats_at(step.embedding_gain), (size,)), carray(floats_at(step.embedding_bias), (size,))
    normalize_row(out, gain, bias, np.float32(step.epsilon))


@kernel
def _quantize(row, step, values, target):
    size = len(values)
    of_row = carray(floats_at(step.of_rows + 8 * row), (2,))
    of_row[0], of_row[1] = quantize_row(values, carray(bytes_at(target + row * size), (size,)))


@kernel
def _quantize_rows(block, step, source, size, target, activation):
    """The bytes of some rows that move, which first pass the activation; -1 is none."""
    first = block * ROWS_OF_A_BLOCK
    for row in range(first, min(first + ROWS_OF_A_BLOCK, step.moving_rows)):
        values = carray(floats_at(source + 4 * size * row), (size,))
        activate(values, activation)
        _quantize(row, step, values, target)


@kernel
def _linear(block, step, x, depth, weight, of_columns, out, columns, of_moving):
    """Some panels of x @ weight + bias: the first `of_moving` columns for the rows that move, the others for all."""
    first = block * PANELS_OF_A_BLOCK * PANEL
    for column in range(first, min(first + PANELS_OF_A_BLOCK * PANEL, columns), PANEL):
        multiply_bytes(
            x,
            depth,
            step.of_rows,
            step.moving_rows if column < of_moving else step.rows,
            depth,
            weight + column * depth,
            of_columns + 4 * column,
            columns,
            out + 4 * column,
            4 * columns,
        )


@kernel
def _attention(block, step, scratch):
    sequence, head = block // step.heads, block % step.heads
    starts = carray(longs_at(step.moving_starts), (step.sequences + 1,))
    start, rows = starts[sequence], starts[sequence + 1] - starts[sequence]
    halted_starts = carray(longs_at(step.halted_starts), (step.sequences + 1,))
    halted, halted_rows = halted_starts[sequence], halted_starts[sequence + 1] - halted_starts[sequence]
    size, stride = step.hidden // step.heads, 12 * step.hidden
    padded = _ceil(rows + halted_rows, LANES) * LANES
    target = step.context + 4 * (start * step.hidden + head * size)
    attend(
        step.qkv + start * stride,
        step.qkv + halted * stride,
        stride,
        rows,
        halted_rows,
        head,
        size,
        step.hidden,
        scratch,
        scratch + 4 * size * padded,
        scratch + 8 * size * padded,
        target,
        4 * step.hidden,
    )


@kernel
def _add_and_normalize(block, step, gain, bias):
    """state = LayerNorm(state + sum), and its bytes, of rows that move."""
    size = step.hidden
    gains, biases = carray(floats_at(gain), (size,)), carray(floats_at(bias), (size,))
    first = block * ROWS_OF_A_BLOCK
    for row in range(first, min(first + ROWS_OF_A_BLOCK, step.moving_rows)):
        state = carray(floats_at(step.state + 4 * size * row), (size,))
        add(state, carray(floats_at(step.sum + 4 * size * row), (size,)))
        normalize_row(state, gains, biases, np.float32(step.epsilon))
        _quantize(row, step, state, step.bytes)


@kernel
def _store_rows(block, step, layer):
    """What is kept of rows: LayerNorm(state + sum) before its gain and bias, or what was kept before.

    And for the exit the state as it reads it, and its bytes.
    """
    size = step.hidden
    gain, bias = carray(floats_at(layer.exit_norm_gain), (size,)), carray(floats_at(layer.exit_norm_bias), (size,))
    first = block * ROWS_OF_A_BLOCK
    for row in range(first, min(first + ROWS_OF_A_BLOCK, step.rows)):
        state = carray(floats_at(step.state + 4 * size * row), (size,))
        kept = carray(floats_at(_kept(row, step, step.outputs)), (size,))
        if row < step.moving_rows:
            add(state, carray(floats_at(step.sum + 4 * size * row), (size,)))
            standardize_row(state, np.float32(step.epsilon))
            copy(state, kept)
        else:
            copy(carray(floats_at(_kept(row, step, step.inputs)), (size,)), kept)
        if step.with_exit:
            apply_gain(kept, gain, bias, state)
            _quantize(row, step, state, step.bytes)


@kernel
def _project_words(block, step, layer, scratch):
    """A panel of every piece's projections, or a sequence's context; blocks of the two kinds."""
    panels = _ceil(step.word_columns, PANEL)
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
        _project_context(block - panels, step, layer, scratch)


@kernel
def _project_context(sequence, step, layer, scratch):
    """The mean of a sequence's words, through the context's projections."""
    size, columns = step.hidden, 2 * step.rank
    starts = carray(longs_at(step.word_starts), (step.sequences + 1,))
    first_row = carray(longs_at(step.first_row), (step.words,))
    state = carray(floats_at(step.state), (step.rows, size))
    mean = carray(floats_at(scratch), (size,))
    for index in range(size):
        mean[index] = _ZERO
    for word in range(starts[sequence], starts[sequence + 1]):
        for index in range(size):
            mean[index] += state[first_row[word], index]
    share = _ONE / np.float32(starts[sequence + 1] - starts[sequence])
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


@kernel
def _mix_words(block, step, layer, scratch):
    """Words of one side with their neighbours and context; first words through the bilinear form, last transposed."""
    chunks = _ceil(step.longest_words, WORDS_OF_A_BLOCK)
    sequence, side, chunk = block // (2 * chunks), block // chunks % 2, block % chunks
    starts = carray(longs_at(step.word_starts), (step.sequences + 1,))
    start, words = starts[sequence], starts[sequence + 1] - starts[sequence]
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
        mixed = carray(floats_at(mixed_at), (count, rank))
        of_window = quantize_row(
            carray(floats_at(scratch), (window_rows * rank,)), carray(bytes_at(quantized), (window_rows * rank,))
        )
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
    else:
        mixed_at = scratch
    mixed = carray(floats_at(mixed_at), (count, rank))
    if step.is_contextual:
        context = carray(floats_at(step.word_context + 4 * rank * (2 * sequence + side)), (rank,))
        for word in range(count):
            add(mixed[word], context)
        activate(carray(floats_at(mixed_at), (count * rank,)), 0)
    if step.seen_words:
        for word in range(count):
            at = step.seen_words + 4 * rank * (2 * (start + first + word) + side)
            copy(mixed[word], carray(floats_at(at), (rank,)))
    if side == 0:
        _multiply_first_words(step, layer, start, first, mixed, of_words, quantized)
    else:
        _place_last_words(step, sequence, start, words, first, mixed)


@kernel
def _multiply_first_words(step, layer, start, first, mixed, of_words, quantized):
    """What some first words' last words are multiplied by, to `halves`: for each label the projection through the

    bilinear form, a 1 in the place of the label's score of the last word, and the label's score of the first word.
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
            halves[index, depth * label + depth - 1] = projected[rows[index], 2 * rank + label]


@kernel
def _place_last_words(step, sequence, start, words, first, mixed):
    """Some last words to `ends`, a column each: their projections, their scores of every label, and a 1."""
    count, rank = mixed.shape
    labels = step.labels
    at_last = step.last_row if step.ends_at_last_piece else step.first_row
    rows = carray(longs_at(at_last + 8 * (start + first)), (count,))
    places = carray(longs_at(step.place_of_word + 8 * (start + first)), (count,))
    projected = carray(floats_at(step.projected), (step.rows, step.word_columns))
    ends = carray(floats_at(_ends_of(step, sequence, start)), (rank + labels + 1, _ceil(words, LANES) * LANES))
    for word in range(count):
        place = places[word]
        for index in range(rank):
            ends[index, place] = mixed[word, index]
        for label in range(labels):
            ends[rank + label, place] = projected[rows[word], 2 * rank + labels + label]
        ends[rank + labels, place] = _ONE


@kernel
def _window(step, start, words, first, side, out):
    """Rows first - reach, first - reach + 1, ... of a sequence's projected words of one side; zeros beyond its ends."""
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


@kernel
def _ends_of(step, sequence, start):
    """Address of a sequence's last words: (rank + labels + 1, padded words)."""
    return step.ends + 4 * (step.rank + step.labels + 1) * (start + LANES * sequence)


@kernel
def _score_spans(block, step, layer, scratch):
    """The cells of some first words of a sequence: summary, candidates, and if wanted the table and unsure words.

    Of a sequence that has halted words, only the cells of words that move, and no summary.
    """
    chunks = _ceil(step.longest_words, STARTS_OF_A_BLOCK)
    sequence, chunk = block // chunks, block % chunks
    starts = carray(longs_at(step.word_starts), (step.sequences + 1,))
    start, words = starts[sequence], starts[sequence + 1] - starts[sequence]
    summary = carray(doubles_at(step.parts + 8 * _NUM_SUMMARY * block), (_NUM_SUMMARY,))
    num_found = carray(longs_at(step.parts_found), (block + 1,))
    for figure in range(_NUM_SUMMARY):
        summary[figure] = 0.0
    num_found[block] = 0
    first, last = chunk * STARTS_OF_A_BLOCK, min(chunk * STARTS_OF_A_BLOCK + STARTS_OF_A_BLOCK, words)
    if first >= last:
        return
    if carray(longs_at(step.new_words), (step.sequences,))[sequence] < words:
        _score_new_spans(block, step, layer, scratch, sequence, first, last)
        return
    skipped = first // LANES * LANES  # last words come LANES at a time
    width = _ceil(words, LANES) * LANES - skipped
    labels, count = step.labels, last - first
    scores = carray(floats_at(scratch), (labels, count * width))
    figures = carray(floats_at(scratch + 4 * labels * count * width), (NUM_FIGURES, count * width))
    half = step.halves + 4 * step.half_columns * (start + first)
    ends = _ends_of(step, sequence, start) + 4 * skipped
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
    _weigh_cells(scores, figures)
    for figure in (_NORMALIZER, _ENTROPY, _UNSURE, _BEST):
        for index in range(count):
            for cell in range(index * width, index * width + first + index - skipped):
                figures[figure, cell] = _ZERO
            for cell in range(index * width + words - skipped, (index + 1) * width):
                figures[figure, cell] = _ZERO
    _keep_apart(figures)
    num_cells = _cell_of(words, last) - _cell_of(words, first)
    _sum_up(num_cells, figures, summary)
    if step.by_word:
        _note_unsure_words(step, block, start + first, count, skipped, figures)
    has_found = lowest_and_highest(figures[_BEST].ctypes.data, count * width)[1] > _ZERO
    if not (has_found or step.with_table):
        return
    origin = carray(longs_at(step.cell_starts), (step.sequences,))[sequence]
    room = (start + first) * step.longest_words
    for index in range(count):
        word = first + index
        cell = index * width + word - skipped
        if step.with_table:
            _write_table(step, origin + _cell_of(words, word), cell, words - word, scores, figures)
        if has_found:
            num_found[block] += _find(step, room + num_found[block], word, words, cell, figures)


@kernel
def _score_new_spans(block, step, layer, scratch, sequence, first, last):
    """The cells with a word that moves, whose first word is at the places first ... last - 1 of the sequence's words.

    At the first places are the words that move; who is there may begin any span, the others end theirs at such a word.
    """
    starts = carray(longs_at(step.word_starts), (step.sequences + 1,))
    start, words = starts[sequence], starts[sequence + 1] - starts[sequence]
    new = carray(longs_at(step.new_words), (step.sequences,))[sequence]
    word_at = carray(longs_at(step.word_at_place + 8 * start), (words,))
    columns = words if first < new else new
    width, count = _ceil(columns, LANES) * LANES, last - first
    labels, depth = step.labels, step.rank + step.labels + 1
    row = 4 * step.half_columns
    gathered = scratch + 4 * (labels + NUM_FIGURES) * count * width
    for index in range(count):
        half = carray(floats_at(step.halves + row * (start + word_at[first + index])), (step.half_columns,))
        copy(half, carray(floats_at(gathered + row * index), (step.half_columns,)))
    scores = carray(floats_at(scratch), (labels, count * width))
    figures = carray(floats_at(scratch + 4 * labels * count * width), (NUM_FIGURES, count * width))
    ends, stride = _ends_of(step, sequence, start), 4 * _ceil(words, LANES) * LANES
    for label in range(labels):
        out = scratch + 4 * label * count * width
        multiply_floats(gathered + 4 * depth * label, row, ends, stride, depth, out, 4 * width, count, width)
        bias = carray(floats_at(layer.span_bias + 4 * step.longest_span * label), (words,))
        for index in range(count):
            for place in range(columns):
                distance = word_at[place] - word_at[first + index]
                if distance >= 0:
                    scores[label, index * width + place] += bias[distance]
    _weigh_cells(scores, figures)
    origin = carray(longs_at(step.cell_starts), (step.sequences,))[sequence]
    found = carray(floats_at(step.found + 16 * (start + first) * step.longest_words), (count * columns, 4))
    position = 0
    for index in range(count):
        word = word_at[first + index]
        for place in range(width):
            cell = index * width + place
            is_new = place < columns and word_at[place] >= word and (first + index < new or place < new)
            if not is_new:
                figures[_ENTROPY, cell] = _ZERO
                continue
            if step.with_table:
                _write_table(step, origin + _cell_of(words, word) + word_at[place] - word, cell, 1, scores, figures)
            if figures[_BEST, cell] > _ZERO:
                found[position, 0], found[position, 1] = word, word_at[place]
                found[position, 2], found[position, 3] = figures[_BEST, cell], -figures[_NORMALIZER, cell]
                position += 1
    carray(longs_at(step.parts_found), (block + 1,))[block] = position
    _note_unsure_words(step, block, start + first, count, 0, figures)


@kernel
def _note_unsure_words(step, block, first, count, skipped, figures):
    """The largest entropy of each first word's cells, and among these of each last word's; by place."""
    width = figures.shape[1] // count
    unsure = carray(floats_at(step.unsure), (step.words,))
    size = _unsure_size(step)
    of_last = carray(floats_at(step.parts_unsure + 4 * block * size), (size,))
    for place in range(size):
        of_last[place] = _ZERO
    for index in range(count):
        row = figures[_ENTROPY, index * width : (index + 1) * width]
        unsure[first + index] = lowest_and_highest(row.ctypes.data, width)[1]
        _keep_highest(row, of_last[skipped : skipped + width])


@kernel
def _keep_highest(values, highest):
    for index in range(len(values)):
        highest[index] = max(highest[index], values[index])


@kernel
def _unsure_size(step):
    """Numbers that a block notes of last words."""
    return _ceil(step.longest_words, LANES) * LANES


@kernel
def _cell_of(words, word):
    """Cells of a sequence's table before those that begin with this word."""
    return word * words - word * (word - 1) // 2


# per cell: highest score of a label, sum of shares (then its logarithm), entropy, probability of anything but the best
# label, the same where the best is none and where it is an entity, and the best label
_HIGHEST, _NORMALIZER, _ENTROPY, _UNSURE, _MISSED, _WEAKEST, _BEST = range(7)
NUM_FIGURES = 7


@kernel
def _weigh_cells(scores, figures):
    """The first figures of every cell, label 0 having score 0."""
    labels, count = scores.shape
    highest, normalizer, entropy, unsure = figures[_HIGHEST], figures[_NORMALIZER], figures[_ENTROPY], figures[_UNSURE]
    best = figures[_BEST]
    for cell in range(count):
        highest[cell] = _ZERO
    for cell in range(count):
        best[cell] = _ZERO
    for label in range(labels):
        _keep_best(scores[label], np.float32(label + 1), highest, best)
    for cell in range(count):
        normalizer[cell] = maths.exp(-highest[cell])
    for cell in range(count):
        entropy[cell] = -normalizer[cell] * highest[cell]
    for label in range(labels):
        _add_share(scores[label], highest, normalizer, entropy)
    for cell in range(count):
        unsure[cell] = _ONE - _ONE / normalizer[cell]
    for cell in range(count):
        normalizer[cell] = maths.log(normalizer[cell])
    inverse = _ONE / maths.log(np.float32(labels + 1))
    for cell in range(count):
        entropy[cell] = (normalizer[cell] - entropy[cell] * (_ONE - unsure[cell])) * inverse


@kernel
def _keep_apart(figures):
    """How unsure cells are, those without an entity and those with one apart."""
    unsure, best, missed, weakest = figures[_UNSURE], figures[_BEST], figures[_MISSED], figures[_WEAKEST]
    for cell in range(len(unsure)):
        missed[cell] = unsure[cell] if best[cell] == _ZERO else _ZERO
    for cell in range(len(unsure)):
        weakest[cell] = unsure[cell] if best[cell] > _ZERO else _ZERO


@kernel
def _keep_best(scores, label, highest, best):
    for index in range(len(scores)):
        best[index] = label if scores[index] > highest[index] else best[index]
        highest[index] = max(highest[index], scores[index])


@kernel
def _add_share(scores, highest, normalizer, entropy):
    for index in range(len(scores)):
        relative = scores[index] - highest[index]
        share = maths.exp(relative)
        normalizer[index] += share
        entropy[index] += share * relative


@kernel
def _sum_up(num_cells, figures, summary):
    width = figures.shape[1]
    summary[0] = max(summary[0], lowest_and_highest(figures[_ENTROPY].ctypes.data, width)[1])
    summary[1] += total(figures[_ENTROPY])
    summary[2] += num_cells - total(figures[_UNSURE])
    summary[3] += total(figures[_NORMALIZER])
    summary[4] = max(summary[4], lowest_and_highest(figures[_MISSED].ctypes.data, width)[1])
    summary[5] = max(summary[5], lowest_and_highest(figures[_WEAKEST].ctypes.data, width)[1])


@kernel
def _write_table(step, cell, first, count, scores, figures):
    """Log-probabilities of `count` cells, label 0 first."""
    labels = step.labels
    table = carray(floats_at(step.table + 4 * (labels + 1) * cell), (count, labels + 1))
    for index in range(count):
        normalizer = figures[_HIGHEST, first + index] + figures[_NORMALIZER, first + index]
        table[index, 0] = -normalizer
        for label in range(labels):
            table[index, label + 1] = scores[label, first + index] - normalizer


@kernel
def _find(step, position, word, words, cell, figures):
    """Write the candidates (first word, last word, label, log-probability) that begin with `word`; -> how many."""
    found = carray(floats_at(step.found + 16 * position), (words - word, 4))
    best, normalizer = figures[_BEST], figures[_NORMALIZER]
    count = 0
    for last in range(word, words):
        at = cell + last - word
        if best[at] > _ZERO:
            found[count, 0], found[count, 1] = word, last
            found[count, 2], found[count, 3] = best[at], -normalizer[at]
            count += 1
    return count


@kernel
def gather_results(step):
    """Put together what the blocks of `_score_spans` found, and decode it; -> entities over all sequences."""
    chunks = _ceil(step.longest_words, STARTS_OF_A_BLOCK)
    starts = carray(longs_at(step.word_starts), (step.sequences + 1,))
    parts = carray(doubles_at(step.parts), (step.sequences * chunks, _NUM_SUMMARY))
    parts_found = carray(longs_at(step.parts_found), (step.sequences * chunks,))
    summaries = carray(doubles_at(step.summary), (step.sequences, _NUM_SUMMARY))
    num_found = carray(longs_at(step.num_found), (step.sequences,))
    reads_words = carray(longs_at(step.reads_words), (step.sequences,))
    found = carray(floats_at(step.found), (step.words * step.longest_words, 4))
    order = carray(longs_at(step.order), (step.cells,))
    position = 0
    for sequence in range(step.sequences):
        words = starts[sequence + 1] - starts[sequence]
        before = position
        for figure in range(_NUM_SUMMARY):
            summaries[sequence, figure] = 0.0
        for chunk in range(_ceil(words, STARTS_OF_A_BLOCK)):
            part = parts[sequence * chunks + chunk]
            for figure in (0, 4, 5):
                summaries[sequence, figure] = max(summaries[sequence, figure], part[figure])
            for figure in (1, 2, 3):
                summaries[sequence, figure] += part[figure]  # means are sums until the last chunk
            origin = (starts[sequence] + chunk * STARTS_OF_A_BLOCK) * step.longest_words
            for index in range(parts_found[sequence * chunks + chunk]):
                for field in range(4):
                    found[position, field] = found[origin + index, field]
                position += 1
        if reads_words[sequence]:  # its other cells are to join them
            num_found[sequence] = position - before
        else:
            num_found[sequence] = choose(found[before:position], order[before:position], step.is_nested)
            position = before + num_found[sequence]
        for figure in (1, 2):
            summaries[sequence, figure] /= _cell_of(words, words)
        if step.by_word:
            _gather_unsure_words(step, sequence, starts[sequence], words, chunks)
    return position


@kernel
def _gather_unsure_words(step, sequence, start, words, chunks):
    """How unsure each word of a sequence is, as the first and as the last word of cells."""
    size = _unsure_size(step)
    unsure = carray(floats_at(step.unsure + 4 * start), (words,))
    for chunk in range(_ceil(words, STARTS_OF_A_BLOCK)):
        at = step.parts_unsure + 4 * size * (sequence * chunks + chunk)
        _keep_highest(carray(floats_at(at), (words,)), unsure)
    uncertainty = carray(floats_at(step.uncertainty + 4 * start), (words,))
    place_of_word = carray(longs_at(step.place_of_word + 8 * start), (words,))
    for word in range(words):
        uncertainty[word] = unsure[place_of_word[word]]


@kernel
def arrange(steps):
    """Work out which rows move, and where everything lies, of a step; see STEP. steps: (1,) a record of STEP"""
    step = steps[0]
    starts = carray(longs_at(step.row_starts), (step.sequences + 1,))
    word_starts = carray(longs_at(step.word_starts), (step.sequences + 1,))
    first_piece = carray(longs_at(step.first_piece), (step.words,))
    last_piece = carray(longs_at(step.last_piece), (step.words,))
    moves = carray(longs_at(step.word_moves), (step.words,))
    row_of_piece = carray(longs_at(step.row_of_piece), (step.rows,))
    for piece in range(step.rows):
        row_of_piece[piece] = 1  # moves
    if step.by_word:
        for sequence in range(step.sequences):
            for word in range(word_starts[sequence], word_starts[sequence + 1]):
                if not moves[word]:
                    for piece in range(first_piece[word], last_piece[word] + 1):
                        row_of_piece[starts[sequence] + piece] = 0
    _place_rows(step, starts, row_of_piece)
    first_row = carray(longs_at(step.first_row), (step.words,))
    last_row = carray(longs_at(step.last_row), (step.words,))
    for sequence in range(step.sequences):
        for word in range(word_starts[sequence], word_starts[sequence + 1]):
            first_row[word] = row_of_piece[starts[sequence] + first_piece[word]]
            last_row[word] = row_of_piece[starts[sequence] + last_piece[word]]
        _place_words(step, sequence, word_starts[sequence], word_starts[sequence + 1], moves)


@kernel
def _place_rows(step, starts, row_of_piece):
    """Rows that move first, then halted ones; row_of_piece says first which is which, then where."""
    piece_of_row = carray(longs_at(step.piece_of_row), (step.rows,))
    moving_starts = carray(longs_at(step.moving_starts), (step.sequences + 1,))
    halted_starts = carray(longs_at(step.halted_starts), (step.sequences + 1,))
    moving = 0
    for piece in range(step.rows):
        moving += row_of_piece[piece]
    at, halted = 0, moving
    for sequence in range(step.sequences):
        moving_starts[sequence], halted_starts[sequence] = at, halted
        for piece in range(starts[sequence], starts[sequence + 1]):
            row = at if row_of_piece[piece] else halted
            at += row_of_piece[piece]
            halted += 1 - row_of_piece[piece]
            row_of_piece[piece] = row
            piece_of_row[row] = piece
    moving_starts[step.sequences], halted_starts[step.sequences] = at, halted
    step.moving_rows = moving


@kernel
def _place_words(step, sequence, first, last, moves):
    """Words whose cells are new first, each kind in the order of the sentence."""
    new_words = carray(longs_at(step.new_words), (step.sequences,))
    place_of_word = carray(longs_at(step.place_of_word), (step.words,))
    word_at_place = carray(longs_at(step.word_at_place), (step.words,))
    is_whole = step.has_one_exit or not step.by_word
    new = 0
    for word in range(first, last):
        new += 1 if is_whole or moves[word] else 0
    new_words[sequence] = new
    at, halted = 0, new
    for word in range(first, last):
        if is_whole or moves[word]:
            place, at = at, at + 1
        else:
            place, halted = halted, halted + 1
        place_of_word[word] = place
        word_at_place[first + place] = word - first
