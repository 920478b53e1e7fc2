"""Groups sequences of like length into packed batches under a budget: for training, evaluation and traces."""

from __future__ import annotations

from collections.abc import Sequence

from service.text.types import SequenceInput


def length_buckets(sequences: Sequence[SequenceInput], max_pieces: int) -> list[list[int]]:
    """Indices of `sequences` in batches whose padded size (longest * count) is at most `max_pieces`, shortest first.

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
