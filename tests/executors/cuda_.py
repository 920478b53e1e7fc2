"""A stand-in for a GPU, on the CPU, that counts what passes between it and the host. No test lives here."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from service.executors.cuda import CudaExecutor
from service.models.multi_exit import MultiExitModel
from service.models.packed import Ragged
from service.spans.types import FloatArray
from tests.models_ import tiny_model


class StandIn:
    """In place of `service.executors.cuda.Gpu`.

    sent, fetched  how often something was copied there, and back
    """

    name = "stand-in"
    runs_kernels = False  # but where a test is of them: Triton's interpreter is slow

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.sent = self.fetched = 0

    def send(self, host: Tensor) -> Tensor:
        self.sent += 1
        return host.clone()

    def fetch(self, found: Tensor) -> FloatArray:
        self.fetched += 1
        assert found.dtype == torch.float32
        return found.clone().numpy()

    def attend(self, query: Tensor, key: Tensor, value: Tensor, active: Ragged, rows: Ragged) -> Tensor:
        """What flash attention finds, one sequence at a time."""
        assert rows.cu_seqlens.dtype == torch.int32 and query.stride(-1) == 1
        found = []
        bounds = zip(pairwise(active.cu_seqlens.tolist()), pairwise(rows.cu_seqlens.tolist()), strict=True)
        for of_query, (start, end) in bounds:
            asking, *answering = query[slice(*of_query)], key[start:end], value[start:end]
            own = (part.transpose(0, 1) for part in (asking, *answering))  # (heads, pieces, width)
            found.append(functional.scaled_dot_product_attention(*own).transpose(0, 1))
        return torch.cat(found)

    def wait(self) -> None:
        """Nothing is under way."""


def on_stand_in(
    model: MultiExitModel | None = None, dtype: torch.dtype = torch.bfloat16
) -> tuple[CudaExecutor, StandIn]:
    """The executor for GPUs on a model, or on a tiny one, and the GPU that it believes in."""
    gpu = StandIn()
    return CudaExecutor(model or tiny_model(), gpu, dtype), gpu
