"""Decides what a step is shown: which sequences share a batch, and the gold of their packed table."""

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
    """Put the indices of `sequences` into batches of like length, in random order.

    Who shares a batch with whom changes from epoch to epoch; how many batches there are does not.
    """
    shuffle = random.Random(f"{recipe.seed} {epoch}")
    order = list(range(len(sequences)))
    shuffle.shuffle(order)
    batches = length_buckets([sequences[index].input for index in order], recipe.batch_pieces)
    shuffle.shuffle(batches)
    return [[order[index] for index in batch] for batch in batches]


def gold_cells(sequences: Sequence[TrainingSequence]) -> Tensor:
    """(cells,) holds the gold label of every valid cell of the sequences' packed table."""
    counts = [num_cells(sequence.input.num_words) for sequence in sequences]
    cells = torch.zeros(sum(counts), dtype=torch.long)
    offset = 0
    for sequence, count in zip(sequences, counts, strict=True):
        for span in sequence.gold:
            cells[offset + cell_index(sequence.input.num_words, span.start, span.end - 1)] = span.label
        offset += count
    return cells
