"""Makes the batches of training: which sequences share one, and the gold labels of their packed table."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from service.models.batches import length_buckets
from service.spans.table import cell_index, num_cells
from service.training.recipe import Recipe
from service.training.sequences import TrainingSequence


def epoch_batches(sequences: Sequence[TrainingSequence], recipe: Recipe, epoch: int) -> list[list[int]]:
    """Return batches of indices of `sequences` of similar length, in random order.

    Which sequences share a batch changes from epoch to epoch; the number of batches does not.
    """
    shuffle = random.Random(f"{recipe.seed} {epoch}")
    order = list(range(len(sequences)))
    shuffle.shuffle(order)
    batches = length_buckets([sequences[index].input for index in order], recipe.batch_pieces)
    shuffle.shuffle(batches)
    return [[order[index] for index in batch] for batch in batches]


def gold_cells(sequences: Sequence[TrainingSequence]) -> Tensor:
    """Return the gold label of every valid cell of the sequences' packed table: (cells,)."""
    counts = [num_cells(sequence.input.num_words) for sequence in sequences]
    cells = torch.zeros(sum(counts), dtype=torch.long)
    offset = 0
    for sequence, count in zip(sequences, counts, strict=True):
        for span in sequence.gold:
            cells[offset + cell_index(sequence.input.num_words, span.start, span.end - 1)] = span.label
        offset += count
    return cells
