"""Knows which sequence each cell of a packed span table belongs to, and pools figures of cells by sequence.

It does not know what the figures mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.spans.table import num_cells


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Pools figures of the cells of a packed table by sequence.

    sequence  (cells,) index of the sequence that each cell belongs to
    counts    how many valid cells each sequence has: Z of Eq. 7 of VEE-BERT
    sizes     (sequences,) the same numbers, on the device
    """

    sequence: Tensor
    counts: tuple[int, ...]
    sizes: Tensor

    @classmethod
    def of(cls, num_words: Sequence[int], device: torch.device) -> Cells:
        """Lay out the cells of sequences with these numbers of words, one after another."""
        counts = tuple(num_cells(words) for words in num_words)
        sizes = torch.tensor(counts, device=device)
        return cls(torch.arange(len(counts), device=device).repeat_interleave(sizes), counts, sizes)

    def sum(self, per_cell: Tensor) -> Tensor:
        """Sum a figure over the cells of every sequence, in order: (cells,) -> (sequences,) float64."""
        sums = torch.zeros(len(self.counts), device=per_cell.device, dtype=torch.float64)
        return sums.index_add_(0, self.sequence, per_cell.double())

    def mean(self, per_cell: Tensor) -> Tensor:
        """Average a figure over the cells of every sequence: (cells,) -> (sequences,) float64."""
        return self.sum(per_cell) / self.sizes

    def max(self, per_cell: Tensor) -> Tensor:
        """Find the largest figure of every sequence, or 0 if all are below 0: (cells,) -> (sequences,) float64."""
        largest = torch.zeros(len(self.counts), device=per_cell.device, dtype=torch.float64)
        return largest.scatter_reduce_(0, self.sequence, per_cell.double(), "amax")
