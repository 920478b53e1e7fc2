"""An exit on a GPU in three kernels, written in Triton: `project`, `score` and `finish`, in this order.

`triton_exit` lays out what they read and write, and launches them. No tile depends on the number of rows, sequences or
words of a step, and nothing is added up in an order that does, so a sequence has the same bits in every batch. Of
sequences without words, by which a step is filled up, nothing is found.

Triton compiles a kernel anew for numbers that are 1 or a multiple of 16, and for addresses that are aligned. What
differs from step to step is excepted from that: counts, and the arrays of int64, which lie end to end in one.
"""

from __future__ import annotations

import triton
import triton.language as tl

FIGURES = tl.constexpr(8)  # floats of a tile: the figures of SUMMARY, in its order, and two that are unused
FLOATS_OF_A_CANDIDATE = tl.constexpr(4)  # first word, last word, label, log-probability


@triton.jit(do_not_specialize=["words"], do_not_specialize_on_alignment=["first_piece", "last_piece", "word_starts"])
def project(
    state,  # (pieces, hidden) bfloat16, before the gain and bias of the layer's norm
    first_piece,  # (words,) int64 row
    last_piece,  # (words,) int64 row that is read of a last word
    word_starts,  # (sequences + 1,) int64
    high,  # (2, hidden, 2 RANK + LABELS) bfloat16: of first and last words; to the projection, its context, the scores
    low,  # the same: what the weights are beyond `high`
    constant,  # (2, 2 RANK + LABELS) float32
    neighbours,  # (2, 2 REACH + 1, RANK, RANK) float32
    projected,  # (2, words, RANK) float32, to work in
    seen,  # (2, words, RANK) float32, result: what the bilinear form reads
    linear,  # (2, words, LABELS) float32, result: the scores of single words
    words,
    hidden,
    RANK: tl.constexpr,
    LABELS: tl.constexpr,
    REACH: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Project the words of one sequence as first (side 0) or last words of spans (side 1)."""
    sequence, side = tl.program_id(0), tl.program_id(1)
    start = tl.load(word_starts + sequence)
    count = (tl.load(word_starts + sequence + 1) - start).to(tl.int32)
    columns: tl.constexpr = 2 * RANK + LABELS
    rank, label = tl.arange(0, RANK), tl.arange(0, LABELS)
    own_piece = first_piece
    if side == 1:
        own_piece = last_piece
    of_side = side * hidden * columns
    context = tl.zeros((RANK,), tl.float32)
    for begin in range(0, count, ROWS):
        row = begin + tl.arange(0, ROWS)
        is_word = row < count
        first = tl.load(first_piece + start + row, mask=is_word, other=0)
        own = tl.load(own_piece + start + row, mask=is_word, other=0)
        projection = tl.zeros((ROWS, RANK), tl.float32)
        of_context = tl.zeros((ROWS, RANK), tl.float32)
        scores = tl.zeros((ROWS, LABELS), tl.float32)
        for at in range(0, hidden, DEPTH):
            depth = at + tl.arange(0, DEPTH)
            is_real = is_word[:, None] & (depth < hidden)[None, :]
            own_state = tl.load(state + own[:, None] * hidden + depth[None, :], mask=is_real, other=0.0)
            first_state = tl.load(state + first[:, None] * hidden + depth[None, :], mask=is_real, other=0.0)
            weight = of_side + depth[:, None] * columns
            is_weight = (depth < hidden)[:, None]
            at_rank, at_label = weight + rank[None, :], weight + 2 * RANK + label[None, :]
            projection = tl.dot(own_state, tl.load(high + at_rank, mask=is_weight, other=0.0), projection)
            projection = tl.dot(own_state, tl.load(low + at_rank, mask=is_weight, other=0.0), projection)
            of_context = tl.dot(first_state, tl.load(high + at_rank + RANK, mask=is_weight, other=0.0), of_context)
            of_context = tl.dot(first_state, tl.load(low + at_rank + RANK, mask=is_weight, other=0.0), of_context)
            scores = tl.dot(own_state, tl.load(high + at_label, mask=is_weight, other=0.0), scores)
            scores = tl.dot(own_state, tl.load(low + at_label, mask=is_weight, other=0.0), scores)
        projection += tl.load(constant + side * columns + rank)[None, :]
        scores += tl.load(constant + side * columns + 2 * RANK + label)[None, :]
        word = (side * words + start + row)[:, None]
        tl.store(projected + word * RANK + rank[None, :], projection, mask=is_word[:, None])
        tl.store(linear + word * LABELS + label[None, :], scores, mask=is_word[:, None])
        context += tl.sum(tl.where(is_word[:, None], of_context, 0.0), axis=0)
    context = context / tl.maximum(count, 1) + tl.load(constant + side * columns + RANK + rank)
    tl.debug_barrier()  # what one thread wrote to `projected`, others read
    for begin in range(0, count, ROWS):
        row = begin + tl.arange(0, ROWS)
        is_word = row < count
        word = side * words + start + row
        own_at = projected + word[:, None] * RANK + rank[None, :]
        total = tl.load(own_at, mask=is_word[:, None], other=0.0) + context[None, :]
        if REACH > 0:
            for shift in range(2 * REACH + 1):
                beside = row + shift - REACH
                is_there = (beside >= 0) & (beside < count)
                at = projected + (word + shift - REACH)[:, None] * RANK + rank[None, :]
                their = tl.load(at, mask=is_there[:, None], other=0.0)
                matrix = (side * (2 * REACH + 1) + shift) * RANK * RANK + rank[:, None] * RANK + rank[None, :]
                total = tl.dot(their, tl.load(neighbours + matrix), total, input_precision="tf32x3")
        activated = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
        tl.store(seen + word[:, None] * RANK + rank[None, :], activated, mask=is_word[:, None])


@triton.jit(
    do_not_specialize=["words", "labels", "buckets", "tiles_of_last"],
    do_not_specialize_on_alignment=["word_starts", "cell_starts"],
)
def score(
    seen,  # as `project` leaves it
    linear,
    bilinear,  # (RANK, labels, RANK) float32
    bias,  # (buckets, labels) float32, by the span's width
    word_starts,  # (sequences + 1,) int64
    cell_starts,  # (sequences + 1,) int64
    best_label,  # (cells,) int32, result
    best_log_prob,  # (cells,) float32, result
    parts,  # (sequences, tiles, FIGURES) float32, result; of tiles without a cell nothing is written
    table,  # (cells, labels + 1) float32, result, where WITH_TABLE
    words,
    labels,
    buckets,
    tiles_of_last,  # how many tiles there are for every tile of first words
    RANK: tl.constexpr,
    LABELS: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    WITH_TABLE: tl.constexpr,
):
    """Score a tile of one sequence's cells: FIRST first words by LAST last ones."""
    sequence, tile = tl.program_id(0), tl.program_id(1)
    start = tl.load(word_starts + sequence)
    count = (tl.load(word_starts + sequence + 1) - start).to(tl.int32)
    begin, end = tile // tiles_of_last * FIRST, tile % tiles_of_last * LAST
    if (begin < count) & (end < count) & (begin < end + LAST):
        rank = tl.arange(0, RANK)
        first, last = begin + tl.arange(0, FIRST), end + tl.arange(0, LAST)
        own, other = start + first, words + start + last
        is_first, is_last = first < count, last < count
        is_cell = (first[:, None] <= last[None, :]) & is_last[None, :]
        begins = tl.load(seen + own[:, None] * RANK + rank[None, :], mask=is_first[:, None], other=0.0)
        ends = tl.load(seen + other[None, :] * RANK + rank[:, None], mask=is_last[None, :], other=0.0)
        width = tl.minimum(tl.maximum(last[None, :] - first[:, None], 0), buckets - 1)
        row = first.to(tl.int64)
        cell = tl.load(cell_starts + sequence) + (row * count - row * (row - 1) // 2 - row)[:, None] + last[None, :]
        highest = tl.zeros((FIRST, LAST), tl.float32)  # label 0 has score 0
        total = tl.full((FIRST, LAST), 1.0, tl.float32)  # of all shares exp(score - highest)
        weighted = tl.zeros((FIRST, LAST), tl.float32)  # of shares by their score - highest
        best = tl.zeros((FIRST, LAST), tl.int32)
        for label in range(labels):
            matrix = bilinear + rank[:, None] * labels * RANK + label * RANK + rank[None, :]
            half = tl.dot(begins, tl.load(matrix), input_precision="tf32x3")
            scores = tl.dot(half, ends, input_precision="tf32x3")
            scores += tl.load(linear + own * LABELS + label, mask=is_first, other=0.0)[:, None]
            scores += tl.load(linear + other * LABELS + label, mask=is_last, other=0.0)[None, :]
            scores += tl.load(bias + width * labels + label)
            best = tl.where(scores > highest, label + 1, best)
            higher = tl.maximum(scores, highest)
            scale, share = tl.exp(highest - higher), tl.exp(scores - higher)
            weighted = (weighted + total * (highest - higher)) * scale + share * (scores - higher)
            total = total * scale + share
            highest = higher
            if WITH_TABLE:
                tl.store(table + cell * (labels + 1) + label + 1, scores, mask=is_cell)
        doubt = tl.log(total)
        if WITH_TABLE:
            normalizer = highest + doubt
            tl.store(table + cell * (labels + 1), -normalizer, mask=is_cell)
            tl.debug_barrier()
            for label in range(labels):
                at = table + cell * (labels + 1) + label + 1
                tl.store(at, tl.load(at, mask=is_cell, other=0.0) - normalizer, mask=is_cell)
        tl.store(best_label + cell, best, mask=is_cell)
        tl.store(best_log_prob + cell, -doubt, mask=is_cell)
        confidence = tl.where(is_cell, 1.0 / total, 0.0)
        unsure = tl.where(is_cell, 1.0 - 1.0 / total, 0.0)
        entropy = tl.where(is_cell, (doubt - weighted / total) / tl.log(labels + 1.0), 0.0)
        part = parts + (sequence * tl.num_programs(1) + tile).to(tl.int64) * FIGURES
        tl.store(part, _largest(entropy))
        tl.store(part + 1, _sum(entropy))
        tl.store(part + 2, _sum(confidence))
        tl.store(part + 3, _sum(tl.where(is_cell, doubt, 0.0)))
        tl.store(part + 4, _largest(tl.where(best == 0, unsure, 0.0)))
        tl.store(part + 5, _largest(tl.where(best > 0, unsure, 0.0)))


@triton.jit(
    do_not_specialize=["tiles", "tiles_of_last"],
    do_not_specialize_on_alignment=["word_starts", "cell_starts"],
)
def finish(
    parts,  # as `score` leaves it
    best_label,
    best_log_prob,
    word_starts,  # (sequences + 1,) int64
    cell_starts,  # (sequences + 1,) int64
    found,  # result: (sequences, 6) figures of SUMMARY, (sequences,) numbers of candidates, (words, 4) candidates
    tiles,  # of a sequence in `parts`
    tiles_of_last,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Put together what was found in one sequence. A sequence has room for as many candidates as it has words."""
    sequence, sequences = tl.program_id(0), tl.num_programs(0)
    start, origin = tl.load(word_starts + sequence), tl.load(cell_starts + sequence)
    count = (tl.load(word_starts + sequence + 1) - start).to(tl.int32)
    cells = (tl.load(cell_starts + sequence + 1) - origin).to(tl.int32)
    figure = tl.arange(0, FIGURES)
    sums, largest = tl.zeros((FIGURES,), tl.float64), tl.zeros((FIGURES,), tl.float32)
    for of_first in range((count + FIRST - 1) // FIRST):
        for of_last in range(of_first * FIRST // LAST, (count + LAST - 1) // LAST):
            tile = (sequence * tiles + of_first * tiles_of_last + of_last).to(tl.int64)
            part = tl.load(parts + tile * FIGURES + figure, mask=figure < 6, other=0.0)
            sums += part.to(tl.float64)
            largest = tl.maximum(largest, part)
    is_mean, is_sum = (figure == 1) | (figure == 2), figure == 3
    means = (sums / tl.maximum(cells, 1).to(tl.float64)).to(tl.float32)
    figures = tl.where(is_mean, means, tl.where(is_sum, sums.to(tl.float32), largest))
    tl.store(found + sequence * 6 + figure, figures, mask=figure < 6)
    rows = found + sequences * 7 + start * FLOATS_OF_A_CANDIDATE
    position = tl.zeros((), tl.int32)
    for begin in range(0, cells, CELLS):
        cell = begin + tl.arange(0, CELLS)
        is_cell = cell < cells
        label = tl.load(best_label + origin + cell, mask=is_cell, other=0)
        is_candidate = label > 0
        one = is_candidate.to(tl.int32)
        place = position + tl.cumsum(one, axis=0) - 1
        has_room = is_candidate & (place < count)
        row = rows + place * FLOATS_OF_A_CANDIDATE
        first = _first_word(cell, count)
        tl.store(row, first.to(tl.float32), mask=has_room)
        tl.store(row + 1, (cell - _cells_before(first, count) + first).to(tl.float32), mask=has_room)
        tl.store(row + 2, label.to(tl.float32), mask=has_room)
        tl.store(row + 3, tl.load(best_log_prob + origin + cell, mask=has_room, other=0.0), mask=has_room)
        position += tl.sum(one, axis=0)
    tl.store(found + sequences * 6 + sequence, position.to(tl.float32))


@triton.jit
def _cells_before(first, count):
    """How many cells lie before those of a first word."""
    return first * count - first * (first - 1) // 2


@triton.jit
def _first_word(cell, count):
    """The first word of a cell: the root of `_cells_before`, which rounding may miss by one.

    Up to 2,047 words what the square root is taken of is exact in float32.
    """
    ends = (2 * count + 1).to(tl.float32)
    root = tl.sqrt(tl.maximum(ends * ends - 8.0 * cell.to(tl.float32), 0.0))
    first = ((ends - root) * 0.5).to(tl.int32)
    first = tl.where(_cells_before(first, count) > cell, first - 1, first)
    return tl.where(_cells_before(first + 1, count) <= cell, first + 1, first)


@triton.jit
def _sum(tile):
    return tl.sum(tl.sum(tile, axis=1), axis=0)


@triton.jit
def _largest(tile):
    return tl.max(tl.max(tile, axis=1), axis=0)
