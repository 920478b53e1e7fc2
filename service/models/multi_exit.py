"""The whole model: an encoder with an exit after every layer, run in steps. When to leave is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from service.models.biaffine import BiaffineExit, Projections
from service.models.config import ModelConfig
from service.models.encoder import Encoder
from service.models.packed import Active, Packed


@dataclass(frozen=True, slots=True)
class DropoutRates:
    """Shares that training sets to 0, of hidden states, of attention weights, and of what an exit reads."""

    hidden: float = 0.0
    attention: float = 0.0
    exits: float = 0.0


class MultiExitModel(nn.Module):
    """`embed`, `run_layer`, `exit_table`: the steps that training, replay and serving share."""

    def __init__(
        self, config: ModelConfig, dropout: DropoutRates | None = None, exits: Sequence[nn.Module] | None = None
    ) -> None:
        """exits: modules that score spans as BiaffineExit does, in its place; None: such exits, as the config says."""
        super().__init__()
        rates = dropout or DropoutRates()
        self.config = config
        self.encoder = Encoder(
            config.encoder, word_shapes=config.word_shapes, dropout=rates.hidden, attention_dropout=rates.attention
        )
        self.exits = nn.ModuleList(
            exits
            or [
                BiaffineExit(config.encoder.hidden_size, config.num_labels, config.exits, rates.exits)
                for _ in range(config.num_exits)
            ]
        )
        if config.hash is not None:  # the layer after which a piece's word may halt, see the strategy hashee
            self.register_buffer("piece_layers", torch.zeros(config.encoder.vocab_size, dtype=torch.uint8))
        if config.prototypes:  # of every exit and label, see the strategy de3
            shape = config.num_layers, config.num_labels, config.exits.rank
            self.register_buffer("prototypes", torch.zeros(shape))

    def embed(self, packed: Packed) -> Tensor:
        """Compute what layer 1 reads, (pieces, hidden)."""
        return self.encoder.embed(packed)

    def run_layer(self, layer: int, state: Tensor, packed: Packed, active: Active | None = None) -> Tensor:
        """Run layer `layer`, from 1: (pieces, hidden) -> (pieces, hidden); see Encoder."""
        return self.encoder.run_layer(layer, state, packed, active)

    def exit_table(self, layer: int, state: Tensor, packed: Packed) -> Tensor:
        """Run the exit after layer `layer`: (pieces, hidden) -> (cells, K) log-probabilities, float32."""
        return torch.log_softmax(self.exit_scores(layer, state, packed)[0], dim=1)

    def exit_scores(self, layer: int, state: Tensor, packed: Packed) -> tuple[Tensor, Projections]:
        """Run the exit up to its softmax; -> (cells, K) scores, and what it makes of words as first and last ones."""
        index = self.config.exit_after(layer)
        with torch.autocast(state.device.type, enabled=False):  # exits always compute in float32: votes compare them
            hidden = self.encoder.hidden(index, state).float()
            first_words = hidden.index_select(0, packed.first_piece)
            last_words = first_words
            if self.config.exits.end_piece == "last":
                last_words = hidden.index_select(0, packed.last_piece)
            exit_ = cast("BiaffineExit", self.exits[min(index, len(self.exits)) - 1])
            return exit_.score(first_words, last_words, packed)

    def forward(self, packed: Packed, word_layers: Tensor | None = None) -> list[Tensor]:
        """Run all layers and exits, in the same steps as serving; -> the table of every exit, (cells, K).

        word_layers: (words,) after which layer each word halts; None: none does
        """
        return [torch.log_softmax(scores, dim=1) for scores, _ in self.run_exits(packed, word_layers)]

    def run_exits(self, packed: Packed, word_layers: Tensor | None = None) -> Iterator[tuple[Tensor, Projections]]:
        """Run all layers and yield `exit_scores` after each; in a model with one exit, after the last alone."""
        state = self.embed(packed)
        for layer in range(1, self.config.num_layers + 1):
            active = None if word_layers is None else packed.active(word_layers >= layer)
            state = self.run_layer(layer, state, packed, active)
            if layer > self.config.num_layers - self.config.num_exits:
                yield self.exit_scores(layer, state, packed)
