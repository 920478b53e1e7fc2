"""Prepares a step before its stages where words are halted: which rows move, and the order of rows and words."""

from __future__ import annotations

from numba import carray

from service.kernels.rows import kernel
from service.kernels.simd import longs_at


@kernel
def arrange(steps):
    """Work out which rows move and where they and the words lie, and write it where STEP says.

    steps: (1,) a record of STEP
    """
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
    """Place rows that move first, and halted ones after them.

    row_of_piece: (rows,) on entry whether each piece moves; on return the row of each piece
    """
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
    """Order the words of a sequence: first those with new cells, then the others, each in the order of the sentence."""
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
