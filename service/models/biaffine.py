"""The exit: a biaffine classifier over pairs of words (Eq. 1 and 3 of VEE-BERT), full, low-rank or contextual."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.models.config import ExitConfig
from service.models.packed import Packed, Ragged

Projections = tuple[Tensor, Tensor]  # (words, rank) of every word as the first and as the last one of a span


class BiaffineExit(nn.Module):
    """Scores every span of words: f(s, e) = h_s' U h_e + W' (h_s ++ h_e) + b, b by the span's width.

    U, W and b are those of the entity labels *relative to label 0*, whose score is 0: subtracting one label from all
    changes no probability and saves 1 / K of the work. In the low-rank form U = A U' B', A and B (hidden, rank) and U'
    (rank, labels, rank); in the full form A = B = 1. The contextual form has g(A' h_s + C' c + sum_j N_j' A' h_{s+j})
    for A' h_s, with c the mean over the sequence's words, j from -reach to reach within the sequence, and g the GELU;
    likewise for B. The paper's b is a constant; ours may depend on the width.
    """

    def __init__(self, hidden_size: int, num_labels: int, config: ExitConfig, dropout: float = 0.0) -> None:
        """num_labels: K in the paper, which counts label 0."""
        super().__init__()
        scored = num_labels - 1
        is_full, is_contextual = config.form == "full", config.form == "contextual"
        rank = hidden_size if is_full else config.rank
        self.start_projection = None if is_full else nn.Linear(hidden_size, rank, bias=is_contextual)
        self.end_projection = None if is_full else nn.Linear(hidden_size, rank, bias=is_contextual)
        self.start_context = nn.Linear(hidden_size, rank, bias=False) if is_contextual else None
        self.end_context = nn.Linear(hidden_size, rank, bias=False) if is_contextual else None
        self.neighbours = _Neighbours(rank, config.reach) if is_contextual and config.reach else None
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
        """Score all spans from states of first words h_s and of last words h_e, (words, hidden) each; -> (cells, K)."""
        return self.score(first_words, last_words, packed)[0]

    def score(self, first_words: Tensor, last_words: Tensor, packed: Packed) -> tuple[Tensor, Projections]:
        """Score all spans as `forward` does; -> the scores, and what the bilinear form reads of every word."""
        first_words, last_words = self.dropout(first_words), self.dropout(last_words)
        starts, ends = self._project(first_words, last_words, packed)
        rank, scored, _ = self.bilinear.shape
        rows = packed.words
        half = starts @ self.bilinear.reshape(rank, scored * rank)  # (words, labels * rank): h_s' U
        left = rows.pad(half).view(rows.batch, rows.longest * scored, rank)
        right = rows.pad(ends).transpose(1, 2)  # (batch, rank, longest)
        table = (left @ right).view(rows.batch, rows.longest, scored, rows.longest)
        table = table + rows.pad(self.start_linear(first_words))[..., None]
        table = table + rows.pad(self.end_linear(last_words)).transpose(1, 2)[:, None]
        scores = table.flatten()[packed.label_slots(scored)]  # (cells, labels)
        scores = scores + self.bias.index_select(0, packed.cell_widths(len(self.bias)))
        return functional.pad(scores, (1, 0)), (starts, ends)

    def _project(self, first_words: Tensor, last_words: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """Project first and last words, (words, hidden) each, to what the bilinear form reads, (words, rank) each."""
        if self.start_projection is None or self.end_projection is None:
            return first_words, last_words
        starts, ends = self.start_projection(first_words), self.end_projection(last_words)
        if self.start_context is None or self.end_context is None:
            return starts, ends
        both = torch.stack([starts, ends])  # (2, words, rank)
        means = _sequence_means(first_words, packed)
        contexts = torch.stack([self.start_context(means), self.end_context(means)])  # (2, sequences, rank)
        seen = both + contexts.index_select(1, packed.word_sequence)
        if self.neighbours is not None:
            seen = seen + self.neighbours(both, packed.words)
        starts, ends = functional.gelu(seen)
        return starts, ends


class _Neighbours(nn.Module):
    """A convolution over the words of each sequence, one for first and one for last words; nothing beyond the ends."""

    def __init__(self, rank: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.weight = nn.Parameter(torch.empty(2, (2 * reach + 1) * rank, rank))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, both: Tensor, words: Ragged) -> Tensor:
        """Mix every word with its neighbours, in one matrix product a side: (2, words, rank) -> (2, words, rank)."""
        rank = both.shape[2]
        sides = [words.pad(side) for side in both]
        padded = functional.pad(
            torch.stack(sides), (0, 0, self.reach, self.reach)
        )  # (2, batch, longest + 2 reach, rank)
        beside = [padded[:, :, shift : shift + words.longest] for shift in range(2 * self.reach + 1)]
        rows = torch.cat(beside, dim=3).view(2, -1, (2 * self.reach + 1) * rank)
        mixed = rows @ self.weight
        return mixed if words.is_rectangular else mixed.index_select(1, words.slots)


def _sequence_means(words: Tensor, packed: Packed) -> Tensor:
    """(words, hidden) -> (sequences, hidden): summed word by word, so that batch mates change no bit of it."""
    counts = packed.words.counts
    return torch.segment_reduce(words, "sum", lengths=counts.squeeze(1), unsafe=True) / counts
