"""The records that kernels read: addresses of the weights of a layer, and the sizes and addresses of a step.

Nothing is computed here. `service.kernels.plan` says how large the arrays of a step are.
"""

from __future__ import annotations

import numpy as np

from service.spans.table import SUMMARY

# places of the figures of SUMMARY
ENTROPY_MAX, ENTROPY_MEAN, CONFIDENCE_MEAN, DOUBT, MISSED, WEAKEST = map(
    SUMMARY.index, ("entropy_max", "entropy_mean", "confidence_mean", "doubt", "missed", "weakest")
)
NUM_SUMMARY = len(SUMMARY)

# what one block of a stage covers at most
WORDS_OF_A_BLOCK = 28
STARTS_OF_A_BLOCK = 8  # first words of spans
ROWS_OF_A_BLOCK = 4
PANELS_OF_A_BLOCK = 2

_LINEAR = ("weight", "columns")
_NORM = ("gain", "bias")


def _fields(names: tuple[str, ...], parts: tuple[str, ...]) -> list[str]:
    return [f"{name}_{part}" for name in names for part in parts]


LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            *_fields(("qkv", "attended", "up", "down"), _LINEAR),
            *_fields(("input_norm", "attention_norm", "exit_norm"), _NORM),
            *_fields(("words", "context", "start_neighbours", "end_neighbours", "bilinear"), _LINEAR),
            "span_bias",
        )
    ]
)
"""Addresses of a layer's and its exit's weights; `service.executors.quantized` lays them out.

A matrix is two arrays: its weight as packed bytes, and its columns, (3, columns) float32: their steps, sums and biases.
A norm is two arrays, (hidden,) float32.

qkv         hidden -> query, key and value (hidden each)
attended    hidden -> hidden, after attention
up, down    hidden -> intermediate -> hidden
input_norm  is that of the layer before, whose states the layer reads; 0 for layer 1
exit_norm   is that of the layer that the exit belongs to
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
            # how many there are in this step
            *("rows", "sequences", "words", "longest_words", "cells"),
            # the layer, from 0; whether its exit is wanted, and whether the exit's table is
            *("layer", "with_exit", "with_table"),
            # how many rows move, which come first; whether some sequences are read word by word
            *("moving_rows", "by_word"),
            # sizes of the model; activation: see `rows.activate`; columns of `words` and of `bilinear`, see LAYER;
            # the largest distance in `relative_bias`
            *("hidden", "heads", "intermediate", "activation", "rank", "labels", "reach", "longest_span"),
            *("word_columns", "half_columns", "farthest"),
            # whether exits are contextual, read a last word at its last piece, may nest entities; whether there is one
            *("is_contextual", "ends_at_last_piece", "is_nested", "has_one_exit"),
            # addresses of the embedding tables, and of the gain and bias of their norm; of what attention adds by
            # distance, (heads, 2 farthest + 1), see `rows.attend`, 0: nothing
            *("pieces", "positions", "shapes", "token_type", "embedding_gain", "embedding_bias", "relative_bias"),
            # from here on addresses. Of a sequence: where its rows, words and cells begin; the addresses of its states
            # before and after the layer; whether it is read word by word
            *("row_starts", "word_starts", "cell_starts", "inputs", "outputs", "reads_words"),
            # of a word: its pieces, counted within the sequence; whether it moves
            *("first_piece", "last_piece", "word_moves"),
            # of a piece: what to look up in the embedding tables
            *("piece_ids", "position_ids", "shape_ids"),
            # worked out by `arrange`. The row of a piece, and the piece of a row; where a sequence's rows that move
            # begin, and where its halted ones do; the rows of a word's first and last piece
            *("row_of_piece", "piece_of_row", "moving_starts", "halted_starts", "first_row", "last_row"),
            # worked out by `arrange`. How many words of a sequence have new cells: these come first in the order in
            # which an exit works; the place of a word in this order, and the word at a place, within the sequence
            *("new_words", "place_of_word", "word_at_place"),
            # results: log-probabilities of cells; the summary of a sequence; how many entities it has, and all of them;
            # how unsure a word is; what the bilinear form reads of a word as a first and as a last one, 0: not wanted
            *("table", "summary", "num_found", "found", "uncertainty", "seen_words"),
            # to work in. Of a row: its state, what is to be added to it, its query, key and value, what attention and
            # `up` make of it, the bytes of what is multiplied next, and the step and low of these bytes
            *("state", "sum", "qkv", "context", "expanded", "bytes", "wide_bytes", "of_rows"),
            # to work in, for exits. Of a row: what `words` makes of it; of a sequence: the context; of first words:
            # what their last words are multiplied by; of last words: what they are multiplied with
            *("projected", "word_context", "halves", "ends"),
            # to work in, for exits. Of a block of cells: its part of the summary, how many entities it found, how
            # unsure its last words are; of a first word: how unsure; the order of candidates in decoding
            *("parts", "parts_found", "parts_unsure", "unsure", "order"),
            # to work in: `scratch_bytes` bytes for each thread
            *("scratch", "scratch_bytes"),
        )
    ]
    + [("epsilon", np.float64)]  # of every LayerNorm
)
"""What a thread needs to know of a step: its sizes and the addresses of its arrays (`plan.arrays`), 8 bytes each."""

PLACES = {name: place for place, name in enumerate(STEP.names or ())}
"""The place of each field among the int64 words of a record of STEP."""
