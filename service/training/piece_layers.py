"""Learns the table of a hash: the layer after which each piece halts. The strategy hashee uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from service.exits.policies.hashee import DRAWN, layer_of_bucket
from service.models.config import Hash
from service.models.multi_exit import MultiExitModel
from service.spans.types import DoubleArray, IntArray
from service.text.types import SequenceInput
from service.training.sequences import TrainingSequence

_SMOOTHING = 1.0  # the mean shares of tags are added to the counts of every piece with the weight of so many
_ROUNDS = 25  # of k-means


def learn_piece_layers(model: MultiExitModel, sequences: Sequence[TrainingSequence], seed: int) -> None:
    """Work out the table of the model's hash from the training set, and put it into the model.

    Raises ValueError for a model without a hash.
    """
    config = model.config
    if config.hash is None:
        raise ValueError("a model without a hash has no table of its pieces")
    tags = count_tags(
        [sequence.input for sequence in sequences],
        [sequence.word_labels for sequence in sequences],
        config.encoder.vocab_size,
        config.num_labels,
    )
    layers = make_piece_layers(
        config.hash,
        tags,
        model.encoder.embeddings.pieces.weight.detach().double().cpu().numpy(),
        num_layers=config.num_layers,
        buckets=config.buckets,
        seed=seed,
    )
    model.get_buffer("piece_layers").copy_(torch.from_numpy(layers))


def make_piece_layers(
    hash_: Hash, tags: IntArray, embeddings: DoubleArray, *, num_layers: int, buckets: int, seed: int
) -> NDArray[np.uint8]:
    """Return the layer after which each piece halts, or DRAWN: (vocabulary,); num_layers for pieces never seen.

    tags        (vocabulary, K) how often each piece was part of an entity of each label, or of none (label 0)
    embeddings  (vocabulary, width) of the pieces
    """
    seen = tags.sum(axis=1).nonzero()[0]
    layers = np.full(len(tags), num_layers, dtype=np.uint8)
    if hash_ == "random":
        layers[seen] = DRAWN
        return layers
    if hash_ == "clustered":
        bucket = _clusters(embeddings[seen], buckets, seed)
    else:
        cost = _COSTS[hash_](tags[seen], seed)
        bucket = np.empty(len(seen), dtype=np.int64)
        bucket[np.argsort(cost, kind="stable")] = np.arange(len(seen)) * buckets // len(seen)
    layers[seen] = layer_of_bucket(bucket, num_layers, buckets)
    return layers


def _random(tags: IntArray, seed: int) -> DoubleArray:
    return np.random.default_rng(seed).random(len(tags))


def _rarity(tags: IntArray, _: int) -> DoubleArray:
    """Return a cost by which the most frequent pieces halt first: (pieces,)."""
    rarity: DoubleArray = -tags.sum(axis=1).astype(np.float64)
    return rarity


def _lack_of_information(tags: IntArray, _: int) -> DoubleArray:
    """Return a cost by which pieces halt first if their presence has high mutual information with the label."""
    total = tags.sum()
    present = tags / total
    absent = (tags.sum(axis=0) - tags) / total
    of_label = tags.sum(axis=0) / total
    information = np.zeros(len(tags))
    for joint in (present, absent):
        marginal = joint.sum(axis=1, keepdims=True) * of_label
        information += np.where(joint > 0, joint * np.log(np.maximum(joint, 1e-300) / marginal), 0).sum(axis=1)
    return -information


def _tag_entropy(tags: IntArray, _: int) -> DoubleArray:
    """Return a cost by which pieces halt first if the piece alone nearly determines the label (this order is ours)."""
    prior = tags.sum(axis=0) / tags.sum()
    shares = (tags + _SMOOTHING * prior) / (tags.sum(axis=1, keepdims=True) + _SMOOTHING)
    entropy: DoubleArray = -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1)
    return entropy


_COSTS: Mapping[Hash, Callable[[IntArray, int], DoubleArray]] = {
    "random_consistent": _random,
    "frequency": _rarity,
    "mutual_information": _lack_of_information,
    "tag_entropy": _tag_entropy,
}


def _clusters(points: DoubleArray, count: int, seed: int) -> IntArray:
    """Return the k-means cluster of each point: (points,), numbered by ascending sum of the norms of their points."""
    centres = points[np.random.default_rng(seed).choice(len(points), count, replace=False)]
    nearest = np.zeros(len(points), dtype=np.int64)
    for _ in range(_ROUNDS):
        nearest = (np.square(centres).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1)
        centres = np.stack(
            [
                points[nearest == index].mean(axis=0) if (nearest == index).any() else centres[index]
                for index in range(count)
            ]
        )
    norms = np.bincount(nearest, weights=np.linalg.norm(points, axis=1), minlength=count)
    place = np.empty(count, dtype=np.int64)
    place[np.argsort(norms, kind="stable")] = np.arange(count)
    return place[nearest]


def count_tags(
    sequences: Sequence[SequenceInput], labels: Sequence[IntArray], vocab_size: int, num_labels: int
) -> IntArray:
    """Count how often each piece was part of a word of each label: (vocabulary, K).

    labels  (words,) for every sequence
    """
    counts = np.zeros((vocab_size, num_labels), dtype=np.int64)
    for sequence, of_words in zip(sequences, labels, strict=True):
        for word, label in enumerate(of_words.tolist()):
            pieces = sequence.piece_ids[sequence.first_piece[word] : sequence.last_piece[word] + 1]
            np.add.at(counts, (pieces, label), 1)
    return counts
