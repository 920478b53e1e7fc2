"""Which sequence each cell of a packed span table belongs to, and how figures of cells are pooled by sequence.

What the figures are is not said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.spans.table import num_cells


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Which sequence each cell of a packed table belongs to.

    sequence (cells,) index of the sequence
    counts   cells of every sequence: Z of Eq. 7 of VEE-BERT
    sizes    (sequences,) the same, on the device
    """

    sequence: Tensor
    counts: tuple[int, ...]
    sizes: Tensor

    @classmethod
    def of(cls, num_words: Sequence[int], device: torch.device) -> Cells:
        """Lay out the cells of sequences of so many words, one after another."""
        counts = tuple(num_cells(words) for words in num_words)
        sizes = torch.tensor(counts, device=device)
        return cls(torch.arange(len(counts), device=device).repeat_interleave(sizes), counts, sizes)

    def sum(self, per_cell: Tensor) -> Tensor:
        """Sum over every sequence's cells, cell by cell: (cells,) -> (sequences,) float64."""
        sums = torch.zeros(len(self.counts), device=per_cell.device, dtype=torch.float64)
        return sums.index_add_(0, self.sequence, per_cell.double())

    def mean(self, per_cell: Tensor) -> Tensor:
        """Average over every sequence's cells: (cells,) -> (sequences,) float64."""
        return self.sum(per_cell) / self.sizes

    def max(self, per_cell: Tensor) -> Tensor:
        """Find the largest of every sequence's cells, or 0 where all are below: (cells,) -> (sequences,) float64."""
        largest = torch.zeros(len(self.counts), device=per_cell.device, dtype=torch.float64)
        return largest.scatter_reduce_(0, self.sequence, per_cell.double(), "amax")
