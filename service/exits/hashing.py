"""HashEE (Sun et al. 2022): after which layer a word halts, known from its pieces before anything is run.

Every piece of the vocabulary has a bucket b of B, and leaves after layer 1 + b * (M // B). A word leaves with its last
piece. Special pieces and pieces that training never showed go to layer M.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from service.exits.sentence import Sentence
from service.spans.types import IntArray

DRAWN = 0  # in place of a layer: another one at every place where the piece occurs


def layer_of_bucket(bucket: IntArray, num_layers: int, buckets: int) -> IntArray:
    """The layer after which a bucket leaves."""
    return 1 + np.minimum(bucket, buckets - 1) * (num_layers // buckets)


def word_layers(sequence: Sentence, piece_layers: NDArray[np.uint8], num_layers: int, buckets: int) -> IntArray:
    """(words,) after which layer each word halts."""
    ids = sequence.piece_ids
    layers = piece_layers[ids].astype(np.int64)
    if (drawn := layers == DRAWN).any():
        layers[drawn] = layer_of_bucket(_draw(ids, buckets), num_layers, buckets)[drawn]
    end = int(sequence.last_piece[-1]) + 1
    found: IntArray = np.maximum.reduceat(layers[:end], sequence.first_piece)
    return found


class HashedLayers:
    """`word_layers` of a model that has a hash; of a sequence worked out once while it is asked for again and again."""

    def __init__(self, piece_layers: NDArray[np.uint8], num_layers: int, buckets: int) -> None:
        """piece_layers: (vocabulary,) the layer after which each piece leaves, or DRAWN"""
        self._table, self._num_layers, self._buckets = piece_layers, num_layers, buckets
        self._known: WeakKeyDictionary[Sentence, IntArray] = WeakKeyDictionary()

    def of(self, sequence: Sentence) -> IntArray:
        """(words,) after which layer each word halts."""
        found = self._known.get(sequence)
        if found is None:
            found = word_layers(sequence, self._table, self._num_layers, self._buckets)
            self._known[sequence] = found
        return found


def _draw(ids: IntArray, buckets: int) -> IntArray:
    """A bucket for every place, by piece and position: random to look at, and the same whenever the text comes."""
    mixed: NDArray[np.uint64] = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.arange(len(ids), dtype=np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    drawn: IntArray = ((mixed >> np.uint64(32)) % np.uint64(buckets)).astype(np.int64)
    return drawn
