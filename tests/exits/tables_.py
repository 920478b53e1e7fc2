"""Random span tables for the tests of this folder. No test lives here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from service.exits.consistency import Cells
from service.spans.table import num_cells


def cells_of(num_words: Sequence[int]) -> Cells:
    """The cells of sequences with so many words each."""
    counts = tuple(num_cells(count) for count in num_words)
    return Cells(torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)), counts)


def random_tables(num_words: Sequence[int], num_layers: int, num_labels: int, seed: int) -> list[Tensor]:
    """Per layer a packed (cells, num_labels) float32 table of log-probabilities, from flat to very sure."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(cells_of(num_words).counts)
    sureness = 10 * torch.rand(total, 1, generator=generator)
    scores = (sureness * torch.randn(total, num_labels, generator=generator) for _ in range(num_layers))
    return [torch.log_softmax(layer, dim=1) for layer in scores]
