"""A stand-in for a GPU, on the CPU, that counts what passes between it and the host. No test lives here.

It makes mistakes seen: what nobody has written is NaN, or an index that there is nowhere; what is recorded runs again
later, when all that may have changed has; rows that belong to no sequence come out of attention as NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from service.executors.cuda import CudaExecutor
from service.executors.fixed_steps import Exits
from service.executors.graphs import Work
from service.executors.triton_exit import Found
from service.exits.reading import Reading
from service.models.encoder import add_norm
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, Ragged
from service.models.relative_bias import Bias
from service.spans.types import FloatArray, IntArray
from tests.models_ import tiny_model

NOWHERE = 1 << 60  # as an index


class StandIn:
    """In place of `service.executors.cuda.Gpu`.

    sent, fetched  how often something was copied there, and back
    recorded       how often work was recorded
    """

    name = "stand-in"

    def __init__(
        self, exits: Callable[[MultiExitModel], Exits] | None = None, add_norm: Callable[..., Tensor] = add_norm
    ) -> None:
        """exits: makes those of a model; None: they have no kernels, so that steps are launched kernel by kernel."""
        self.add_norm = add_norm
        self.device = torch.device("cpu")
        self.sent = self.fetched = self.recorded = 0
        self._exits = exits
        self._results: list[Tensor] = []  # fixed memory that every step is to write anew

    def exits_of(self, model: MultiExitModel) -> Exits | None:
        return None if self._exits is None else self._exits(model)

    def send(self, host: Tensor) -> Tensor:
        self.sent += 1
        return host.clone()

    def fetch(self, found: Tensor) -> FloatArray:
        self.fetched += 1
        assert found.dtype == torch.float32
        return found.clone().numpy()

    def fixed(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        memory = torch.empty(shape, dtype=dtype)
        memory.fill_(torch.nan if dtype.is_floating_point else -1)
        if dtype in (torch.float32, torch.int32):
            self._results.append(memory)
        return memory

    def fill(self, there: Tensor, told: IntArray) -> None:
        self.sent += 1
        there.fill_(NOWHERE)
        there[: len(told)] = torch.from_numpy(told)
        self._forget_results()

    def record(self, work: Work) -> Work:
        self.recorded += 1
        work()
        return work

    def _forget_results(self) -> None:
        for memory in self._results:
            memory.fill_(torch.nan if memory.dtype == torch.float32 else NOWHERE >> 32)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, active: Ragged, rows: Ragged, bias: Bias | None = None
    ) -> Tensor:
        """What flash attention finds, one sequence at a time."""
        assert rows.cu_seqlens.dtype == torch.int32 and query.stride(-1) == 1
        found = torch.full_like(query, torch.nan)
        bounds = zip(pairwise(active.cu_seqlens.tolist()), pairwise(rows.cu_seqlens.tolist()), strict=True)
        for of_query, (start, end) in bounds:
            assert end - start <= rows.longest and of_query[1] - of_query[0] <= active.longest
            if start < end:
                asking, *answering = query[slice(*of_query)], key[start:end], value[start:end]
                own = (part.transpose(0, 1) for part in (asking, *answering))  # (heads, pieces, width)
                mask = None if bias is None else bias_of(bias, slice(*of_query), end - start).to(query.dtype)
                context = functional.scaled_dot_product_attention(*own, attn_mask=mask)
                found[slice(*of_query)] = context.transpose(0, 1)
        return found

    def wait(self) -> None:
        """Nothing is under way."""


def bias_of(bias: Bias, queries: slice, num_keys: int) -> Tensor:
    """Of one sequence: (heads, queries, keys)."""
    every = torch.arange(queries.stop - queries.start)
    positions = every if bias.positions is None else bias.positions[queries].cpu()
    distances = torch.arange(num_keys)[None] - positions[:, None]
    return bias.by_distance[:, (distances + bias.farthest).to(bias.by_distance.device)]


class ExitsByPyTorch:
    """In place of `TritonExit`, where there is no Triton: finds the same, and writes it to the same places.

    Like the kernels, it learns of the sequences from what the GPU was told alone.
    """

    def __init__(self, model: MultiExitModel) -> None:
        self._model = model

    def run(self, layer: int, state: Tensor, packed: Packed, *, with_table: bool, into: Found | None = None) -> Found:
        lengths = packed.word_starts.diff().tolist()
        words = [length for length in lengths if length]
        count = sum(words)
        rows = Ragged(tuple(words), state.device)
        assert rows.longest <= packed.words.longest and packed.cell_starts.diff().tolist()[: len(words)] == [
            length * (length + 1) // 2 for length in words
        ]
        own = Packed(
            *(packed.piece_ids[:0] for _ in range(3)),
            first_piece=packed.first_piece[:count],
            last_piece=packed.last_piece[:count],
            pieces=rows,
            words=rows,
        )
        table = self._model.exit_table(layer, state, own)
        reading = Reading(table, words, nested=self._model.config.nested)
        found = into or Found(
            torch.full((7 * len(lengths) + 4 * len(packed.first_piece),), torch.nan),
            torch.empty(len(table), dtype=torch.int32),
            torch.empty(len(table)),
            torch.empty_like(table) if with_table else None,
        )
        candidates = reading.candidates
        at = 7 * len(lengths)
        found.summary[: 6 * len(words)] = torch.from_numpy(reading.summary.flatten())
        found.summary[6 * len(lengths) : 6 * len(lengths) + len(words)] = torch.tensor(candidates.counts)
        for room, cells in zip(words, candidates.split(), strict=True):
            fitting = np.ravel(cells[:room])
            found.summary[at : at + len(fitting)] = torch.from_numpy(fitting)
            at += 4 * room
        log_probs, labels = reading.best
        found.labels[: len(table)], found.log_probs[: len(table)] = labels.int(), log_probs
        if found.table is not None:
            found.table[: len(table)] = table
        return found


def forget(executor: CudaExecutor) -> None:
    """Fill all rows of the pool that no state has with NaN."""
    assert executor.fixed_steps is not None
    pool = executor.fixed_steps.pool
    pool.rows[torch.from_numpy(pool.free).to(pool.rows.device)] = torch.nan


def on_stand_in(
    model: MultiExitModel | None = None, dtype: torch.dtype = torch.bfloat16
) -> tuple[CudaExecutor, StandIn]:
    """The executor for GPUs on a model, or on a tiny one, and the GPU that it believes in."""
    gpu = StandIn()
    return CudaExecutor(model or tiny_model(), gpu, dtype), gpu


def on_recording_stand_in(model: MultiExitModel | None = None) -> tuple[CudaExecutor, StandIn]:
    """The same, but the steps of the model are recorded and replayed."""
    gpu = StandIn(ExitsByPyTorch)
    return CudaExecutor(model or tiny_model(), gpu), gpu
