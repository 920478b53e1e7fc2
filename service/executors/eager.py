"""The reference executor: the model as PyTorch runs it, float32, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from service.executors.pytorch import PyTorchExecutor, on_host
from service.exits.reading import Reading
from service.models.biaffine import Projections
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, pack
from service.text.types import SequenceInput


class EagerExecutor(PyTorchExecutor):
    """Runs a MultiExitModel step by step."""

    def __init__(self, model: MultiExitModel, device: torch.device, threads: int = 0) -> None:
        """threads: how many PyTorch will be told to use by whoever runs the steps; 0: as many as it uses now."""
        super().__init__(model.to(device).eval(), torch.float32)
        self._device = device
        self._threads = threads or torch.get_num_threads()

    def _pack(self, inputs: tuple[SequenceInput, ...]) -> Packed:
        return pack(inputs, self._device)

    def _read(self, table: Tensor, packed: Packed, projections: Projections | None, *, with_table: bool) -> Reading:
        """The table, of which the rest is worked out when somebody asks for it."""
        return Reading(table, packed.words.lengths, nested=self.config.nested, projections=on_host(projections))

    def wait(self) -> None:
        """See Executor."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def describe(self) -> dict[str, str | int]:
        """See Executor."""
        described: dict[str, str | int] = {"dtype": "float32", "executor": "eager", "threads": self._threads}
        if self._device.type == "cuda":
            return {"device": torch.cuda.get_device_name(self._device), **described}
        return {"device": "cpu", **described, "instructions": torch.backends.cpu.get_cpu_capability().lower()}
