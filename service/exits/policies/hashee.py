"""HashEE (Sun et al. 2022): a hash says after which layer each word halts, before anything is run.

Every piece of the vocabulary has a bucket b of B buckets, and halts after layer 1 + b * (M // B), where M is the number
of layers. A word halts with the last of its pieces to halt. Special pieces, and pieces that training never showed, go
to layer M.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from service.exits.declaration import Display, Need
from service.exits.parameters import OfModel
from service.exits.policy import ExitReason
from service.exits.word_policy import WordPolicy
from service.exits.words import Flags, WordProgress, work_of_pieces
from service.spans.types import IntArray
from service.text.types import SequenceInput

DRAWN = 0  # in place of a layer: it is drawn anew at every place where the piece occurs


def layer_of_bucket(bucket: IntArray, num_layers: int, buckets: int) -> IntArray:
    """Return the layer after which the pieces of each bucket halt."""
    return 1 + np.minimum(bucket, buckets - 1) * (num_layers // buckets)


def word_layers(sequence: SequenceInput, piece_layers: NDArray[np.uint8], num_layers: int, buckets: int) -> IntArray:
    """Return the layer after which each word halts: (words,).

    piece_layers: (vocabulary,) the layer after which each piece halts, or DRAWN
    """
    ids = sequence.piece_ids
    layers = piece_layers[ids].astype(np.int64)
    if (drawn := layers == DRAWN).any():
        layers[drawn] = layer_of_bucket(_draw(ids, buckets), num_layers, buckets)[drawn]
    end = int(sequence.last_piece[-1]) + 1
    found: IntArray = np.maximum.reduceat(layers[:end], sequence.first_piece)
    return found


class HashedLayers:
    """Says after which layers words halt under the hash of a model; remembers it for every sequence."""

    def __init__(self, piece_layers: NDArray[np.uint8], num_layers: int, buckets: int) -> None:
        """Take piece_layers: (vocabulary,) the layer after which each piece halts, or DRAWN."""
        self._table, self._num_layers, self._buckets = piece_layers, num_layers, buckets
        self._known: WeakKeyDictionary[SequenceInput, IntArray] = WeakKeyDictionary()

    def of(self, sequence: SequenceInput) -> IntArray:
        """Return the layer after which each word halts: (words,)."""
        found = self._known.get(sequence)
        if found is None:
            found = word_layers(sequence, self._table, self._num_layers, self._buckets)
            self._known[sequence] = found
        return found


def _draw(ids: IntArray, buckets: int) -> IntArray:
    """Draw a bucket for every place, by piece and position: it looks random, but is the same for the same text."""
    mixed: NDArray[np.uint64] = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.arange(len(ids), dtype=np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    drawn: IntArray = ((mixed >> np.uint64(32)) % np.uint64(buckets)).astype(np.int64)
    return drawn


@dataclass(frozen=True, slots=True)
class HashEE(WordPolicy):
    """Halts words where a hash says so; the hash belongs to the model, which was trained under it."""

    strategy: ClassVar[str] = "hashee"
    title: ClassVar[str] = "HashEE"
    origin: ClassVar[str] = "Sun et al. 2022"
    meaning: ClassVar[str] = (
        "A hash says after which layer each word halts. It belongs to the model: there is nothing to set."
    )
    reasons: ClassVar[tuple[ExitReason, ...]] = ("budget",)
    needs: ClassVar[tuple[Need, ...]] = ()
    display: ClassVar[Display] = Display(
        title="Words that go on",
        note="{0|word} of it",
        why={"budget": "The hash lets none of its words go deeper."},
        held="the hash sends a word of it to the last",
    )

    layers: Annotated[
        HashedLayers, OfModel("a model trained under a hash (recipe field hash), which this one was not")
    ] = field(kw_only=True, repr=False)

    def go_on(self, layer: int, num_layers: int, sequence: SequenceInput, words: WordProgress) -> Flags:
        """Return which words the hash sends to a later layer: (words,)."""
        going_on: Flags = self.layers.of(sequence) > layer
        return going_on

    def needs_exit_of(self, layer: int, num_layers: int, sequence: SequenceInput) -> bool:
        """Tell whether `layer` is the one after which the last word halts; no other exit is needed."""
        return layer == int(self.layers.of(sequence).max())

    def work(self, sequence: SequenceInput, num_layers: int) -> int:
        """Return the exact cost, since the layer of every word is known before it runs."""
        layers = self.layers.of(sequence)
        lengths = sequence.last_piece - sequence.first_piece + 1
        specials = sequence.num_pieces - int(lengths.sum())
        total = 0
        for layer in range(1, int(layers.max()) + 1):
            moving = specials + int(lengths[layers >= layer].sum())
            total += work_of_pieces(moving, sequence.num_pieces - moving)
        return -(-total // num_layers)
