"""The exit: a biaffine classifier over pairs of words (Eq. 1 and 3 of VEE-BERT), full, low-rank or contextual."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.models.config import ExitConfig
from service.models.packed import Packed


class BiaffineExit(nn.Module):
    """Scores every span of words: f(s, e) = h_s' U h_e + W' (h_s ++ h_e) + b, b by the span's width.

    U, W and b are those of the entity labels *relative to label 0*, whose score is 0: subtracting one label from all
    changes no probability and saves 1 / K of the work. In the low-rank form U = A U' B', A and B (hidden, rank) and U'
    (rank, labels, rank); in the full form A = B = 1. The contextual form has g(A' h_s + C' c) for A' h_s, with c the
    mean over the sequence's words and g the GELU, and likewise for B. The paper's b is a constant; ours may depend on
    the width.
    """

    def __init__(self, hidden_size: int, num_labels: int, config: ExitConfig, dropout: float = 0.0) -> None:
        """num_labels counts label 0 (K in the paper)."""
        super().__init__()
        scored = num_labels - 1
        is_full, is_contextual = config.form == "full", config.form == "contextual"
        rank = hidden_size if is_full else config.rank
        self.start_projection = None if is_full else nn.Linear(hidden_size, rank, bias=is_contextual)
        self.end_projection = None if is_full else nn.Linear(hidden_size, rank, bias=is_contextual)
        self.start_context = nn.Linear(hidden_size, rank, bias=False) if is_contextual else None
        self.end_context = nn.Linear(hidden_size, rank, bias=False) if is_contextual else None
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
        context = _sequence_means(first_words, packed) if self.start_context is not None else None
        starts = self._project(first_words, self.start_projection, context, self.start_context, packed)
        ends = self._project(last_words, self.end_projection, context, self.end_context, packed)
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

    def _project(
        self,
        words: Tensor,
        projection: nn.Linear | None,
        context: Tensor | None,
        context_projection: nn.Linear | None,
        packed: Packed,
    ) -> Tensor:
        """(words, hidden) -> (words, rank), in the way of the exit's form."""
        if projection is None:
            return words
        projected: Tensor = projection(words)
        if context is None or context_projection is None:
            return projected
        of_sequences = context_projection(context)  # (sequences, rank)
        return functional.gelu(projected + of_sequences.index_select(0, packed.word_sequence))


def _sequence_means(words: Tensor, packed: Packed) -> Tensor:
    """(words, hidden) -> (sequences, hidden): summed word by word, so that batch mates change no bit of it."""
    sums = words.new_zeros(packed.words.batch, words.shape[1]).index_add(0, packed.word_sequence, words)
    return sums / torch.tensor(packed.words.lengths, device=words.device)[:, None]
