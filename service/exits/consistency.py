"""How much two layers' span tables agree. Every measure is a consistency: larger means more alike.

Tables are packed: (cells, K) float32 log-probabilities of the valid cells of several sequences, one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_LOG_PROB = -30.0  # keeps a probability of 0 from making the divergence infinite


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Which sequence each cell of a packed table belongs to.

    sequence (cells,) index of the sequence
    counts   cells of every sequence: Z of Eq. 7
    """

    sequence: Tensor
    counts: tuple[int, ...]

    def mean(self, per_cell: Tensor) -> Tensor:
        """(cells,) -> (sequences,) float64 mean over every sequence's cells."""
        counts = torch.tensor(self.counts, device=per_cell.device, dtype=torch.float64)
        sums = torch.zeros(len(self.counts), device=per_cell.device, dtype=torch.float64)
        return sums.index_add_(0, self.sequence, per_cell.double()) / counts


def kl_divergence(earlier: Tensor, current: Tensor) -> Tensor:
    """KL(p_earlier || p_current) of every cell: (cells, K), (cells, K) -> (cells,), in nats.

    Log-probabilities are clamped at MIN_LOG_PROB.
    """
    earlier, current = earlier.clamp_min(MIN_LOG_PROB), current.clamp_min(MIN_LOG_PROB)
    return (earlier.exp() * (earlier - current)).sum(dim=1)


def kl_consistency(earlier: Tensor, current: Tensor, cells: Cells) -> Tensor:
    """-(mean over valid cells of KL(p_earlier || p_current)) / log K -> (sequences,) float64, in (-inf, 0].

    Eq. 7 of VEE-BERT without its leading minus: as printed it would grow with disagreement, against the text, which
    calls it the negative of the average divergence. 0 means identical; rounding never lifts it above 0.
    """
    divergence = cells.mean(kl_divergence(earlier, current)) / math.log(current.shape[1])
    return 0.0 - divergence.clamp_min(0.0)  # not the unary minus: identical tables are 0, not -0


@dataclass(frozen=True, slots=True)
class Consistency:
    """A measure of two tables, and the open-ended range in which a threshold for it makes sense."""

    compare: Callable[[Tensor, Tensor, Cells], Tensor]
    lowest: float
    highest: float


CONSISTENCIES: Mapping[tuple[str, str], Consistency] = {  # (measure, pooling)
    ("kl", "mean"): Consistency(kl_consistency, -math.inf, 0.0),
}
