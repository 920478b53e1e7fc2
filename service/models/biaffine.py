"""The exit: a biaffine classifier over pairs of words (Eq. 1 and 3 of VEE-BERT), in full and low-rank form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from service.models.config import ExitConfig
from service.models.packed import Packed


class BiaffineExit(nn.Module):
    """Scores every span of words: f(s, e) = h_s' U h_e + W' (h_s ++ h_e) + b, b by the span's width.

    U, W and b are those of the entity labels *relative to label 0*, whose score is 0: subtracting one label from all
    changes no probability and saves 1 / K of the work. In the low-rank form U = A U' B', A and B (hidden, rank) and U'
    (rank, labels, rank); in the full form A = B = 1. The paper's b is a constant; ours may also depend on the width.
    """

    def __init__(self, hidden_size: int, num_labels: int, config: ExitConfig, dropout: float = 0.0) -> None:
        """num_labels counts label 0 (K in the paper)."""
        super().__init__()
        scored = num_labels - 1
        rank = config.rank if config.form == "low_rank" else hidden_size
        self.start_projection = nn.Linear(hidden_size, rank, bias=False) if config.form == "low_rank" else None
        self.end_projection = nn.Linear(hidden_size, rank, bias=False) if config.form == "low_rank" else None
        self.bilinear = nn.Parameter(torch.zeros(rank, scored, rank))  # U
        self.start_linear = nn.Linear(hidden_size, scored, bias=False)  # the half of W for h_s
        self.end_linear = nn.Linear(hidden_size, scored, bias=False)  # the half of W for h_e
        self.bias = nn.Parameter(torch.zeros(max(config.width_buckets, 1), scored))  # b
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.bilinear, std=rank**-1.0)
        for linear in (self.start_projection, self.end_projection):
            if linear is not None:
                nn.init.normal_(linear.weight, std=hidden_size**-0.5)

    def forward(self, first_words: Tensor, last_words: Tensor, packed: Packed) -> Tensor:
        """States of every word as the first (h_s) and as the last (h_e) of a span -> scores of the packed table.

        (words, hidden), (words, hidden) -> (cells, K)
        """
        first_words, last_words = self.dropout(first_words), self.dropout(last_words)
        starts = first_words if self.start_projection is None else self.start_projection(first_words)
        ends = last_words if self.end_projection is None else self.end_projection(last_words)
        rank, scored, _ = self.bilinear.shape
        rows = packed.words
        half = starts @ self.bilinear.reshape(rank, scored * rank)  # (words, labels * rank): h_s' U
        left = rows.pad(half).view(rows.batch, rows.longest * scored, rank)
        right = rows.pad(ends).transpose(1, 2)  # (batch, rank, longest)
        products = (left @ right).view(rows.batch, rows.longest, scored, rows.longest).transpose(2, 3)
        scores = products.reshape(-1, scored).index_select(0, packed.cell_slots)  # (cells, labels)
        start_row, end_row = packed.cell_rows
        scores = scores + self.start_linear(first_words).index_select(0, start_row)
        scores = scores + self.end_linear(last_words).index_select(0, end_row)
        scores = scores + self.bias.index_select(0, (end_row - start_row).clamp_max(len(self.bias) - 1))
        return torch.cat([scores.new_zeros(len(scores), 1), scores], dim=1)
