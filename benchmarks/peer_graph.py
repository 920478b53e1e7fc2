"""The graph that all peers run: Transformers' BERT or MPNet with our weights, and our last exit over a padded batch.

The functions here also pad the graph's inputs and decode its outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.models.backbones import FAMILIES
from service.models.biaffine import BiaffineExit
from service.models.config import EncoderConfig
from service.models.multi_exit import MultiExitModel
from service.spans.decode import decode
from service.spans.types import FloatArray, IntArray, Span
from service.text.types import SequenceInput

Feeds = dict[str, IntArray]
INPUTS = ("piece_ids", "shape_ids", "attention_mask", "first_piece", "last_piece", "word_mask")


class FullDepth(nn.Module):
    """Transformers' model with our weights, and our last exit over a padded batch."""

    def __init__(self, model: MultiExitModel, attention: str = "sdpa") -> None:
        """attention: how Transformers computes attention, sdpa (its default) or eager, all that MPNet has."""
        super().__init__()
        encoder, last_exit, shapes = model.config.encoder, model.exits[-1], model.encoder.embeddings.shapes
        is_known = encoder.family in ("bert", "mpnet") and encoder.activation == "gelu"
        is_known = is_known and model.config.exits.end_piece == "last"
        if not (is_known and isinstance(last_exit, BiaffineExit) and last_exit.neighbours and shapes is not None):
            raise SystemExit("peers are written for BERT and MPNet with word shapes and contextual exits, as shipped")
        self.encoder = _transformer(encoder, attention)
        self.encoder.load_state_dict(_their_weights(model))
        self.shapes = shapes
        neighbours = last_exit.neighbours.weight.unflatten(1, (-1, last_exit.bilinear.shape[0]))
        self.starts = _Side(last_exit.start_projection, last_exit.start_context, neighbours[0], last_exit.start_linear)
        self.ends = _Side(last_exit.end_projection, last_exit.end_context, neighbours[1], last_exit.end_linear)
        self.bilinear = last_exit.bilinear  # (rank, labels, rank)
        self.bias = last_exit.bias  # (widths, labels)
        self.eval()

    def forward(
        self,
        piece_ids: Tensor,
        shape_ids: Tensor,
        attention_mask: Tensor,
        first_piece: Tensor,
        last_piece: Tensor,
        word_mask: Tensor,
    ) -> Tensor:
        """Return (batch, words, labels, words) scores of the labels from 1, relative to label 0.

        The axes after the batch are first word, label and last word, as the matrix product leaves them. The first three
        inputs are (batch, pieces), the other three (batch, words).
        """
        embedded = self.encoder.embeddings.word_embeddings(piece_ids) + self.shapes(shape_ids)
        hidden = self.encoder(inputs_embeds=embedded, attention_mask=attention_mask).last_hidden_state.float()
        batch, pieces, width = hidden.shape
        flat, rows = hidden.reshape(-1, width), torch.arange(batch)[:, None] * pieces
        first_words, last_words = flat[first_piece + rows], flat[last_piece + rows]  # (batch, words, hidden)
        real = word_mask[..., None].float()
        means = (first_words * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        starts, start_scores = self.starts(first_words, means, real)
        ends, end_scores = self.ends(last_words, means, real)
        rank, labels, _ = self.bilinear.shape
        words = first_words.shape[1]
        half = starts @ self.bilinear.reshape(rank, labels * rank)  # (batch, words, labels * rank)
        table = half.reshape(-1, words * labels, rank) @ ends.transpose(1, 2)
        table = table.reshape(-1, words, labels, words)
        places = torch.arange(words)
        widths = (places - places[:, None]).clamp(0, self.bias.shape[0] - 1)  # (words, words), width of the span - 1
        scores: Tensor = table + start_scores[..., None] + end_scores.transpose(1, 2)[:, None]
        return scores + self.bias[widths].transpose(1, 2)


class _Side(nn.Module):
    """Computes the contextual exit's view of words as the first, or as the last, word of a span."""

    def __init__(
        self, projection: nn.Linear | None, context: nn.Linear | None, neighbours: Tensor, linear: nn.Linear
    ) -> None:
        """neighbours: (places, rank, rank), from the leftmost place, input by output."""
        super().__init__()
        self.projection, self.context, self.linear = projection, context, linear
        self.kernel = nn.Parameter(neighbours.permute(2, 1, 0).contiguous(), requires_grad=False)

    def forward(self, words: Tensor, means: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return (batch, words, rank) and (batch, words, labels).

        words: (batch, words, hidden); means: their means; real: (batch, words, 1), 1 for a word and 0 for padding
        """
        if self.projection is None or self.context is None:
            raise TypeError("not an exit of the contextual form")
        projected = self.projection(words)
        padding = self.kernel.shape[2] // 2
        beside = functional.conv1d((projected * real).transpose(1, 2), self.kernel, padding=padding).transpose(1, 2)
        return functional.gelu(projected + self.context(means) + beside), self.linear(words)


def _transformer(encoder: EncoderConfig, attention: str) -> Any:
    """Return Transformers' model of this shape, with random weights."""
    from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel  # slow to import

    shape: dict[str, Any] = {
        "vocab_size": encoder.vocab_size,
        "hidden_size": encoder.hidden_size,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.intermediate_size,
        "max_position_embeddings": encoder.max_positions,
        "layer_norm_eps": encoder.layer_norm_eps,
    }
    if encoder.family == "mpnet":
        return MPNetModel(MPNetConfig(**shape), add_pooling_layer=False)
    bert = BertModel(BertConfig(**shape, type_vocab_size=encoder.type_vocab_size), add_pooling_layer=False)
    bert.set_attn_implementation(attention)
    return bert


def _their_weights(model: MultiExitModel) -> dict[str, Tensor]:
    """Return our encoder's weights under Transformers' names: the reverse of `checkpoint.encoder_weights`."""
    ours, family = model.encoder.state_dict(), FAMILIES[model.config.encoder.family]
    names = {f"embeddings.{module}": name for module, name in family.embeddings.items()}
    for index in range(model.config.num_layers):
        prefix = family.layers.format(index=index)
        names |= {f"layers.{index}.{module}": f"{prefix}.{name}" for module, name in family.layer.items()}
        for kind in ("weight", "bias"):
            attention = f"layers.{index}.attention"
            key, value = ours.pop(f"{attention}.key_value.{kind}").chunk(2)
            ours |= {f"{attention}.key.{kind}": key, f"{attention}.value.{kind}": value}
    parts = ((*name.rsplit(".", 1), tensor) for name, tensor in ours.items())
    return {f"{names[module]}.{kind}": tensor for module, kind, tensor in parts if module in names}


def feeds_of(sequences: Sequence[SequenceInput]) -> Feeds:
    """Return the inputs of `FullDepth` for a padded batch."""
    return {
        "piece_ids": _pad([sequence.piece_ids for sequence in sequences]),
        "shape_ids": _pad([sequence.shape_ids for sequence in sequences]),
        "attention_mask": _pad([np.ones(sequence.num_pieces, dtype=np.int64) for sequence in sequences]),
        "first_piece": _pad([sequence.first_piece for sequence in sequences]),
        "last_piece": _pad([sequence.last_piece for sequence in sequences]),
        "word_mask": _pad([np.ones(sequence.num_words, dtype=np.int64) for sequence in sequences]),
    }


def _pad(rows: Sequence[IntArray]) -> IntArray:
    if len(rows) == 1:
        return rows[0][None]
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def spans_of(scores: FloatArray, sequences: Sequence[SequenceInput], *, nested: bool) -> list[list[Span]]:
    """Decode the spans of every sequence of a padded batch from its (batch, words, labels, words) scores."""
    batch, words, _, _ = scores.shape
    num_words = np.array([sequence.num_words for sequence in sequences])
    positive = np.unravel_index(np.flatnonzero(scores > 0), scores.shape)  # a candidate has a label that beats label 0
    owner, first, last = positive[0], positive[1], positive[3]
    is_valid = (first <= last) & (last < num_words[owner])
    cells = np.unique(((owner * words + first) * words + last)[is_valid])
    owner, first, last = np.unravel_index(cells, (batch, words, words))
    labels = scores[owner, first, :, last]  # (candidates, labels)
    best = labels.max(axis=1)
    log_probs = -np.log(np.exp(labels - best[:, None]).sum(axis=1) + np.exp(-best))  # label 0 scores 0
    candidates = np.stack([first, last, labels.argmax(axis=1) + 1, log_probs], axis=1, dtype=np.float32)
    bounds = np.searchsorted(owner, range(batch + 1)).tolist()
    return [decode(candidates[start:end], nested=nested) for start, end in pairwise(bounds)]
