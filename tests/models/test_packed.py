"""Rows of sequences, flat and padded, and where the cells of their tables lie: against plain enumeration."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.models.packed import Packed, Ragged, pack
from tests.models_ import random_sequences

CPU = torch.device("cpu")
seeded = settings(derandomize=True, deadline=None)
LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def packed_of(num_words: list[int]) -> Packed:
    return pack(random_sequences(num_words), CPU)


@seeded
@given(LENGTHS, st.integers(1, 3))
def test_flatten_undoes_pad(lengths: list[int], width: int) -> None:
    ragged = Ragged(tuple(lengths), CPU)
    rows = torch.arange(1, sum(lengths) * width + 1).view(-1, width)
    assert torch.equal(ragged.flatten(ragged.pad(rows)), rows)


@seeded
@given(LENGTHS)
def test_pad_lays_each_sequence_in_a_row_of_its_own_with_zeros_behind_it(lengths: list[int]) -> None:
    ragged = Ragged(tuple(lengths), CPU)
    rows = torch.arange(1, sum(lengths) + 1)
    padded = ragged.pad(rows[:, None]).squeeze(-1)
    assert padded.shape == (len(lengths), max(lengths))
    for row, values in zip(padded.tolist(), rows.split(lengths), strict=True):
        assert row == values.tolist() + [0] * (max(lengths) - len(values))


@seeded
@given(LENGTHS)
def test_the_mask_and_the_slots_tell_rows_from_padding(lengths: list[int]) -> None:
    ragged = Ragged(tuple(lengths), CPU)
    padded = ragged.pad(torch.ones(sum(lengths), 1))
    assert torch.equal(ragged.mask, padded.squeeze(-1).bool())
    assert ragged.slots.tolist() == padded.flatten().nonzero().squeeze(1).tolist()
    assert ragged.is_rectangular == bool(ragged.mask.all())


@seeded
@given(LENGTHS)
def test_what_is_sent_is_one_array_and_has_all_that_layers_and_exits_look_up(num_words: list[int]) -> None:
    packed, arrays = packed_of(num_words), []
    sent = packed.sent(lambda array: arrays.append(array) or array.clone())
    assert len(arrays) == 1 and (sent.pieces, sent.words) != (packed.pieces, packed.words)
    for found, expected in ((sent, packed), (sent.pieces, packed.pieces), (sent.words, packed.words)):
        there = vars(found).copy()  # with what is otherwise worked out on demand
        tensors = {name for name, value in there.items() if isinstance(value, torch.Tensor)}
        assert all(torch.equal(there[name], getattr(expected, name)) for name in tensors)
        assert all(there[name].dtype == getattr(expected, name).dtype for name in tensors)
    assert {"word_sequence", "cell_sequence", "cell_sizes", "cell_words", "first_piece"} <= vars(sent).keys()
    assert {"slots", "counts"} <= vars(sent.words).keys() and "cu_seqlens" in vars(sent.pieces)
    assert all(map(torch.equal, sent.cell_words, packed.cell_words))
    assert torch.equal(sent.label_slots(3), packed.label_slots(3))


def test_boundaries_are_where_sequences_begin_and_the_last_one_ends() -> None:
    bounds = Ragged((2, 3, 1), CPU).cu_seqlens
    assert (bounds.tolist(), bounds.dtype) == ([0, 2, 5, 6], torch.int32)


def test_pad_keeps_gradients() -> None:
    ragged = Ragged((2, 3), CPU)
    rows = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (ragged.pad(rows) * 2).sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert rows.grad.tolist() == [[2.0, 2.0]] * 5


@seeded
@given(LENGTHS, st.integers(1, 3), st.integers(1, 4))
def test_label_slots_and_cell_widths_are_those_of_a_plain_enumeration(
    num_words: list[int], scored: int, buckets: int
) -> None:
    packed = packed_of(num_words)
    longest = max(num_words)
    padded = torch.arange(len(num_words) * longest * scored * longest).view(len(num_words), longest, scored, longest)
    cells = [(s, first, last) for s, n in enumerate(num_words) for first in range(n) for last in range(first, n)]
    slots = [padded[sequence, first, :, last].tolist() for sequence, first, last in cells]
    assert packed.label_slots(scored).tolist() == slots
    assert packed.cell_widths(buckets).tolist() == [min(last - first, buckets - 1) for _, first, last in cells]
    owners = [sequence for sequence, _, _ in cells]
    assert packed.cell_sequence.tolist() == owners
    assert packed.cell_counts == tuple(owners.count(sequence) for sequence in range(len(num_words)))


@seeded
@given(LENGTHS)
def test_packing_keeps_every_piece_position_and_first_piece(num_words: list[int]) -> None:
    sequences = random_sequences(num_words)
    packed = pack(sequences, CPU)
    pieces = [piece for sequence in sequences for piece in sequence.piece_ids.tolist()]
    assert packed.piece_ids.tolist() == pieces
    assert packed.shape_ids.tolist() == [shape for sequence in sequences for shape in sequence.shape_ids.tolist()]
    assert packed.positions.tolist() == [place for sequence in sequences for place in range(sequence.num_pieces)]
    firsts = [sequence.piece_ids[place] for sequence in sequences for place in sequence.first_piece]
    assert packed.piece_ids[packed.first_piece].tolist() == firsts
    lasts = [sequence.piece_ids[place] for sequence in sequences for place in sequence.last_piece]
    assert packed.piece_ids[packed.last_piece].tolist() == lasts
    assert packed.pieces.lengths == tuple(sequence.num_pieces for sequence in sequences)
    assert packed.words.lengths == tuple(num_words)
