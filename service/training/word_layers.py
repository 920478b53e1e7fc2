"""Draws the layers after which words halt while a model is trained, as TOKEE's second stage samples them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.executors.eager import EagerExecutor
from service.exits.policies.tokee import simulate
from service.exits.words import Uncertainty
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed
from service.stepping.every_exit import run_to_full_depth
from service.text.types import SequenceInput

WINDOWS = (1, 3, 5, 7, 9, 11, 13, 15)  # the grid of the code of TOKEE, and 1
DELTAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
FASTEST = (3, DELTAS[-1])
FULL_DEPTH_SHARE, EXTREME_SHARE = 0.4, 0.2  # of all sentences; the others get a random window and delta


class SampledLayers:
    """Samples halting layers as TOKEE's second stage does: with new thresholds whenever a sentence is shown.

    The layers are simulated from the uncertainties of the model of the first stage at full depth.
    """

    def __init__(self, model: MultiExitModel, sequences: Sequence[SequenceInput], device: torch.device) -> None:
        """Run `model`, the model of the first stage, over all sequences."""
        self._num_layers = model.config.num_layers
        self._found: list[Uncertainty] = [np.zeros((0, 0), dtype=np.float32)] * len(sequences)
        executor = EagerExecutor(model, device)
        for batch, readings in run_to_full_depth(executor, sequences):
            of_layers = [reading.word_uncertainty for reading in readings]
            ends = np.cumsum(readings[0].num_words)
            for index, end, words in zip(batch, ends, readings[0].num_words, strict=True):
                rows = [row[end - words : end] for row in of_layers]
                self._found[index] = np.stack(rows).astype(np.float16)  # kept for as long as training goes on
        self._draw = random.Random()

    def seed(self, seed: str) -> None:
        """Seed all later draws."""
        self._draw.seed(seed)

    def of(self, sequence: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Draw the layer after which each word of a sequence halts: (words,); `sequence` is its index."""
        found = self._found[sequence].astype(np.float32)
        share = self._draw.random()
        if share < FULL_DEPTH_SHARE:
            return np.full(found.shape[1], self._num_layers)
        if share < FULL_DEPTH_SHARE + EXTREME_SHARE:
            return simulate(found, *FASTEST)
        return simulate(found, self._draw.choice(WINDOWS), self._draw.choice(DELTAS))


def cell_layers(packed: Packed, layers: Tensor) -> Tensor:
    """Return the layer of every cell, (cells,): the larger of the `layers` (words,) of its first and last word."""
    first, last = packed.words_of_cells
    return torch.maximum(layers[first], layers[last])
