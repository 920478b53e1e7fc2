"""Steps on a GPU over memory at fixed addresses, so that they can be recorded as CUDA graphs and replayed.

One copy tells the GPU all that it must know of a step. A graph then gathers the states from the pool, runs layers and
an exit, and puts the states back into the pool; what the exit found stands in fixed memory as well, for one copy back.
Nothing in between is allocated or waited for.

Steps are filled up to a few sizes, see `buckets`. What is computed of rows beyond the last sequence may be anything: no
row looks at another but in attention and in exits, which go by sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from service.executors.buckets import ROWS, SEQUENCES, Bucket, Kind, laid_out
from service.executors.graphs import Graphs, Work
from service.executors.state_pool import PooledState, StatePool
from service.executors.triton_exit import Found
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, Ragged
from service.spans.table import SUMMARY, num_cells
from service.spans.types import IntArray
from service.text.types import SequenceInput

MOST_ROWS = ROWS[-1]
MOST_CELLS = 1 << 20  # of a step's span tables; 64 sequences of 128 words have half as many
_LARGEST = Kind(1, 1, with_exit=True, with_table=False, bucket=Bucket(MOST_ROWS, SEQUENCES[-1], 1))


class Exits(Protocol):
    """The exits of a model on a GPU: `TritonExit`, or what tests put in its place."""

    def run(self, layer: int, state: Tensor, packed: Packed, *, with_table: bool, into: Found | None = None) -> Found:
        """Run the exit after a layer; see TritonExit."""


class Memory(Protocol):
    """What is needed of a GPU here.

    fixed   reserves memory for good: its shape and kind, with no values yet
    fill    copies numbers from the host to the beginning of such memory; the host does not wait
    record  takes work down as a graph; -> what replays it. It may do the work meanwhile, which changes nothing where it
            was done before. Raises RuntimeError where it cannot be recorded
    send    copies to new memory
    """

    def fixed(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor: ...
    def fill(self, there: Tensor, told: IntArray) -> None: ...
    def record(self, work: Work) -> Work: ...
    def send(self, host: Tensor) -> Tensor: ...


class Done(NamedTuple):
    """A step that was asked for: its states, and what its exit finds, in memory that the next step writes to.

    sequences  how many the summary has room for, beyond which the candidates begin
    """

    states: list[PooledState]
    found: Found | None
    sequences: int


class FixedSteps:
    """Runs steps of one model over fixed memory, by graphs where they have been recorded.

    pool    where states are
    graphs  what was recorded
    """

    def __init__(self, model: MultiExitModel, exits: Exits, gpu: Memory, dtype: torch.dtype) -> None:
        """model: on the GPU, its layers of this dtype."""
        self._model, self._exits, self._gpu, self._dtype = model, exits, gpu, dtype
        config = model.config
        # as many as the engine lets begin, those that a step reads and writes, and some that go on alone
        rows = (config.num_layers + 3) * MOST_ROWS
        self.pool = StatePool(gpu.fixed((rows, config.encoder.hidden_size), dtype), gpu.send)
        self._told = gpu.fixed((_LARGEST.size,), torch.int64)
        self._summary = gpu.fixed(((len(SUMMARY) + 1) * SEQUENCES[-1] + 4 * MOST_ROWS,), torch.float32)
        self._labels = gpu.fixed((MOST_CELLS,), torch.int32)
        self._log_probs = gpu.fixed((MOST_CELLS,), torch.float32)
        self._table: Tensor | None = None  # (MOST_CELLS, K), once somebody wants one
        self.graphs = Graphs(gpu.record)

    def run(
        self,
        layers: range,
        inputs: Sequence[SequenceInput],
        states: Sequence[object | None],
        *,
        with_exit: bool,
        with_table: bool,
    ) -> Done | None:
        """Run layers, and maybe the exit after the last; None for steps that are too large, or begin elsewhere."""
        lengths = [one.num_pieces for one in inputs]
        bucket = Bucket.of(lengths)
        before = [state.places for state in states if isinstance(state, PooledState)]
        begins_here = len(before) == len(inputs) if layers.start > 1 else not before
        cells = sum(num_cells(one.num_words) for one in inputs) if with_exit else 0
        if bucket is None or not begins_here or cells > MOST_CELLS or (taken := self.pool.take(lengths)) is None:
            return None
        after, places = taken
        kind = Kind(layers[0], layers[-1], with_exit, with_exit and with_table, bucket)
        if kind.with_table and self._table is None:
            self._table = self._gpu.fixed((MOST_CELLS, self._model.config.num_labels), torch.float32)
        self._gpu.fill(self._told, laid_out(kind, inputs, before, places))
        self.graphs.run(kind, partial(self._launch, kind))
        return Done(after, self._room(kind, cells) if with_exit else None, bucket.sequences)

    def _launch(self, kind: Kind) -> None:
        """Ask for all that a step of this kind does. Only addresses and sizes are read here, and no value."""
        told = {name: self._told[place] for name, place in kind.places()}
        packed = self._packed(kind, told)
        if kind.first == 1:
            state = self._model.embed(packed).to(self._dtype)
        else:
            state = self.pool.rows.index_select(0, told["before"])
        for layer in range(kind.first, kind.last + 1):
            state = self._model.run_layer(layer, state, packed)
        self.pool.rows.index_copy_(0, told["after"], state)
        if kind.with_exit:
            into = self._room(kind, MOST_CELLS)
            self._exits.run(kind.last, state, packed, with_table=kind.with_table, into=into)

    def _packed(self, kind: Kind, told: dict[str, Tensor]) -> Packed:
        """A step's sequences. How long each is stands on the GPU alone; on the host all are as long as the longest"""
        rows, sequences, longest = kind.bucket
        pieces, words = (Ragged((longest,) * sequences, self._told.device) for _ in range(2))
        unread = self._told[:rows]  # in place of what a step of this kind does not look at
        packed = Packed(
            told.get("piece_ids", unread),
            told.get("shape_ids", unread),
            told.get("positions", unread),
            told.get("first_piece", unread),
            told.get("last_piece", unread),
            pieces,
            words,
        )
        # into the caches of what would be worked out from lengths
        vars(pieces)["cu_seqlens"] = told["cu_seqlens"].view(torch.int32)[: sequences + 1]
        vars(packed).update(word_starts=told["word_starts"], cell_starts=told["cell_starts"])
        return packed

    def _room(self, kind: Kind, cells: int) -> Found:
        """Where the exit of a step of this kind leaves what it finds, of so many cells."""
        rows, sequences, _ = kind.bucket
        summary = self._summary[: (len(SUMMARY) + 1) * sequences + 4 * rows]
        table = self._table if kind.with_table else None
        return Found(summary, self._labels[:cells], self._log_probs[:cells], None if table is None else table[:cells])
