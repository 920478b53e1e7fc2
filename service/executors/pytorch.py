"""What the executors share that run a model by PyTorch, on any device: a step, and what halted words keep.

What differs is how sequences reach the device, and how what an exit said comes back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.exits.reading import Reading
from service.exits.words import Flags
from service.models.biaffine import Projections
from service.models.config import ModelConfig
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed
from service.spans.types import FloatArray
from service.text.types import SequenceInput


class State(NamedTuple):
    """What is kept of one sequence between its layers.

    rows   (pieces, hidden) the state after the layer
    table  (cells, K) float32, what the exit said, if it ran
    """

    rows: Tensor
    table: Tensor | None


class PyTorchExecutor(ABC):
    """Runs a MultiExitModel step by step; see Executor."""

    max_step_pieces = 1_024
    max_step_layers = 1

    def __init__(self, model: MultiExitModel, dtype: torch.dtype) -> None:
        """model: on its device, in eval mode; dtype: of its layers."""
        self.config: ModelConfig = model.config
        self._model, self._dtype = model, dtype
        self._inputs: tuple[SequenceInput, ...] = ()  # of the last step, and their packed form
        self._packed: Packed | None = None

    @torch.inference_mode()
    def run_layer(
        self,
        layer: int,
        inputs: Sequence[SequenceInput],
        states: Sequence[State | None],
        *,
        with_exit: bool = True,
        with_table: bool = True,
        active: Sequence[Flags | None] | None = None,
        through: int | None = None,
    ) -> tuple[list[State], Reading | None]:
        """See Executor. Where words are halted, the host waits to learn how many rows move."""
        packed, before = self._packed_form(tuple(inputs)), [state for state in states if state is not None]
        words = None if active is None else _flags_of(active, packed)
        hidden = torch.cat([state.rows for state in before]) if before else self._model.embed(packed).to(self._dtype)
        last = layer if through is None else through
        for number in range(layer, last + 1):
            hidden = self._model.run_layer(number, hidden, packed, None if words is None else packed.active(words))
        rows = hidden.split(packed.pieces.lengths)
        if not with_exit:
            return [State(own, None) for own in rows], None
        table, reading = self._run_exit(last, hidden, packed, before, words, with_table=with_table)
        tables = [None] * len(rows) if table is None else table.split(packed.cell_counts)
        return [State(*own) for own in zip(rows, tables, strict=True)], reading

    def _run_exit(
        self,
        layer: int,
        hidden: Tensor,
        packed: Packed,
        before: Sequence[State],
        words: Tensor | None,
        *,
        with_table: bool,
    ) -> tuple[Tensor | None, Reading]:
        """Run an exit; -> its table, (cells, K), which may be left out where no word is halted, and what it said.

        hidden  (pieces, hidden) after the layer
        before  what was kept of the sequences before the layer; empty before layer 1
        words   (words,) bool, which of them move; None: all do
        """
        scores, projections = self._model.exit_scores(layer, hidden, packed)
        table = torch.log_softmax(scores, dim=1)
        if words is not None and self.config.hash is None:
            table = _keep_halted_cells(table, before, packed, words)
        kept = projections if self.config.prototypes else None
        return table, self._read(table, packed, kept, with_table=with_table)

    def _packed_form(self, inputs: tuple[SequenceInput, ...]) -> Packed:
        """A step's sequences, packed: as in the last step, while nobody leaves or joins."""
        if self._packed is None or inputs != self._inputs:  # inputs compare by identity
            self._inputs, self._packed = inputs, self._pack(inputs)
        return self._packed

    @abstractmethod
    def _pack(self, inputs: tuple[SequenceInput, ...]) -> Packed:
        """Sequences, packed on the device."""

    @abstractmethod
    def _read(self, table: Tensor, packed: Packed, projections: Projections | None, *, with_table: bool) -> Reading:
        """What an exit said, for the host; table: (cells, K) log-probabilities."""

    def close(self) -> None:
        """See Executor."""


def _keep_halted_cells(table: Tensor, before: Sequence[State], packed: Packed, words: Tensor) -> Tensor:
    """A new table, (cells, K), but with the cells of two halted words as they were said before.

    words: (words,) bool, which of them move
    """
    said = [state.table for state in before] or [None] * packed.words.batch
    parts = zip(
        packed.active_cells(words)[:, None].split(packed.cell_counts),
        table.split(packed.cell_counts),
        said,
        strict=True,
    )
    return torch.cat([now if own is None else torch.where(is_new, now, own) for is_new, now, own in parts])


def _flags_of(active: Sequence[Flags | None], packed: Packed) -> Tensor:
    """(words,) bool, on the device: which words of all sequences move."""
    parts = [
        np.ones(words, dtype=bool) if flags is None else flags
        for flags, words in zip(active, packed.words.lengths, strict=True)
    ]
    return torch.from_numpy(np.concatenate(parts)).to(packed.piece_ids.device)


def on_host(projections: Projections | None) -> tuple[FloatArray, FloatArray] | None:
    """What an exit made of words, (words, rank) twice, brought to the host."""
    return None if projections is None else (projections[0].cpu().numpy(), projections[1].cpu().numpy())
