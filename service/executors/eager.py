"""The reference executor: the model as PyTorch runs it, float32, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from service.exits.reading import Reading
from service.models.config import ModelConfig
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, pack
from service.text.types import SequenceInput


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
        states: Sequence[Tensor | None],
        *,
        with_exit: bool = True,
        with_table: bool = True,
    ) -> tuple[list[Tensor], Reading | None]:
        """See Executor; a state is (pieces, hidden)."""
        packed = self._pack(tuple(inputs))
        if layer == 1:
            hidden = self._model.embed(packed)
        else:
            hidden = torch.cat([state for state in states if state is not None])
        hidden = self._model.run_layer(layer, hidden, packed)
        reading = None
        if with_exit:
            table = self._model.exit_table(layer, hidden, packed)
            reading = Reading(table, packed.words.lengths, nested=self.config.nested)
        return list(hidden.split(packed.pieces.lengths)), reading

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
