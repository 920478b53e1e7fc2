"""Makes the batches of training: which sequences share one, and the labels that the cells of its table may have."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.models.batches import length_buckets
from service.spans.table import cell_index, cell_words, num_cells
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


def allowed_labels(sequences: Sequence[TrainingSequence], num_labels: int) -> Tensor:
    """Return which labels every valid cell of the sequences' packed table may have: (cells, K) of bool.

    The cell of a gold entity has its label alone, any other none (label 0) or a label that is not annotated there. A
    cell with an ignored word may have any label.
    """
    counts = [num_cells(sequence.input.num_words) for sequence in sequences]
    allowed = torch.zeros(sum(counts), num_labels, dtype=torch.bool)
    allowed[:, 0] = True
    offset = 0
    for sequence, count in zip(sequences, counts, strict=True):
        words = sequence.input.num_words
        of_sequence = allowed[offset : offset + count]
        for label in sequence.unannotated:
            of_sequence[:, label] = True
        if sequence.ignored:
            before = np.zeros(words + 1, dtype=np.int64)  # how many ignored words there are before each
            before[[word + 1 for word in sequence.ignored]] = 1
            before = before.cumsum()
            first, last = cell_words(words)
            of_sequence[torch.from_numpy(before[last + 1] > before[first])] = True
        for span in sequence.gold:
            cell = of_sequence[cell_index(words, span.start, span.end - 1)]
            cell.fill_(False)
            cell[span.label] = True
        offset += count
    return allowed
