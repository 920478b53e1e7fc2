"""What the fused executor is meant to compute, in plain float64: weights and inputs of every product of bytes rounded.

Written from the model's definition, sequence by sequence; it shares no code with the kernels, and only asks whether
their instructions want neighbouring weights small. What it computes differs from theirs by their float32, and where
that rounds an input to the other neighbour, by one step of that input.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from service.kernels.tiles import load
from service.models.biaffine import BiaffineExit
from service.models.config import ModelConfig
from service.models.encoder import EncoderLayer
from service.models.multi_exit import MultiExitModel
from service.models.relative_bias import bucket_of
from service.text.types import SequenceInput

WORDS_ROUNDED_TOGETHER = 28  # an exit's words whose neighbours are mixed in at one go, and share one scale
Doubles = NDArray[np.float64]


def embed(model: MultiExitModel, sequence: SequenceInput) -> Doubles:
    """(pieces, hidden): what layer 1 reads."""
    config, embeddings = model.config, model.encoder.embeddings
    positions = np.arange(sequence.num_pieces) + config.encoder.position_offset
    total = _double(embeddings.pieces.weight)[sequence.piece_ids] + _double(embeddings.positions.weight)[positions]
    if embeddings.types is not None:
        total = total + _double(embeddings.types.weight)[0]
    if embeddings.shapes is not None:
        total = total + _double(embeddings.shapes.weight)[sequence.shape_ids]
    return _normalized(total, embeddings.norm)


def run_layer(model: MultiExitModel, layer: int, state: Doubles) -> Doubles:
    """One layer over one sequence, from the state before it to the state after it: (pieces, hidden) each."""
    encoder = model.config.encoder
    weights = _layer(model, layer)
    attention = weights.attention
    state = read(model, layer - 1, state)
    key, value = np.split(_linear(state, attention.key_value), 2, axis=1)
    query = _linear(state, attention.query)
    heads = [np.split(part, encoder.num_heads, axis=1) for part in (query, key, value)]
    size = encoder.hidden_size // encoder.num_heads
    biases = _biases(model, len(state))
    context = [_softmax(q @ k.T / size**0.5 + bias) @ v for q, k, v, bias in zip(*heads, biases, strict=True)]
    state = _normalized(state + _linear(np.concatenate(context, axis=1), attention.output), weights.attention_norm)
    expanded = _linear(state, weights.up)
    activated = np.maximum(expanded, 0) if encoder.activation == "relu" else _gelu(expanded)
    return _standardized(state + _linear(activated, weights.down), weights.output_norm)


def _biases(model: MultiExitModel, rows: int) -> Doubles:
    """(heads, rows, rows): what attention adds by the distance of key and query."""
    table = model.encoder.embeddings.relative_bias
    if table is None:
        return np.zeros((model.config.encoder.num_heads, rows, rows))
    distances = torch.arange(rows)[None] - torch.arange(rows)[:, None]
    return _double(table.weight)[bucket_of(distances).numpy()].transpose(2, 0, 1)


def read(model: MultiExitModel, layer: int, state: Doubles) -> Doubles:
    """A state after a layer as the next one reads it."""
    if layer == 0:
        return state
    norm = _layer(model, layer).output_norm
    return state * _double(norm.weight) + _double(norm.bias)


def _layer(model: MultiExitModel, layer: int) -> EncoderLayer:
    weights = model.encoder.layers[0 if model.config.encoder.shared_layers else layer - 1]
    assert isinstance(weights, EncoderLayer)
    return weights


def exit_table(model: MultiExitModel, layer: int, state: Doubles, sequence: SequenceInput) -> Doubles:
    """The exit after a layer over one sequence: (pieces, hidden) -> (cells, K) log-probabilities."""
    head, config = model.exits[layer - 1], model.config
    assert isinstance(head, BiaffineExit)
    state = read(model, layer, state)
    first = sequence.first_piece
    last = sequence.last_piece if config.exits.end_piece == "last" else first
    starts, ends = _projections(head, config, state, first, last)
    rank, labels, _ = head.bilinear.shape
    bilinear = _double(head.bilinear).transpose(1, 2, 0).reshape(labels * rank, rank)
    halves = _product(starts, bilinear).reshape(-1, labels, rank)
    scores = np.einsum("slr,er->sel", halves, ends)
    scores += _linear(state, head.start_linear)[first][:, None] + _linear(state, head.end_linear)[last][None]
    begin, end = np.triu_indices(sequence.num_words)
    bias = _double(head.bias)
    of_cells = scores[begin, end] + bias[np.minimum(end - begin, len(bias) - 1)]
    with_none = np.pad(of_cells, ((0, 0), (1, 0)))
    return with_none - np.log(np.exp(with_none).sum(axis=1, keepdims=True))


def _projections(
    head: BiaffineExit, config: ModelConfig, state: Doubles, first: Doubles, last: Doubles
) -> tuple[Doubles, Doubles]:
    """(words, rank) of words as first and as last ones."""
    assert head.start_projection is not None and head.end_projection is not None
    sides = [_linear(state, head.start_projection)[first], _linear(state, head.end_projection)[last]]
    if config.exits.form == "low_rank":
        return sides[0], sides[1]
    mean = state[first].mean(axis=0, keepdims=True)
    for side, linear in enumerate((head.start_context, head.end_context)):
        own, reach = sides[side], config.exits.reach
        if head.neighbours is not None:
            own = own + _neighbours(own, reach, _double(head.neighbours.weight)[side])
        assert linear is not None
        sides[side] = _gelu(own + _linear(mean, linear))
    return sides[0], sides[1]


def _neighbours(words: Doubles, reach: int, weight: Doubles) -> Doubles:
    found = []
    padded = np.pad(words, ((reach, reach), (0, 0)))
    for begin in range(0, len(words), WORDS_ROUNDED_TOGETHER):
        count = min(WORDS_ROUNDED_TOGETHER, len(words) - begin)
        block = padded[begin : begin + count + 2 * reach]
        rounded = _rounded(block.reshape(1, -1)).reshape(block.shape)
        beside = np.concatenate([rounded[shift : shift + count] for shift in range(2 * reach + 1)], axis=1)
        found.append(beside @ _rounded_weight(weight.T).T)
    return np.concatenate(found)


def _linear(x: Doubles, linear: nn.Linear) -> Doubles:
    product = _product(x, _double(linear.weight))
    return product if linear.bias is None else product + _double(linear.bias)


def _product(x: Doubles, weight: Doubles) -> Doubles:
    """x (rows, in) by weight (out, in), both rounded."""
    return _rounded(x) @ _rounded_weight(weight).T


def _rounded(rows: Doubles) -> Doubles:
    """Every row to 256 values from its lowest to its highest."""
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    step = np.where(high > low, (high - low) / 255, 1)
    rounded: Doubles = np.floor((rows - low) / step + 0.5) * step + low
    return rounded


def _rounded_weight(weight: Doubles) -> Doubles:
    """Every output's weights to 255 values around 0; in float32, so that halves fall to the same side as theirs.

    Where products of two neighbours are added in 16 bits, these come to 127 at most before they are rounded.
    """
    single = weight.astype(np.float32)
    largest = np.abs(single)
    if load().adds_in_words:
        first, second = single[:, ::2], single[:, 1::2]
        largest = np.where(first * second > 0, np.abs(first + second), np.maximum(np.abs(first), np.abs(second)))
    step = largest.max(axis=1, keepdims=True) / np.float32(127)
    step[step == 0] = 1
    return np.rint(single / step).astype(np.float64) * step


def _softmax(scores: Doubles) -> Doubles:
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: Doubles = shares / shares.sum(axis=1, keepdims=True)
    return found


def _gelu(x: Doubles) -> Doubles:
    found: Doubles = functional.gelu(torch.from_numpy(x)).numpy()
    return found


def _normalized(x: Doubles, norm: nn.LayerNorm) -> Doubles:
    return _standardized(x, norm) * _double(norm.weight) + _double(norm.bias)


def _standardized(x: Doubles, norm: nn.LayerNorm) -> Doubles:
    centred = x - x.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + norm.eps)
    found: Doubles = centred / deviation
    return found


def _double(weight: Tensor) -> Doubles:
    found: Doubles = weight.detach().double().numpy()
    return found
