"""HashEE (Sun et al. 2022): a hash says after which layer each word halts, before anything is run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from service.exits.halting import Flags
from service.exits.hashing import HashedLayers
from service.exits.policy import ExitReason
from service.exits.sentence import Sentence
from service.exits.words import WordPolicy, Words, work_of_pieces


@dataclass(frozen=True, slots=True)
class HashEE(WordPolicy):
    """Hash and buckets belong to the model, which was trained under them: there is nothing to set."""

    strategy: ClassVar[str] = "hashee"

    layers: HashedLayers = field(kw_only=True, repr=False, metadata={"on_the_wire": False})

    def go_on(self, layer: int, num_layers: int, sequence: Sentence, words: Words) -> Flags:
        """As the hash says."""
        going_on: Flags = self.layers.of(sequence) > layer
        return going_on

    def needs_exit_of(self, layer: int, num_layers: int, sequence: Sentence) -> bool:
        """Where the last word comes to stand."""
        return layer == int(self.layers.of(sequence).max())

    def work(self, sequence: Sentence, num_layers: int) -> int:
        """Known before it is run, since the layer of every word is."""
        layers = self.layers.of(sequence)
        lengths = sequence.last_piece - sequence.first_piece + 1
        specials = sequence.num_pieces - int(lengths.sum())
        total = 0
        for layer in range(1, int(layers.max()) + 1):
            moving = specials + int(lengths[layers >= layer].sum())
            total += work_of_pieces(moving, sequence.num_pieces - moving)
        return -(-total // num_layers)

    @property
    def reason(self) -> ExitReason:
        """It was said before."""
        return "budget"
