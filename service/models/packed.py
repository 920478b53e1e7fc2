"""Packed sequences: flat pieces with boundaries, and the padded view that batched matrix products need for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from service.spans.table import cell_words, num_cells
from service.spans.types import IntArray
from service.text.types import SequenceInput


@dataclass(frozen=True, eq=False)
class Ragged:
    """Says which rows of a flat (rows, ...) tensor are whose, and where they lie in a padded (batch, longest) one.

    lengths: how many rows each sequence has
    """

    lengths: tuple[int, ...]
    device: torch.device

    @property
    def batch(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @cached_property
    def counts(self) -> Tensor:
        """(batch, 1) rows of every sequence."""
        return torch.tensor(self.lengths, device=self.device)[:, None]

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """(batch + 1,) int32 where each sequence's rows begin, and where the last one's end."""
        return torch.tensor(list(accumulate(self.lengths, initial=0)), device=self.device, dtype=torch.int32)

    @cached_property
    def is_rectangular(self) -> bool:
        """Whether all sequences are equally long, so that padding adds nothing."""
        return min(self.lengths) == self.longest

    @cached_property
    def mask(self) -> Tensor:
        """(batch, longest) bool: which places of the padded form hold a row."""
        lengths = torch.tensor(self.lengths, device=self.device)
        return torch.arange(self.longest, device=self.device) < lengths[:, None]

    @cached_property
    def slots(self) -> Tensor:
        """(rows,) place of every row in the flattened padded form."""
        return self.mask.flatten().nonzero().squeeze(1)

    def pad(self, rows: Tensor) -> Tensor:
        """Pad rows: (rows, width) -> (batch, longest, width), zero where there is no row."""
        width = rows.shape[-1]
        if self.is_rectangular:
            return rows.view(self.batch, self.longest, width)
        padded = rows.new_zeros(self.batch * self.longest, width)
        return padded.index_copy(0, self.slots, rows).view(self.batch, self.longest, width)

    def flatten(self, padded: Tensor) -> Tensor:
        """Undo `pad`: (batch, longest, width) -> (rows, width)."""
        flat = padded.reshape(self.batch * self.longest, padded.shape[-1])
        return flat if self.is_rectangular else flat.index_select(0, self.slots)


@dataclass(frozen=True, eq=False)
class Active:
    """Some rows of packed sequences, ascending, that a layer moves on while the others are halted.

    index   (active pieces,)
    pieces  which of them are whose
    """

    index: Tensor
    pieces: Ragged


@dataclass(frozen=True, eq=False)
class Packed:
    """Some sequences, laid end to end, as encoder and exits read them.

    piece_ids, shape_ids, positions (pieces,)
    first_piece, last_piece         (words,) row of every word's first and last piece
    pieces, words                   which rows are whose
    """

    piece_ids: Tensor
    shape_ids: Tensor
    positions: Tensor
    first_piece: Tensor
    last_piece: Tensor
    pieces: Ragged
    words: Ragged
    _label_slots: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _cell_widths: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def word_sequence(self) -> Tensor:
        """(words,) which sequence a word belongs to."""
        counts = torch.tensor(self.words.lengths, device=self.piece_ids.device)
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)

    @cached_property
    def pieces_of_words(self) -> tuple[Tensor, Tensor]:
        """Rows of all pieces but the special ones, word by word, and (words,) how many each word has."""
        counts = self.last_piece - self.first_piece + 1
        ends = counts.cumsum(0)
        shift = (self.first_piece - ends + counts).repeat_interleave(counts)
        return torch.arange(len(shift), device=counts.device) + shift, counts

    def active(self, words: Tensor) -> Active:
        """Find the rows of some words, (words,) bool, and of the special pieces, which never halt."""
        rows, counts = self.pieces_of_words
        is_active = torch.ones(len(self.piece_ids), dtype=torch.bool, device=rows.device)
        is_active[rows] = words.repeat_interleave(counts)
        lengths = tuple(int(part.sum()) for part in is_active.split(self.pieces.lengths))
        return Active(is_active.nonzero().squeeze(1), Ragged(lengths, rows.device))

    def active_cells(self, words: Tensor) -> Tensor:
        """Find the cells that have a first or last word among some, (words,) bool; -> (cells,) bool."""
        first, last = self.words_of_cells
        return words[first] | words[last]

    @cached_property
    def words_of_cells(self) -> tuple[Tensor, Tensor]:
        """(cells,) first and (cells,) last word of every cell, counted over all sequences."""
        first, last = self.cell_words
        start = self.word_starts[self.cell_sequence]
        return start + first, start + last

    @cached_property
    def word_starts(self) -> Tensor:
        """(sequences + 1,) where each sequence's words begin, and where the last one's end."""
        return torch.tensor(list(accumulate(self.words.lengths, initial=0)), device=self.piece_ids.device)

    @cached_property
    def cell_starts(self) -> Tensor:
        """(sequences + 1,) where each sequence's cells begin, and where the last one's end."""
        return torch.tensor(list(accumulate(self.cell_counts, initial=0)), device=self.piece_ids.device)

    @cached_property
    def cell_counts(self) -> tuple[int, ...]:
        """Valid cells of every sequence's span table."""
        return tuple(num_cells(length) for length in self.words.lengths)

    @cached_property
    def cell_sizes(self) -> Tensor:
        """(sequences,) `cell_counts` on the device."""
        return torch.tensor(self.cell_counts, device=self.piece_ids.device)

    @cached_property
    def cell_sequence(self) -> Tensor:
        """(cells,) which sequence a cell of the packed table belongs to."""
        counts = self.cell_sizes
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)

    def label_slots(self, scored: int) -> Tensor:
        """(cells, scored) place of every cell's scores in a flattened (batch, longest, scored, longest) table."""
        if scored not in self._label_slots:
            longest = self.words.longest
            first, last = self.cell_words
            rows = (self.cell_sequence * longest + first) * scored  # of a cell's first label
            labels = torch.arange(scored, device=rows.device)
            self._label_slots[scored] = (rows[:, None] + labels) * longest + last[:, None]
        return self._label_slots[scored]

    def cell_widths(self, buckets: int) -> Tensor:
        """(cells,) words of every cell's span but one, at most buckets - 1."""
        if buckets not in self._cell_widths:
            first, last = self.cell_words
            self._cell_widths[buckets] = (last - first).clamp_max(buckets - 1)
        return self._cell_widths[buckets]

    @cached_property
    def cell_words(self) -> tuple[Tensor, Tensor]:
        """(cells,) first and (cells,) last word of every cell, counted within its sequence."""
        pairs = [cell_words(length) for length in self.words.lengths]
        first = np.concatenate([first for first, _ in pairs])
        last = np.concatenate([last for _, last in pairs])
        device = self.piece_ids.device
        return torch.from_numpy(first).to(device), torch.from_numpy(last).to(device)

    def sent(self, send: Callable[[Tensor], Tensor]) -> Packed:
        """Copy it to another device: all that layers and exits look up is worked out here, and sent as one array."""
        given = ("piece_ids", "shape_ids", "positions", "first_piece", "last_piece")
        derived = ("word_sequence", "word_starts", "cell_sizes", "cell_sequence", "cell_starts")
        first, last = self.cell_words
        parts: dict[str, Tensor] = {name: getattr(self, name) for name in given + derived}
        parts |= {"first": first, "last": last, "slots": self.words.slots, "counts": self.words.counts.squeeze(1)}
        parts["cu_seqlens"] = self.pieces.cu_seqlens.long()
        arrived = send(torch.cat(list(parts.values())))
        there = dict(zip(parts, arrived.split([len(part) for part in parts.values()]), strict=True))
        pieces, words = (Ragged(rows.lengths, arrived.device) for rows in (self.pieces, self.words))
        packed = Packed(**{name: there[name] for name in given}, pieces=pieces, words=words)
        # into the caches of what would otherwise be worked out there, where it would make the host wait for a GPU
        vars(pieces).update(cu_seqlens=there["cu_seqlens"].int())
        vars(words).update(slots=there["slots"], counts=there["counts"][:, None])
        vars(packed).update({name: there[name] for name in derived}, cell_words=(there["first"], there["last"]))
        return packed


def pack(sequences: Sequence[SequenceInput], device: torch.device) -> Packed:
    """Lay sequences end to end, on a device."""
    lengths = tuple(sequence.num_pieces for sequence in sequences)
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    first_row = torch.tensor(starts[:-1]).repeat_interleave(torch.tensor([len(s.first_piece) for s in sequences]))
    return Packed(
        piece_ids=_concatenate(s.piece_ids for s in sequences).to(device),
        shape_ids=_concatenate(s.shape_ids for s in sequences).to(device),
        positions=torch.cat([torch.arange(length) for length in lengths]).to(device),
        first_piece=(_concatenate(s.first_piece for s in sequences) + first_row).to(device),
        last_piece=(_concatenate(s.last_piece for s in sequences) + first_row).to(device),
        pieces=Ragged(lengths, device),
        words=Ragged(tuple(sequence.num_words for sequence in sequences), device),
    )


def _concatenate(arrays: Iterable[IntArray]) -> Tensor:
    return torch.from_numpy(np.concatenate(list(arrays)))
