"""A model's weights as the CPU kernels read them: matrices as packed bytes with one step a column, the rest float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.executors.aligned import aligned_copy
from service.kernels.layout import LAYER
from service.kernels.rows import PANEL
from service.models.biaffine import BiaffineExit
from service.models.encoder import EncoderLayer
from service.models.multi_exit import MultiExitModel

Floats = NDArray[np.float32]
Linear = Callable[..., dict[str, NDArray[Any]]]  # `_linear`, told how weights are rounded
_LARGEST = 127


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeights:
    """A model's weights in the memory that kernels read.

    layers      (num_layers,) records of LAYER, which hold addresses of arrays
    embeddings  the tables that the kernels look up, by their names in STEP
    arrays      what the addresses point to; they live as long as this does
    """

    layers: NDArray[Any]
    embeddings: dict[str, Floats]
    arrays: list[NDArray[Any]]


def quantize(model: MultiExitModel, *, adds_in_words: bool = False) -> QuantizedWeights:
    """Round the weights of every layer and exit to bytes, each column to at most 255 steps of its own.

    adds_in_words: leave the room that instructions need which add the products of two neighbours in 16 bits
    """
    linear = partial(_linear, adds_in_words=adds_in_words)
    arrays: list[NDArray[Any]] = []
    layers = np.zeros(model.config.num_layers, dtype=LAYER)
    shared = model.config.num_layers // len(model.encoder.layers)
    all_layers = [cast("EncoderLayer", layer) for layer in model.encoder.layers] * shared
    exits = list(model.exits) * (model.config.num_layers // model.config.num_exits)
    for index, (record, layer, exit_) in enumerate(zip(layers, all_layers, exits, strict=True)):
        parts = {
            **_layer_parts(layer, linear),
            **(_norm("input_norm", all_layers[index - 1].output_norm) if index else {}),
            **_norm("exit_norm", all_layers[model.config.exit_after(index + 1) - 1].output_norm),
            **_exit_parts(cast("BiaffineExit", exit_), model.config.encoder.max_positions, linear),
        }
        for name, array in parts.items():
            aligned = aligned_copy(array)
            arrays.append(aligned)
            record[name] = aligned.ctypes.data
    return QuantizedWeights(layers, _embeddings(model), arrays)


def _layer_parts(layer: EncoderLayer, linear: Linear) -> dict[str, NDArray[Any]]:
    attention = layer.attention
    qkv = (
        torch.cat([attention.query.weight, attention.key_value.weight]),
        torch.cat([attention.query.bias, attention.key_value.bias]),
    )
    return {
        **linear("qkv", *qkv),
        **linear("attended", attention.output.weight, attention.output.bias),
        **linear("up", layer.up.weight, layer.up.bias),
        **linear("down", layer.down.weight, layer.down.bias),
        **_norm("attention_norm", layer.attention_norm),
    }


def _exit_parts(head: BiaffineExit, longest_span: int, linear: Linear) -> dict[str, NDArray[Any]]:
    start, end = head.start_projection, head.end_projection
    if start is None or end is None:
        raise ValueError("an exit of full rank has no projections")
    rank, labels, _ = head.bilinear.shape
    weight = torch.cat([start.weight, end.weight, head.start_linear.weight, head.end_linear.weight])
    biases = [torch.zeros(rank) if side.bias is None else side.bias for side in (start, end)]
    parts = {
        **linear("words", weight, torch.cat([*biases, torch.zeros(2 * labels)])),
        **linear("bilinear", *_halves(head.bilinear)),
        "span_bias": _floats(_by_width(head.bias, longest_span).T),
    }
    if head.start_context is not None and head.end_context is not None:
        context = torch.cat([head.start_context.weight, head.end_context.weight])
        parts |= linear("context", context)
    if head.neighbours is not None:
        start_weight, end_weight = head.neighbours.weight
        parts |= {**linear("start_neighbours", start_weight.T), **linear("end_neighbours", end_weight.T)}
    return parts


def _halves(bilinear: Tensor) -> tuple[Tensor, Tensor]:
    """U (rank, labels, rank) -> the weight and bias that make a first word's half of the product, as kernels read it.

    For each label that half is h_s' U, then a 1 in the label's place among `labels`, then a place for the word's score.
    """
    rank, labels, _ = bilinear.shape
    weight = torch.zeros(labels, rank + labels + 1, rank)
    weight[:, :rank] = bilinear.permute(1, 2, 0)
    bias = torch.zeros(labels, rank + labels + 1)
    bias[:, rank : rank + labels] = torch.eye(labels)
    return weight.flatten(0, 1), bias.flatten()


def _by_width(bias: Tensor, longest_span: int) -> Tensor:
    """(buckets, labels) -> (longest_span, labels): the last bucket holds for all wider spans."""
    return bias[torch.arange(longest_span).clamp_max(len(bias) - 1)]


def _embeddings(model: MultiExitModel) -> dict[str, Floats]:
    embeddings = model.encoder.embeddings
    width = embeddings.pieces.embedding_dim
    found = {
        "pieces": embeddings.pieces.weight,
        "positions": embeddings.positions.weight,
        "token_type": torch.zeros(width) if embeddings.types is None else embeddings.types.weight[0],
        "embedding_gain": embeddings.norm.weight,
        "embedding_bias": embeddings.norm.bias,
    }
    if embeddings.shapes is not None:
        found["shapes"] = embeddings.shapes.weight
    if embeddings.relative_bias is not None:  # which the kernels add before they divide by the root
        size = model.config.encoder.hidden_size // model.config.encoder.num_heads
        found["relative_bias"] = embeddings.relative_bias.by_distance() * size**0.5
    return {name: _floats(weight) for name, weight in found.items()}


def _norm(name: str, norm: nn.LayerNorm) -> dict[str, NDArray[Any]]:
    return {f"{name}_gain": _floats(norm.weight), f"{name}_bias": _floats(norm.bias)}


def _linear(
    name: str, weight: Tensor, bias: Tensor | None = None, *, adds_in_words: bool = False
) -> dict[str, NDArray[Any]]:
    """weight (out, in), bias (out,) -> its arrays in LAYER: bytes and columns, filled up to whole panels."""
    columns, depth = weight.shape
    shift = np.zeros(columns) if bias is None else _floats(bias)
    padding = -columns % PANEL
    matrix = np.pad(_floats(weight), ((0, padding), (0, 0)))
    steps = (_largest_pairs(matrix) if adds_in_words else np.abs(matrix).max(axis=1)) / _LARGEST
    steps[steps == 0.0] = 1.0
    rounded = np.rint(matrix / steps[:, None]).astype(np.int8)
    sums = rounded.astype(np.float64).sum(axis=1) * steps
    packed = rounded.reshape(-1, PANEL, depth // 4, 4).transpose(0, 2, 1, 3)  # panel, depth / 4, column, 4
    return {
        f"{name}_weight": packed,
        f"{name}_columns": np.stack([steps, sums, np.pad(shift, (0, padding))]).astype(np.float32),
    }


def _largest_pairs(matrix: Floats) -> Floats:
    """(columns, depth) -> (columns,): the most that two neighbours of one sign, or one weight, come to together.

    If that is 127 steps, two rounded neighbours come to 128 at most, and their products with bytes fit into 16 bits.
    """
    pairs = matrix.reshape(len(matrix), -1, 2)
    largest: Floats = np.maximum(pairs.clip(min=0).sum(axis=2), -pairs.clip(max=0).sum(axis=2)).max(axis=1)
    return largest


def _floats(weight: Tensor) -> Floats:
    return np.ascontiguousarray(weight.detach().cpu().float().numpy())
