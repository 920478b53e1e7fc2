"""Launches an exit's three kernels on a GPU: its weights in the form that they read, and room for what they write.

The kernels are in `exit_kernels`, which needs Triton; this module loads without it. What has no kernels, an exit of
another form or halted words, is run by PyTorch, see `cuda`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from service.models.biaffine import BiaffineExit
from service.models.config import ModelConfig
from service.models.encoder import EncoderLayer
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, pack
from service.spans.table import SUMMARY
from service.text.types import SequenceInput

RANKS = (16, 32, 64)  # sides of tiles are powers of 2, from 16 on; 128 would not fit the shared memory of smaller cards
ROWS, DEPTH = 32, 32  # words of a tile of projections; dimensions of a state that are multiplied at a time
FIRST, LAST = 16, 32  # words of a tile of cells
CELLS = 1_024  # that are looked through for candidates at a time
FIGURES = 8  # floats that a tile of cells leaves
MOST_LABELS = 128
WARPS = {"project": 4, "score": 4, "finish": 4}  # with these no kernel spills registers, see benchmarks.compile_exit


def reason_against(config: ModelConfig) -> str | None:
    """Why the kernels cannot run a model's exits here; None if they can."""
    exits = config.exits
    if find_spec("triton") is None:
        return "Triton is not installed"
    if exits.form != "contextual":
        return f"its exits are of form {exits.form}, not contextual"
    if exits.rank not in RANKS:
        return f"its exits.rank is {exits.rank}, not one of {RANKS}"
    if config.num_labels - 1 > MOST_LABELS:
        return f"it has {config.num_labels - 1} labels, more than {MOST_LABELS}"
    if config.hash is not None or config.prototypes:
        return "its words halt one by one, or it compares them with prototypes"
    return None


class Found(NamedTuple):
    """What an exit found, on the device.

    summary     (sequences * 6 + sequences + words * 4,) float32: the figures of SUMMARY and the number of candidates of
                every sequence; from the place of every sequence's first word on, its candidates, at most one a word
    labels      (cells,) int32 the most probable label
    log_probs   (cells,) float32 its log-probability
    table       (cells, K) float32 log-probabilities, or None where nobody wants them
    """

    summary: Tensor
    labels: Tensor
    log_probs: Tensor
    table: Tensor | None


class _Weights(NamedTuple):
    high: Tensor
    low: Tensor
    constant: Tensor
    neighbours: Tensor
    bilinear: Tensor
    bias: Tensor


class TritonExit:
    """The exits of a model, each as three kernels."""

    def __init__(self, model: MultiExitModel, device: torch.device) -> None:
        """model: one that `reason_against` has nothing against, in float32."""
        self._config, self._device = model.config, device
        self._padded = max(16, 1 << (model.config.num_labels - 2).bit_length())  # labels, as a side of a tile
        self._layers = [self._weights(model, layer, device) for layer in range(1, model.config.num_layers + 1)]

    def compile(self) -> None:
        """Compile the kernels, with a table and without, unless that was done before on this machine: some seconds."""
        one = np.ones(1, dtype=np.int64)
        packed = pack(
            [SequenceInput(np.arange(3), np.zeros(3, dtype=np.int64), one, one, one, one, (0, 1))], self._device
        )
        state = torch.zeros(3, self._config.encoder.hidden_size, dtype=torch.bfloat16, device=self._device)
        for with_table in (False, True):
            self.run(1, state, packed, with_table=with_table)

    def _weights(self, model: MultiExitModel, layer: int, device: torch.device) -> _Weights:
        """The weights of an exit that reads the state itself: the gain and bias of the layer's norm are folded in."""
        head = cast("BiaffineExit", model.exits[layer - 1])
        of_layer = 0 if self._config.encoder.shared_layers else layer - 1
        norm = cast("EncoderLayer", model.encoder.layers[of_layer]).output_norm
        sides, constants = [], []
        for projection, context, linear in (
            (head.start_projection, head.start_context, head.start_linear),
            (head.end_projection, head.end_context, head.end_linear),
        ):
            assert projection is not None and context is not None
            scores = functional.pad(linear.weight, (0, 0, 0, self._padded - len(linear.weight)))
            weight = torch.cat([projection.weight, context.weight, scores]).double().T  # (hidden, columns)
            constant = norm.bias.double() @ weight
            constant[: self._config.exits.rank] += projection.bias.double()
            sides.append(norm.weight.double()[:, None] * weight)
            constants.append(constant)
        both = torch.stack(sides)
        high = both.bfloat16()
        low = (both - high.double()).bfloat16()
        neighbours = torch.zeros(1) if head.neighbours is None else head.neighbours.weight
        float32 = (torch.stack(constants), neighbours, head.bilinear, head.bias)
        there = [part.detach().float().contiguous().to(device) for part in float32]
        return _Weights(high.contiguous().to(device), low.contiguous().to(device), *there)

    def room(self, packed: Packed, *, with_table: bool) -> Found:
        """Make room for what an exit finds in these sequences."""
        sequences, words, cells = packed.words.batch, len(packed.first_piece), sum(packed.cell_counts)
        summary = torch.empty((len(SUMMARY) + 1) * sequences + 4 * words, device=self._device)
        labels, log_probs = (torch.empty(cells, dtype=kind, device=self._device) for kind in (torch.int32, torch.float))
        table = torch.empty(cells, self._config.num_labels, device=self._device) if with_table else None
        return Found(summary, labels, log_probs, table)

    def run(self, layer: int, state: Tensor, packed: Packed, *, with_table: bool, into: Found | None = None) -> Found:
        """Run the exit after a layer on the states after it, (pieces, hidden) bfloat16.

        into: where to leave what it finds, by default in new memory. Given that, no number on the host is read but
        those of sequences and words there is room for, and of words of the longest sequence
        """
        from service.executors import exit_kernels

        weights, config, device = self._layers[layer - 1], self._config, state.device
        rank, reach, labels = config.exits.rank, config.exits.reach, config.num_labels - 1
        found = self.room(packed, with_table=with_table) if into is None else into
        sequences, words = packed.words.batch, len(packed.first_piece)
        last_piece = packed.last_piece if config.exits.end_piece == "last" else packed.first_piece
        of_words = torch.empty(2, 2, words, rank, device=device)  # projected, and seen
        linear = torch.empty(2, words, self._padded, device=device)
        longest = packed.words.longest
        tiles_of_last = -(-longest // LAST)
        tiles = -(-longest // FIRST) * tiles_of_last
        parts = torch.empty(sequences, tiles, FIGURES, device=device)
        best = found.labels, found.log_probs
        table = best[1] if found.table is None else found.table  # without one, the kernel does not look at it
        starts, cell_starts = packed.word_starts, packed.cell_starts
        exit_kernels.project[(sequences, 2)](
            *(state, packed.first_piece, last_piece, starts, weights.high, weights.low, weights.constant),
            *(weights.neighbours, of_words[0], of_words[1], linear, words, state.shape[1]),
            RANK=rank,
            LABELS=self._padded,
            REACH=reach,
            ROWS=ROWS,
            DEPTH=DEPTH,
            num_warps=WARPS["project"],
        )
        exit_kernels.score[(sequences, tiles)](
            *(of_words[1], linear, weights.bilinear, weights.bias, starts, cell_starts, *best, parts, table),
            *(words, labels, len(weights.bias), tiles_of_last),
            RANK=rank,
            LABELS=self._padded,
            FIRST=FIRST,
            LAST=LAST,
            WITH_TABLE=with_table,
            num_warps=WARPS["score"],
        )
        exit_kernels.finish[(sequences,)](
            *(parts, *best, starts, cell_starts, found.summary, tiles, tiles_of_last),
            FIRST=FIRST,
            LAST=LAST,
            CELLS=CELLS,
            num_warps=WARPS["finish"],
        )
        return found
