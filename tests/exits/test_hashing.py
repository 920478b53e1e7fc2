"""HashEE: which layer a word gets, by tables given and tables made."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from service.exits.policies.hashee import DRAWN, HashedLayers, HashEE, layer_of_bucket, word_layers
from service.exits.words import WordProgress, work_of_pieces
from service.models.config import Hash
from service.training.piece_layers import count_tags, make_piece_layers
from tests.models_ import random_sequences

VOCABULARY = 100
HASHES: tuple[Hash, ...] = get_args(Hash)


def test_buckets_leave_at_even_steps_and_the_last_takes_what_is_over() -> None:
    assert layer_of_bucket(np.arange(5), 12, 4).tolist() == [1, 4, 7, 10, 10]
    assert layer_of_bucket(np.arange(3), 6, 3).tolist() == [1, 3, 5]
    assert layer_of_bucket(np.arange(6), 6, 6).tolist() == [1, 2, 3, 4, 5, 6]


def test_a_word_leaves_with_its_last_piece_and_special_pieces_count_for_none() -> None:
    (sequence,) = random_sequences([6])
    table = np.arange(VOCABULARY, dtype=np.uint8) % 6 + 1
    table[[2, 3]] = 6  # the special ones
    for word, layer in enumerate(word_layers(sequence, table, 6, 3).tolist()):
        pieces = sequence.piece_ids[sequence.first_piece[word] : sequence.last_piece[word] + 1]
        assert layer == max(table[pieces])


def test_drawn_layers_differ_from_place_to_place_and_are_the_same_every_time() -> None:
    (sequence,) = random_sequences([60])
    table = np.full(VOCABULARY, DRAWN, dtype=np.uint8)
    found = word_layers(sequence, table, 6, 3)
    assert np.array_equal(found, word_layers(sequence, table, 6, 3))
    assert set(found.tolist()) == {1, 3, 5}
    same = random_sequences([40], vocab_size=7)[0]  # two pieces again and again
    layers = word_layers(same, table, 6, 3)
    assert len(set(layers.tolist())) > 1


def tags() -> np.ndarray:
    """Piece 10 is always an entity of label 1, 11 never one, 12 either; 13 is rare; all others unseen."""
    counts = np.zeros((VOCABULARY, 3), dtype=np.int64)
    counts[10], counts[11], counts[12], counts[13] = (0, 50, 0), (900, 0, 0), (40, 30, 30), (1, 0, 0)
    return counts


@pytest.mark.parametrize("hash_", HASHES)
def test_every_hash_sends_what_it_never_saw_to_the_last_layer(hash_: Hash) -> None:
    points = np.random.default_rng(0).normal(size=(VOCABULARY, 8))
    found = make_piece_layers(hash_, tags(), points, num_layers=4, buckets=2, seed=1)
    assert np.all(np.delete(found, [10, 11, 12, 13]) == 4)
    seen = found[[10, 11, 12, 13]]
    if hash_ == "random":
        assert np.all(seen == DRAWN)
    else:
        assert set(seen.tolist()) == {1, 3}
    if hash_ in ("random_consistent", "frequency", "mutual_information", "tag_entropy"):
        assert sorted(seen.tolist()) == [1, 1, 3, 3]  # as many kinds of pieces in each bucket
    assert np.array_equal(found, make_piece_layers(hash_, tags(), points, num_layers=4, buckets=2, seed=1))


def test_by_which_order_pieces_leave() -> None:
    points = np.zeros((VOCABULARY, 2))
    points[[10, 11, 12, 13]] = [[5, 0], [5, 0.1], [0.1, 0], [0, 0.1]]

    def first_to_leave(hash_: Hash) -> set[int]:
        found = make_piece_layers(hash_, tags(), points, num_layers=4, buckets=2, seed=1)
        return {piece for piece in (10, 11, 12, 13) if found[piece] == 1}

    assert first_to_leave("frequency") == {11, 12}
    assert first_to_leave("mutual_information") == {10, 11}
    assert first_to_leave("tag_entropy") == {10, 11}
    assert first_to_leave("clustered") == {12, 13}  # the cluster with the smaller norms


def test_tags_are_counted_piece_by_piece() -> None:
    sequences = random_sequences([3, 2])
    labels = [np.array([0, 1, 1]), np.array([2, 0])]
    counts = count_tags(sequences, labels, VOCABULARY, 3)
    expected = np.zeros_like(counts)
    for sequence, of_words in zip(sequences, labels, strict=True):
        for word, label in enumerate(of_words):
            for place in range(sequence.first_piece[word], sequence.last_piece[word] + 1):
                expected[sequence.piece_ids[place], label] += 1
    assert np.array_equal(counts, expected)
    assert counts.sum() == sum(sequence.num_pieces - 2 for sequence in sequences)


def test_what_a_sequence_comes_to_is_known_before_it_runs() -> None:
    (sequence,) = random_sequences([7])
    table = np.random.default_rng(0).integers(1, 7, size=VOCABULARY).astype(np.uint8)
    policy = HashEE(layers=HashedLayers(table, 6, 6))
    layers = policy.layers.of(sequence)
    total, words, layer = 0, WordProgress.of(sequence), 0
    while words.moving.any():
        layer += 1
        still = sum(int(sequence.last_piece[w] - sequence.first_piece[w] + 1) for w in np.flatnonzero(~words.moving))
        total += work_of_pieces(sequence.num_pieces - still, still)
        assert policy.needs_exit_of(layer, 6, sequence) == (layer == layers.max())
        words = words.after(layer, None)
        words = WordProgress(words.layers, policy.go_on(layer, 6, sequence, words), words.uncertainty)
    assert np.array_equal(words.layers, layers)
    assert policy.work(sequence, 6) == -(-total // 6) < sequence.num_pieces
