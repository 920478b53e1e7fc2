"""A BERT-like encoder over packed sequences: embeddings and one layer at a time. Exits live in `biaffine`.

The state after a layer is what its last LayerNorm gives before its gain and bias. A halted word keeps its
state, and every layer reads it with the gain and bias of the layer before, as if it had come from there (what the
authors of TOKEE do). After the embeddings the state is their output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.models.config import EncoderConfig
from service.models.packed import Active, Packed, Ragged
from service.models.relative_bias import Bias, FixedBias, RelativeBias
from service.text.words import WORD_SHAPES

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda hidden: functional.gelu(hidden, approximate="tanh"),
    "relu": functional.relu,
}


class Embeddings(nn.Module):
    """Word piece + position + token type (+ word shape), LayerNorm, and a projection where the widths differ.

    relative_bias  the table that attention reads in every layer; None: it adds nothing
    """

    def __init__(self, config: EncoderConfig, word_shapes: bool, dropout: float) -> None:
        super().__init__()
        width = config.embedding_size
        self.pieces = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.max_positions, width)
        self.types = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.shapes = nn.Embedding(len(WORD_SHAPES), width) if word_shapes else None
        if self.shapes is not None:
            nn.init.zeros_(self.shapes.weight)  # a fresh one changes nothing: the pretrained encoder starts as it was
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = nn.Linear(width, config.hidden_size) if width != config.hidden_size else None
        self.dropout = nn.Dropout(dropout)
        self._position_offset = config.position_offset
        farthest = config.max_positions - config.position_offset - 1
        self.relative_bias: RelativeBias | FixedBias | None = None
        if config.relative_bias:
            self.relative_bias = RelativeBias(config.num_heads, farthest)

    def forward(self, packed: Packed) -> Tensor:
        """Look up and add what there is of every piece; -> (pieces, hidden)."""
        hidden: Tensor = self.pieces(packed.piece_ids) + self.positions(packed.positions + self._position_offset)
        if self.types is not None:
            hidden = hidden + self.types.weight[0]  # every piece is of the first type: texts are not paired
        if self.shapes is not None:
            hidden = hidden + self.shapes(packed.shape_ids)
        hidden = self.dropout(self.norm(hidden))
        return hidden if self.projection is None else self.projection(hidden)


class SelfAttention(nn.Module):
    """Multi-head attention of some rows over all rows of the same sequence."""

    def __init__(self, config: EncoderConfig, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key_value = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self._num_heads = config.num_heads
        self._dropout = dropout

    def forward(
        self, active: Tensor, active_rows: Ragged, hidden: Tensor, rows: Ragged, bias: Bias | None = None
    ) -> Tensor:
        """Let active rows, (active pieces, hidden), attend to all rows, (pieces, hidden); -> (active pieces, hidden).

        While no word is halted the two are the same tensor; otherwise halted rows are keys and values only.
        """
        query = self._heads(active_rows.pad(self.query(active)))
        key, value = (self._heads(half) for half in rows.pad(self.key_value(hidden)).chunk(2, dim=-1))
        is_row = None if rows.is_rectangular else rows.mask[:, None, None, :]
        mask = is_row
        if bias is not None:
            mask = bias.padded(active_rows, rows).to(query.dtype)
            mask = mask if is_row is None else mask.masked_fill(~is_row, -torch.inf)
        dropout = self._dropout if self.training else 0.0
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        context = context.transpose(1, 2).flatten(2)  # (batch, longest active, hidden)
        output: Tensor = self.output(active_rows.flatten(context))
        return output

    def _heads(self, padded: Tensor) -> Tensor:
        """(batch, longest, heads * width) -> (batch, heads, longest, width)"""
        batch, longest, width = padded.shape
        return padded.view(batch, longest, self._num_heads, width // self._num_heads).transpose(1, 2)


def add_norm(one: Tensor, other: Tensor, norm: nn.LayerNorm, *, with_gain: bool) -> Tensor:
    """Add two (rows, hidden), and normalise every row of the sum, with the norm's gain and bias or without them."""
    weight, bias = (norm.weight, norm.bias) if with_gain else (None, None)
    return functional.layer_norm(one + other, norm.normalized_shape, weight, bias, norm.eps)


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each followed by a residual and a LayerNorm."""

    def __init__(self, config: EncoderConfig, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(config, attention_dropout)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        self._activation = _ACTIVATIONS[config.activation]
        self.add_norm = add_norm  # an executor may have another one that does the same

    def forward(self, hidden: Tensor, rows: Ragged, active: Active | None = None, bias: Bias | None = None) -> Tensor:
        """Run the layer on what it reads, (pieces, hidden); -> states of the active rows, (active pieces, hidden)."""
        moving, moving_rows = (
            (hidden, rows) if active is None else (hidden.index_select(0, active.index), active.pieces)
        )
        attended = self.attention(moving, moving_rows, hidden, rows, bias)
        moving = self.add_norm(moving, self.dropout(attended), self.attention_norm, with_gain=True)
        expanded = self._activation(self.up(moving))
        return self.add_norm(moving, self.dropout(self.down(expanded)), self.output_norm, with_gain=False)

    def read(self, state: Tensor) -> Tensor:
        """Apply the layer's own gain and bias to a state, (pieces, hidden)."""
        return torch.addcmul(self.output_norm.bias, state, self.output_norm.weight)


class Encoder(nn.Module):
    """Embeddings and `num_layers` layers, run one at a time; layers count from 1."""

    def __init__(
        self, config: EncoderConfig, *, word_shapes: bool, dropout: float = 0.0, attention_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(config, word_shapes, dropout)
        count = 1 if config.shared_layers else config.num_layers
        self.layers = nn.ModuleList(EncoderLayer(config, dropout, attention_dropout) for _ in range(count))
        self._shared_layers = config.shared_layers

    def embed(self, packed: Packed) -> Tensor:
        """Compute what layer 1 reads, (pieces, hidden)."""
        embedded: Tensor = self.embeddings(packed)
        return embedded

    def run_layer(self, layer: int, state: Tensor, packed: Packed, active: Active | None = None) -> Tensor:
        """Run one layer: the state before it, (pieces, hidden) -> the state after it, (pieces, hidden).

        layer: from 1. Rows that are not active are keys and values only, and keep their state; None: all are active.
        """
        bias = self._bias(packed, active)
        moved: Tensor = self._layer(layer)(self.hidden(layer - 1, state), packed.pieces, active, bias)
        return moved if active is None else state.index_copy(0, active.index, moved)

    def _bias(self, packed: Packed, active: Active | None) -> Bias | None:
        table = self.embeddings.relative_bias
        if table is None:
            return None
        positions = None if active is None else packed.positions.index_select(0, active.index)
        return Bias(table.by_distance(), positions)

    def hidden(self, layer: int, state: Tensor) -> Tensor:
        """Apply a layer's gain and bias to the state after it, as its exit and the next layer read it; 0 leaves it."""
        return self._layer(layer).read(state) if layer else state

    def _layer(self, layer: int) -> EncoderLayer:
        return cast("EncoderLayer", self.layers[0 if self._shared_layers else layer - 1])
