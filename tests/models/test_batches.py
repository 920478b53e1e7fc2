"""Batches of like length: nothing lost, nothing twice, nothing over the budget but what cannot be helped."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from service.models.batches import length_buckets
from tests.models_ import random_sequences

seeded = settings(derandomize=True, deadline=None)
NUM_WORDS = st.lists(st.integers(1, 20), max_size=30)


@seeded
@given(NUM_WORDS, st.integers(1, 80))
def test_every_sequence_is_in_exactly_one_batch(num_words: list[int], max_pieces: int) -> None:
    batches = length_buckets(random_sequences(num_words), max_pieces)
    assert sorted(index for batch in batches for index in batch) == list(range(len(num_words)))
    assert all(batches)


@seeded
@given(NUM_WORDS, st.integers(1, 80))
def test_only_a_batch_of_one_may_be_over_the_budget(num_words: list[int], max_pieces: int) -> None:
    sequences = random_sequences(num_words)
    for batch in length_buckets(sequences, max_pieces):
        longest = max(sequences[index].num_pieces for index in batch)
        assert len(batch) == 1 or longest * len(batch) <= max_pieces


@seeded
@given(NUM_WORDS, st.integers(1, 80))
def test_lengths_never_fall_from_one_batch_to_the_next(num_words: list[int], max_pieces: int) -> None:
    sequences = random_sequences(num_words)
    lengths = [sequences[index].num_pieces for batch in length_buckets(sequences, max_pieces) for index in batch]
    assert lengths == sorted(lengths)


def test_two_sequences_share_a_batch_when_they_just_fit() -> None:
    short, long = sorted(random_sequences([3, 8]), key=lambda sequence: sequence.num_pieces)
    assert length_buckets([long, short], 2 * long.num_pieces) == [[1, 0]]
    assert length_buckets([long, short], 2 * long.num_pieces - 1) == [[1], [0]]
