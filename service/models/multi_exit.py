"""The whole model: an encoder with an exit behind every layer, run in steps. When to leave is decided elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.models.biaffine import BiaffineExit
from service.models.config import ModelConfig
from service.models.encoder import Encoder
from service.models.packed import Packed


@dataclass(frozen=True, slots=True)
class DropoutRates:
    """For training only: hidden states, attention weights, what an exit reads."""

    hidden: float = 0.0
    attention: float = 0.0
    exits: float = 0.0


class MultiExitModel(nn.Module):
    """`embed`, `run_layer`, `exit_table`: the steps that training, replay and serving share."""

    def __init__(self, config: ModelConfig, dropout: DropoutRates | None = None) -> None:
        super().__init__()
        rates = dropout or DropoutRates()
        self.config = config
        self.encoder = Encoder(
            config.encoder, word_shapes=config.word_shapes, dropout=rates.hidden, attention_dropout=rates.attention
        )
        self.exits = nn.ModuleList(
            BiaffineExit(config.encoder.hidden_size, config.num_labels, config.exits, rates.exits)
            for _ in range(config.num_layers)
        )

    def embed(self, packed: Packed) -> Tensor:
        """-> (pieces, hidden)"""
        return self.encoder.embed(packed)

    def run_layer(self, layer: int, hidden: Tensor, packed: Packed) -> Tensor:
        """Layer `layer`, from 1: (pieces, hidden) -> (pieces, hidden)."""
        return self.encoder.run_layer(layer, hidden, packed)

    def exit_table(self, layer: int, hidden: Tensor, packed: Packed) -> Tensor:
        """The exit behind layer `layer`: (pieces, hidden) -> (cells, K) log-probabilities, float32."""
        with torch.autocast(hidden.device.type, enabled=False):  # exits always compute in float32: votes compare them
            first_words = hidden.index_select(0, packed.first_piece).float()
            last_words = first_words
            if self.config.exits.end_piece == "last":
                last_words = hidden.index_select(0, packed.last_piece).float()
            return torch.log_softmax(self.exits[layer - 1](first_words, last_words, packed), dim=1)

    def forward(self, packed: Packed) -> list[Tensor]:
        """Every exit's table, first to last layer: the same steps as serving, all of them."""
        hidden = self.embed(packed)
        tables = []
        for layer in range(1, self.config.num_layers + 1):
            hidden = self.run_layer(layer, hidden, packed)
            tables.append(self.exit_table(layer, hidden, packed))
        return tables
