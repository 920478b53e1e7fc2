"""Groups sequences of like length into packed batches under a budget: for training, evaluation and traces."""

from __future__ import annotations

from collections.abc import Sequence

from service.text.types import SequenceInput


def length_buckets(sequences: Sequence[SequenceInput], max_pieces: int) -> list[list[int]]:
    """Sort sequences by length and cut them into batches; -> the indices of each batch, shortest sequences first.

    max_pieces: the padded size of a batch, its longest sequence times how many there are, is at most this many pieces.

    A sequence longer than the budget is a batch of its own.
    """
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].num_pieces)
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * sequences[index].num_pieces <= max_pieces:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
