"""What one step is shown: every sequence once an epoch, and the gold of its table."""

from __future__ import annotations

from dataclasses import replace

import torch

from service.spans.types import Span
from service.training.batches import epoch_batches, gold_cells
from service.training.sequences import TrainingSequence
from tests.models_ import random_sequences
from tests.training.toy_ import ANY_RECIPE

NUM_WORDS = (3, 1, 12, 7, 7, 2, 9, 20, 4)


def sequences(*gold: tuple[Span, ...]) -> list[TrainingSequence]:
    inputs = random_sequences(NUM_WORDS[: len(gold)] if gold else NUM_WORDS)
    return [TrainingSequence(sequence, spans) for sequence, spans in zip(inputs, gold or ((),) * 9, strict=True)]


def test_gold_cells_are_the_upper_triangles_of_labelled_tables() -> None:
    spans = ((Span(0, 3, 2), Span(1, 2, 1)), (), (Span(11, 12, 3), Span(4, 9, 1)))
    expected = []
    for num_words, of_sequence in zip(NUM_WORDS, spans, strict=False):
        table = torch.zeros(num_words, num_words, dtype=torch.long)
        for start, end, label, _ in of_sequence:
            table[start, end - 1] = label
        expected += [int(table[first, last]) for first in range(num_words) for last in range(first, num_words)]
    assert gold_cells(sequences(*spans)).tolist() == expected


def test_an_epoch_shows_every_sequence_once_within_the_budget() -> None:
    batches = epoch_batches(sequences(), replace(ANY_RECIPE, batch_pieces=64), epoch=1)
    assert sorted(index for batch in batches for index in batch) == list(range(len(NUM_WORDS)))
    longest = [max(sequences()[index].input.num_pieces for index in batch) for batch in batches]
    assert all(len(batch) * pieces <= 64 for batch, pieces in zip(batches, longest, strict=True))


def test_the_batches_of_an_epoch_depend_on_its_number_and_the_seed_alone() -> None:
    recipe = replace(ANY_RECIPE, batch_pieces=64)
    first = epoch_batches(sequences(), recipe, epoch=1)
    assert epoch_batches(sequences(), recipe, epoch=1) == first
    assert epoch_batches(sequences(), recipe, epoch=2) != first
    assert epoch_batches(sequences(), replace(recipe, seed=2), epoch=1) != first


def test_every_epoch_has_as_many_batches() -> None:
    recipe = replace(ANY_RECIPE, batch_pieces=64)
    assert len({len(epoch_batches(sequences(), recipe, epoch)) for epoch in range(1, 20)}) == 1
