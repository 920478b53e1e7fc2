"""What one step is shown: every sequence once an epoch, and the gold of its table."""

from __future__ import annotations

from dataclasses import replace

import torch

from service.spans.types import Span
from service.training.batches import allowed_labels, epoch_batches
from service.training.sequences import TrainingSequence
from tests.models_ import random_sequences
from tests.training.toy_ import ANY_RECIPE

NUM_WORDS = (3, 1, 12, 7, 7, 2, 9, 20, 4)


def sequences(*gold: tuple[Span, ...]) -> list[TrainingSequence]:
    inputs = random_sequences(NUM_WORDS[: len(gold)] if gold else NUM_WORDS)
    return [TrainingSequence(sequence, spans) for sequence, spans in zip(inputs, gold or ((),) * 9, strict=True)]


def test_a_cell_may_have_its_gold_label_alone_in_the_upper_triangles_of_labelled_tables() -> None:
    spans = ((Span(0, 3, 2), Span(1, 2, 1)), (), (Span(11, 12, 3), Span(4, 9, 1)))
    expected = []
    for num_words, of_sequence in zip(NUM_WORDS, spans, strict=False):
        table = torch.zeros(num_words, num_words, dtype=torch.long)
        for start, end, label, _ in of_sequence:
            table[start, end - 1] = label
        expected += [int(table[first, last]) for first in range(num_words) for last in range(first, num_words)]
    allowed = allowed_labels(sequences(*spans), num_labels=4)
    assert allowed.long().argmax(dim=1).tolist() == expected
    assert allowed.sum(dim=1).eq(1).all()


def test_where_a_label_is_not_annotated_a_cell_without_entity_may_have_it_and_one_with_an_ignored_word_any() -> None:
    (plain,) = sequences((Span(0, 1, 2),))
    partial = replace(plain, unannotated=frozenset({1}), ignored=frozenset({2}))
    cells = {(0, 0): {2}, (0, 1): {0, 1}, (1, 1): {0, 1}, (0, 2): {0, 1, 2}, (1, 2): {0, 1, 2}, (2, 2): {0, 1, 2}}
    allowed = allowed_labels([partial, plain], num_labels=3)
    rows = [set(row.nonzero().squeeze(1).tolist()) for row in allowed]
    assert rows == [cells[cell] for cell in sorted(cells)] + [{2}, {0}, {0}, {0}, {0}, {0}]


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
