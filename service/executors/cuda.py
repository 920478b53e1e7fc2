"""The executor for GPUs: the encoder in bfloat16 on packed sequences, exits in float32, one copy to the host a step.

Where exits run as kernels of `triton_exit`, steps are replayed as CUDA graphs, see `fixed_steps`. What has none, halted
words, exits of another form, too large a step, is launched kernel by kernel. What was run on a card stands in
docs/gpu.md; elsewhere tests put a stand-in in the place of `Gpu`.

Attention gives a sequence the same bits in any batch. The matrix products may not: cuBLAS chooses how to compute them
by the number of rows. Whether they do is for tests/executors/test_cuda_gpu.py to tell.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.executors import triton_attention, triton_exit, triton_norm
from service.executors.buckets import ROWS
from service.executors.executor import State
from service.executors.fixed_steps import Done, Exits, FixedSteps
from service.executors.graphs import Work
from service.executors.pytorch import PyTorchExecutor, on_host
from service.executors.state_pool import PooledState
from service.executors.triton_exit import Found, TritonExit
from service.exits.candidates import Candidates
from service.exits.cells import Cells
from service.exits.reading import Reading
from service.exits.words import Flags
from service.models.biaffine import Projections
from service.models.config import ModelConfig
from service.models.encoder import EncoderLayer, SelfAttention
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, Ragged, pack
from service.models.relative_bias import Bias, FixedBias, RelativeBias
from service.spans.table import SUMMARY, num_cells
from service.spans.types import FloatArray, IntArray
from service.text.types import SequenceInput

Attend = Callable[[Tensor, Tensor, Tensor, Ragged, Ragged, Bias | None], Tensor]
AddNorm = Callable[..., Tensor]
_OLDEST = (8, 0)  # compute capability that PyTorch's flash attention needs
_CPU = torch.device("cpu")


def reason_against(config: ModelConfig, device: torch.device) -> str | None:
    """Why a device cannot run a model this way; None if it can."""
    if device.type != "cuda" or torch.version.hip:
        return f"it needs a CUDA device, not {'ROCm' if device.type == 'cuda' else device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST:
        return "it needs compute capability {}.{}, this GPU has {}.{}".format(*_OLDEST, *capability)
    width = config.encoder.hidden_size // config.encoder.num_heads
    if width % 8 or width > 256:
        return f"its heads have {width} dimensions, not a multiple of 8 up to 256"
    if config.encoder.relative_bias and find_spec("triton") is None:
        return "its attention adds a bias by distance, for which Triton is needed, and that is not installed"
    return None


class Gpu:
    """What the executor needs of a CUDA device; tests put a stand-in on the CPU in its place."""

    def __init__(self, device: torch.device) -> None:
        from torch.nn.attention.varlen import varlen_attn  # loads PyTorch's compiler, which nobody else needs

        self.device, self.name = device, torch.cuda.get_device_name(device)
        self._varlen_attn = in_one_split(varlen_attn)
        self.add_norm: AddNorm = triton_norm.add_norm  # for models whose exits are kernels
        self._arrived = torch.cuda.Event()
        self._aside = torch.cuda.Stream(device)  # where graphs are recorded
        self._of_graphs = torch.cuda.graph_pool_handle()  # memory that all graphs work in: one is replayed at a time

    def exits_of(self, model: MultiExitModel) -> Exits | None:
        """Return a model's exits as kernels; None where there are none. The model is in float32."""
        if triton_exit.reason_against(model.config) is not None:
            return None
        exits = TritonExit(model, self.device)
        exits.compile()
        return exits

    def send(self, host: Tensor) -> Tensor:
        """Copy to the device; what the device does next waits for the copy, the host does not."""
        return host.pin_memory().to(self.device, non_blocking=True)

    def fetch(self, found: Tensor) -> FloatArray:
        """Copy to the host, which waits until the copy has arrived."""
        host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        host.copy_(found, non_blocking=True)
        self._arrived.record(torch.cuda.current_stream(self.device))
        self._arrived.synchronize()
        array: FloatArray = host.numpy()
        return array

    def fixed(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Reserve memory for good, with no values yet."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def fill(self, there: Tensor, told: IntArray) -> None:
        """Copy numbers to the beginning of memory on the device, as `send` does."""
        there[: len(told)].copy_(torch.from_numpy(told).pin_memory(), non_blocking=True)

    def record(self, work: Work) -> Work:
        """Record what some work asks of the device as a CUDA graph; -> what replays it.

        The work is done once before, which must change nothing: what a thread and a stream compile, load and reserve on
        their first call cannot be while a graph is recorded. Raises RuntimeError where the work cannot be recorded.
        """
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        self._aside.wait_stream(here)
        with torch.cuda.stream(self._aside):
            work()
        here.wait_stream(self._aside)
        with torch.cuda.stream(self._aside):
            graph.capture_begin(pool=self._of_graphs, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        return graph.replay

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, active: Ragged, rows: Ragged, bias: Bias | None = None
    ) -> Tensor:
        """Let every active row attend to all rows of its sequence.

        query (active pieces, heads, width), key and value (pieces, heads, width) -> (active pieces, heads, width)
        """
        if bias is not None:
            return triton_attention.attend(query, key, value, active, rows, bias)
        bounds = active.cu_seqlens, rows.cu_seqlens
        return self._varlen_attn(query, key, value, *bounds, active.longest, rows.longest)

    def wait(self) -> None:
        """Return when all that was asked for is done."""
        torch.cuda.synchronize(self.device)


def in_one_split(varlen_attn: Callable[..., Any]) -> Callable[..., Tensor]:
    """Return PyTorch's attention over packed rows such that it reads every sequence's keys in one go.

    How many splits there would be depends on the longest sequence of the batch, and a sequence's bits on that. PyTorch
    2.11 has no such parameter: its flash attention splits packed rows only where heads share keys, and ours do not.
    """
    if "num_splits" in inspect.signature(varlen_attn).parameters:
        return partial(varlen_attn, num_splits=1)
    return varlen_attn


class CudaExecutor(PyTorchExecutor):
    """Runs a copy of a MultiExitModel step by step.

    fixed_steps  its steps over fixed memory, which are replayed as graphs; None for a model that has none
    """

    max_step_pieces = ROWS[-1]

    def __init__(self, model: MultiExitModel, gpu: Gpu, dtype: torch.dtype = torch.bfloat16) -> None:
        """model: one that `reason_against` has nothing against; dtype: of the encoder's layers."""
        model = deepcopy(model).eval()
        self._exits = gpu.exits_of(model) if dtype == torch.bfloat16 else None
        for layer in model.encoder.layers:
            padded = cast("SelfAttention", layer.attention)
            layer.attention = _PackedAttention(padded, model.config.encoder.num_heads, gpu.attend)
            if self._exits is not None:
                cast("EncoderLayer", layer).add_norm = gpu.add_norm
        embeddings = model.encoder.embeddings
        if isinstance(embeddings.relative_bias, RelativeBias):
            embeddings.relative_bias = FixedBias(embeddings.relative_bias)
        model.to(gpu.device)
        model.encoder.layers.to(dtype)
        super().__init__(model, dtype)
        self._gpu = gpu
        self.max_step_layers = model.config.num_layers
        self.fixed_steps = None if self._exits is None else FixedSteps(model, self._exits, gpu, dtype)

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
        """See Executor."""
        if self.fixed_steps is not None and active is None:
            layers = range(layer, (layer if through is None else through) + 1)
            done = self.fixed_steps.run(layers, inputs, states, with_exit=with_exit, with_table=with_table)
            if done is not None:
                return self._read_done(done, tuple(one.num_words for one in inputs))
        wishes = {"with_exit": with_exit, "with_table": with_table}
        return super().run_layer(layer, inputs, states, **wishes, active=active, through=through)

    def _pack(self, inputs: tuple[SequenceInput, ...]) -> Packed:
        """Sequences, packed on the host and sent to the GPU as one array."""
        return pack(inputs, _CPU).sent(self._gpu.send)

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
        """See PyTorchExecutor; by the three kernels where they can."""
        if self._exits is None or words is not None:
            return super()._run_exit(layer, hidden, packed, before, words, with_table=with_table)
        found = self._exits.run(layer, hidden, packed, with_table=with_table)
        return found.table, self._reading(found, packed.words.lengths, packed.words.batch)

    def _read_done(self, done: Done, num_words: tuple[int, ...]) -> tuple[list[PooledState], Reading | None]:
        """What a step over fixed memory left there; the next one writes to it again."""
        found = done.found
        if found is None:
            return done.states, None
        if found.table is not None:
            table = found.table.clone()
            for state, own in zip(done.states, table.split(list(map(num_cells, num_words))), strict=True):
                state.table = own
            found = found._replace(table=table)
        return done.states, self._reading(found, num_words, done.sequences)

    def _reading(self, found: Found, num_words: tuple[int, ...], sequences: int) -> Reading:
        """What an exit's kernels found; sequences: how many the summary has room for."""
        count = len(num_words)
        host = self._gpu.fetch(found.summary)  # the device-to-host copy of a step
        figures, counts, rows = np.split(host, [len(SUMMARY) * sequences, (len(SUMMARY) + 1) * sequences])
        numbers, cells = tuple(map(int, counts[:count])), rows.reshape(-1, 4)
        if any(number > room for number, room in zip(numbers, num_words, strict=True)):
            every = self._gpu.fetch(torch.stack([found.labels.float(), found.log_probs], dim=1))  # a second copy
            chosen = np.flatnonzero(every[:, 0])
            candidates = Candidates.at(chosen, every[chosen].astype(np.float64), num_words)
        else:
            starts = accumulate(num_words, initial=0)
            parts = [cells[start : start + number] for start, number in zip(starts, numbers, strict=False)]
            candidates = Candidates(numbers, np.concatenate(parts))
        return Reading(
            found.table,
            num_words,
            nested=self.config.nested,
            summary=figures.reshape(sequences, len(SUMMARY))[:count].astype(np.float64),
            candidates=candidates,
        )

    def _read(self, table: Tensor, packed: Packed, projections: Projections | None, *, with_table: bool) -> Reading:
        """What an exit said; its summary and candidates are brought to the host in one copy.

        The copy has room for one candidate a word. A trained exit hardly ever finds more; where it does, all candidates
        are fetched in a second copy.
        """
        count, room = packed.words.batch, sum(packed.words.lengths)
        cells = Cells(packed.cell_sequence, packed.cell_counts, packed.cell_sizes)
        seen = Reading(table, packed.words.lengths, nested=self.config.nested, cells=cells)
        log_prob, label = seen.best
        is_candidate = label > 0
        index = is_candidate.nonzero_static(size=room, fill_value=0).squeeze(1)  # `nonzero` would make the host wait
        columns = [column.index_select(0, index).float() for column in (*packed.cell_words, label, log_prob)]
        # float32 hides that a GPU adds float64 figures in any order
        parts = [seen.summary_on_device.float(), cells.sum(is_candidate).float(), torch.stack(columns, dim=1)]
        found = self._gpu.fetch(torch.cat([part.flatten() for part in parts]))  # the device-to-host copy of a step
        figures, counts, rows = np.split(found, [len(SUMMARY) * count, (len(SUMMARY) + 1) * count])
        numbers = tuple(map(int, counts))
        if (total := sum(numbers)) > room:
            candidates = seen.candidates  # a second copy
        else:
            candidates = Candidates(numbers, rows.reshape(room, 4)[:total].copy())
        return Reading(
            table if with_table else None,
            packed.words.lengths,
            nested=self.config.nested,
            summary=figures.reshape(count, len(SUMMARY)).astype(np.float64),
            candidates=candidates,
            projections=on_host(projections),
        )

    def wait(self) -> None:
        """See Executor."""
        self._gpu.wait()

    def describe(self) -> dict[str, str | int]:
        """See Executor; one thread asks the GPU for everything."""
        dtype = str(self._dtype).removeprefix("torch.")
        return {"device": self._gpu.name, "dtype": dtype, "executor": "cuda", "threads": 1}


class _PackedAttention(nn.Module):
    """A `SelfAttention` without padding; query, key and value in one product while all rows are active."""

    def __init__(self, padded: SelfAttention, num_heads: int, attend: Attend) -> None:
        super().__init__()
        width = padded.query.in_features
        self.query_key_value = nn.Linear(width, 3 * width)
        both = padded.query.state_dict(), padded.key_value.state_dict()
        self.query_key_value.load_state_dict({name: torch.cat([one[name] for one in both]) for name in both[0]})
        self.output = padded.output
        self._num_heads, self._attend = num_heads, attend

    def forward(
        self, active: Tensor, active_rows: Ragged, hidden: Tensor, rows: Ragged, bias: Bias | None = None
    ) -> Tensor:
        """See SelfAttention."""
        if active is hidden:
            query, key, value = self._heads(self.query_key_value(hidden), 3)
        else:
            width = hidden.shape[1]
            weight, shift = self.query_key_value.weight, self.query_key_value.bias
            (query,) = self._heads(functional.linear(active, weight[:width], shift[:width]), 1)
            key, value = self._heads(functional.linear(hidden, weight[width:], shift[width:]), 2)
        output: Tensor = self.output(self._attend(query, key, value, active_rows, rows, bias).flatten(1))
        return output

    def _heads(self, rows: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(rows, parts * hidden) -> of every part (rows, heads, width)"""
        return rows.view(len(rows), parts, self._num_heads, -1).unbind(1)
