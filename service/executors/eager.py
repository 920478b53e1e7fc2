"""The reference executor: the model as PyTorch runs it, float32, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.exits.reading import Projections, Reading
from service.exits.words import Flags
from service.models.config import ModelConfig
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, pack
from service.text.types import SequenceInput

State = tuple[Tensor, Tensor | None]  # (pieces, hidden), and (cells, K) what the exit said, if it ran


class EagerExecutor:
    """Runs a MultiExitModel step by step."""

    max_step_pieces = 1_024

    def __init__(self, model: MultiExitModel, device: torch.device, threads: int = 0) -> None:
        """threads: that the thread which runs the steps will have PyTorch use; 0: those in use now."""
        self.config: ModelConfig = model.config
        self._model = model.to(device).eval()
        self._device = device
        self._threads = threads or torch.get_num_threads()
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
    ) -> tuple[list[State], Reading | None]:
        """See Executor."""
        packed, before = self._pack(tuple(inputs)), [state for state in states if state is not None]
        words = None if active is None else flags_of(active, packed)
        state = torch.cat([rows for rows, _ in before]) if before else self._model.embed(packed)
        state = self._model.run_layer(layer, state, packed, None if words is None else packed.active(words))
        rows = state.split(packed.pieces.lengths)
        if not with_exit:
            return [(own, None) for own in rows], None
        table, projections = self._exit(layer, state, packed)
        if words is not None and self.config.hash is None:
            table = keep_halted_cells(table, before, packed, words)
        reading = Reading(table, packed.words.lengths, nested=self.config.nested, projections=projections)
        return list(zip(rows, table.split(packed.cell_counts), strict=True)), reading

    def _exit(self, layer: int, state: Tensor, packed: Packed) -> tuple[Tensor, Projections | None]:
        """The table, and what the exit makes of words where the model has prototypes to compare it with."""
        if not self.config.prototypes:
            return self._model.exit_table(layer, state, packed), None
        scores, (starts, ends) = self._model.exit_scores(layer, state, packed)
        return torch.log_softmax(scores, dim=1), (starts.cpu().numpy(), ends.cpu().numpy())

    def _pack(self, inputs: tuple[SequenceInput, ...]) -> Packed:
        """The packed form of a step's sequences: that of the last step again, while nobody leaves or joins."""
        if self._packed is None or inputs != self._inputs:  # inputs compare by identity
            self._inputs, self._packed = inputs, pack(inputs, self._device)
        return self._packed

    def wait(self) -> None:
        """See Executor."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def describe(self) -> dict[str, str | int]:
        """See Executor."""
        is_gpu = self._device.type == "cuda"
        name = torch.cuda.get_device_name(self._device) if is_gpu else "cpu"
        return {"device": name, "dtype": "float32", "executor": "eager", "threads": self._threads}

    def close(self) -> None:
        """See Executor."""


def keep_halted_cells(table: Tensor, before: Sequence[State], packed: Packed, words: Tensor) -> Tensor:
    """(cells, K) a new table, but with the cells of two halted words as they were said before."""
    said = [own for _, own in before] or [None] * packed.words.batch
    parts = zip(
        packed.active_cells(words)[:, None].split(packed.cell_counts),
        table.split(packed.cell_counts),
        said,
        strict=True,
    )
    return torch.cat([now if own is None else torch.where(is_new, now, own) for is_new, now, own in parts])


def flags_of(active: Sequence[Flags | None], packed: Packed) -> Tensor:
    """(words,) bool, of all sequences."""
    parts = [
        np.ones(words, dtype=bool) if flags is None else flags
        for flags, words in zip(active, packed.words.lengths, strict=True)
    ]
    return torch.from_numpy(np.concatenate(parts)).to(packed.piece_ids.device)
