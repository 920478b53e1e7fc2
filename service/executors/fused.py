"""The executor for CPUs: every layer and exit as one fused kernel, matrices as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.executors.quantized import ALIGNMENT, aligned_empty, quantize
from service.exits.reading import Candidates, Figures, Projections, Reading
from service.exits.words import Flags
from service.kernels.layer import NUM_FIGURES, STARTS_OF_A_BLOCK, STEP, WORDS_OF_A_BLOCK, arrange
from service.kernels.rows import PANEL
from service.kernels.team import Team
from service.kernels.tiles import LANES, MAX_TILE_ROWS, byte_dot_instruction
from service.models.config import EncoderConfig, ExitConfig, ModelConfig
from service.models.multi_exit import MultiExitModel
from service.spans.table import SUMMARY, num_cells
from service.spans.types import FloatArray
from service.text.types import SequenceInput

_ACTIVATIONS = {"gelu": 0, "relu": 1}
_FIELDS = {name: index for index, name in enumerate(STEP.names or ())}
_BOUNDS = ("row_starts", "word_starts", "moving_starts", "halted_starts")
_OF_SEQUENCES = ("cell_starts", "inputs", "outputs", "num_found", "reads_words", "new_words")
_OF_WORDS = (
    *("first_piece", "last_piece", "first_row", "last_row"),
    *("word_moves", "place_of_word", "word_at_place"),
)
_OF_ROWS = ("piece_ids", "position_ids", "shape_ids", "row_of_piece", "piece_of_row")
_LAYER = _FIELDS["layer"]  # after the sizes of a step, and before what is wanted of it
# memory of two states; address of the present one; of the next one; what the exit said, if it ran
State = tuple[NDArray[np.float32], int, int, "Said | None"]


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What an exit said of one sequence, for later layers in which words of it are halted.

    cells  (candidates, 4), see Candidates; without those that decoding leaves out, unless the sequence is read by word
    table  (cells, K), if it was wanted
    """

    cells: FloatArray
    table: FloatArray | None


def reason_against(config: ModelConfig) -> str | None:
    """Why the kernels cannot run a model; None if they can."""
    encoder, exits = config.encoder, config.exits
    width = encoder.hidden_size
    if encoder.embedding_size != width:
        return "its embeddings have another width than its layers"
    if encoder.activation not in _ACTIVATIONS:
        return f"its activation is {encoder.activation}"
    if exits.form == "full":
        return "its exits have full rank"
    sizes = {"hidden_size": width, "intermediate_size": encoder.intermediate_size, "exits.rank": exits.rank}
    for name, size in sizes.items():
        if size % PANEL:
            return f"its {name} is {size}, not a multiple of {PANEL}"
    if width // encoder.num_heads % LANES:
        return f"its heads have {width // encoder.num_heads} dimensions, not a multiple of {LANES}"
    return None


def is_fast_here() -> bool:
    """Whether this processor multiplies bytes by an instruction of its own; without one PyTorch is about as fast."""
    return byte_dot_instruction() != "portable"


def compile_kernels() -> None:
    """Compile what every fused executor runs, unless that was done before on this machine."""
    encoder = EncoderConfig("bert", 8, PANEL, PANEL, 1, 1, PANEL, 8)
    exits = ExitConfig(rank=PANEL)
    model = MultiExitModel(ModelConfig("none", "0", ("X",), False, encoder, exits))
    one = np.ones(1, dtype=np.int64)
    sequence = SequenceInput(np.arange(3), np.zeros(3, dtype=np.int64), one, one, one, one, (0, 1))
    executor = FusedExecutor(model, 1)
    executor.run_layer(1, [sequence], [None])
    executor.close()


class FusedExecutor:
    """Runs a model's layers with `threads` threads, the caller's included; one caller at a time.

    The first one of a machine compiles the kernels, which takes some ten seconds and is kept for the next.
    """

    max_step_pieces = 256

    def __init__(self, model: MultiExitModel, threads: int) -> None:
        """model: one that `reason_against` has nothing against."""
        config = self.config = model.config
        self._weights = quantize(model)
        self._team = Team(self._weights.layers, threads)
        self._hidden = config.encoder.hidden_size
        self._labels = config.num_labels - 1
        self._step = self._describe_model(config)
        self._description: NDArray[np.int64] = self._step.view(np.int64)
        positions = config.encoder.max_positions - config.encoder.position_offset
        self._positions = np.arange(positions) + config.encoder.position_offset
        self._reserved = _Sizes(0, 0, 0, 0, 0, 0)
        self._memory: dict[str, NDArray[Any]] = {}
        self._inputs: tuple[SequenceInput, ...] = ()  # that the step is laid out for, and their words
        self._num_words: tuple[int, ...] = ()
        self._moves_all = True

    def wait(self) -> None:
        """See Executor; a step is done when `run_layer` returns."""

    def describe(self) -> dict[str, str | int]:
        """See Executor."""
        return {"device": "cpu", "dtype": "int8", "executor": "fused", "threads": self._team.threads}

    def _describe_model(self, config: ModelConfig) -> NDArray[Any]:
        """(1,) a record of STEP, with what does not change from step to step."""
        encoder, exits = config.encoder, config.exits
        step = np.zeros(1, dtype=STEP)
        record = step[0]
        values = {
            "hidden": encoder.hidden_size,
            "heads": encoder.num_heads,
            "intermediate": encoder.intermediate_size,
            "activation": _ACTIVATIONS[encoder.activation],
            "rank": exits.rank,
            "labels": self._labels,
            "reach": exits.reach if exits.form == "contextual" else 0,
            "longest_span": encoder.max_positions,
            "word_columns": _whole(2 * (exits.rank + self._labels), PANEL),
            "half_columns": _whole(self._labels * (exits.rank + self._labels + 1), PANEL),
            "is_contextual": exits.form == "contextual",
            "ends_at_last_piece": exits.end_piece == "last",
            "is_nested": config.nested,
            "has_one_exit": config.num_exits == 1 < config.num_layers,
            "epsilon": encoder.layer_norm_eps,
            **{name: table.ctypes.data for name, table in self._weights.embeddings.items()},
        }
        for name, value in values.items():
            record[name] = value
        return step

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
        inputs = tuple(inputs)
        by_word = active is not None and any(flags is not None for flags in active)
        if inputs != self._inputs or by_word or not self._moves_all:
            self._lay_out(inputs, active if by_word else None)
        count, memory, step = len(inputs), self._memory, self._description
        before = [
            self._fresh(sequence.num_pieces) if state is None else state
            for sequence, state in zip(inputs, states, strict=True)
        ]
        memory["inputs"][:count] = [here for _, here, _, _ in before]
        memory["outputs"][:count] = [there for _, _, there, _ in before]
        if layer == 1:
            self._fill("piece_ids", [sequence.piece_ids for sequence in inputs])
            self._fill("shape_ids", [sequence.shape_ids for sequence in inputs])
            self._fill("position_ids", [self._positions[: sequence.num_pieces] for sequence in inputs])
        step[_LAYER : _LAYER + 3] = layer - 1, with_exit, with_table
        table = None
        if with_table:
            table = self._table(before)
            step[_FIELDS["table"]] = table.ctypes.data
        num_found = self._team.run(step)
        if not with_exit:
            return [(memory_of, there, here, None) for memory_of, here, there, _ in before], None
        found = memory["found"][:num_found].copy()
        candidates = Candidates(tuple(memory["num_found"][:count].tolist()), found, are_entities=not by_word)
        summary, uncertainty = memory["summary"][:count].copy(), None
        said: list[Said | None] = [None] * count
        if active is not None and by_word:
            candidates, said = self._join(candidates, active, before, table)
            self._sum_up(summary, active, table)
            uncertainty = memory["uncertainty"][: sum(self._num_words)].copy()
        reading = Reading(
            None if table is None else torch.from_numpy(table),
            self._num_words,
            nested=self.config.nested,
            summary=summary,
            candidates=candidates,
            word_uncertainty=uncertainty,
            projections=self._projections() if self.config.prototypes else None,
        )
        pairs = zip(before, said, strict=True)
        return [(memory_of, there, here, words) for (memory_of, here, there, _), words in pairs], reading

    def _projections(self) -> Projections:
        words = self._memory["seen_words"][: sum(self._num_words)]
        return words[:, 0].copy(), words[:, 1].copy()

    def _table(self, before: Sequence[State]) -> FloatArray:
        """(cells, K) to write to; where words are halted, what the exit said before."""
        table = np.empty((self._description[_FIELDS["cells"]], self._labels + 1), dtype=np.float32)
        if not self._moves_all:
            start = 0
            for words, (_, _, _, said) in zip(self._num_words, before, strict=True):
                if said is not None and said.table is not None:
                    table[start : start + num_cells(words)] = said.table
                start += num_cells(words)
        return table

    def _join(
        self,
        candidates: Candidates,
        active: Sequence[Flags | None],
        before: Sequence[State],
        table: FloatArray | None,
    ) -> tuple[Candidates, list[Said | None]]:
        """The candidates of sequences that are read by word, with those of halted words; and what to keep."""
        parts: list[FloatArray] = []
        kept: list[Said | None] = []
        cell = 0
        for words, new, flags, (_, _, _, said) in zip(self._num_words, candidates.split(), active, before, strict=True):
            of_table = None if table is None else table[cell : cell + num_cells(words)]
            cell += num_cells(words)
            if flags is None or self.config.hash is not None:
                parts.append(new)
                kept.append(None)
                continue
            if said is not None and len(said.cells) and not flags.all():
                ends = said.cells[:, :2].astype(np.int64)
                stays = ~flags[ends].any(axis=1)
                new = np.concatenate([said.cells[stays], new])
                new = new[np.lexsort((new[:, 1], new[:, 0]))]
            elif len(new) > 1 and not flags.all():
                new = new[np.lexsort((new[:, 1], new[:, 0]))]
            parts.append(new)
            kept.append(Said(new, of_table))
        return Candidates.join(parts, are_entities=False), kept

    def _sum_up(self, summary: Figures, active: Sequence[Flags | None], table: FloatArray | None) -> None:
        """The kernels have no summary of a sequence that has halted words; the table has."""
        cell = 0
        for index, (words, flags) in enumerate(zip(self._num_words, active, strict=True)):
            size = num_cells(words)
            if flags is not None and not flags.all() and self.config.hash is None:
                summary[index] = np.nan
                if table is not None:
                    own = torch.from_numpy(table[cell : cell + size])
                    summary[index] = Reading(own, (words,), nested=self.config.nested).summary[0]
            cell += size

    def _lay_out(self, inputs: tuple[SequenceInput, ...], active: Sequence[Flags | None] | None) -> None:
        """Tell the kernels who is in the step, which words move, and where each one's rows, words and cells lie."""
        self._inputs = ()  # what fails from here on is to be done again
        lengths = [sequence.num_pieces for sequence in inputs]
        num_words = [sequence.num_words for sequence in inputs]
        sizes = _Sizes.of(lengths, num_words)
        if not sizes.fit(self._reserved):
            self._reserve(sizes)
        count, memory = len(inputs), self._memory
        memory["row_starts"][: count + 1] = list(accumulate(lengths, initial=0))
        memory["word_starts"][: count + 1] = list(accumulate(num_words, initial=0))
        memory["cell_starts"][:count] = list(accumulate(map(num_cells, num_words[:-1]), initial=0))
        self._fill("first_piece", [sequence.first_piece for sequence in inputs])
        self._fill("last_piece", [sequence.last_piece for sequence in inputs])
        step = self._step[0]
        memory["reads_words"][:count], step["by_word"] = 0, active is not None
        if active is not None:
            memory["reads_words"][:count] = [flags is not None and self.config.hash is None for flags in active]
            moves = [
                np.ones(n, dtype=bool) if flags is None else flags for n, flags in zip(num_words, active, strict=True)
            ]
            memory["word_moves"][: sizes.words] = np.concatenate(moves)
        self._description[:_LAYER] = sizes.rows, count, sizes.words, sizes.longest_words, sizes.cells
        arrange(self._step)
        self._inputs, self._num_words, self._moves_all = inputs, tuple(num_words), active is None

    def _fresh(self, rows: int) -> State:
        memory = np.empty((2, rows, self._hidden), dtype=np.float32)
        address = memory.ctypes.data
        return memory, address, address + 4 * rows * self._hidden, None

    def _fill(self, name: str, arrays: Sequence[NDArray[np.int64]]) -> None:
        """Put arrays one after the other where the kernels look for them."""
        if len(arrays) == 1:
            self._memory[name][: len(arrays[0])] = arrays[0]
        else:
            np.concatenate(arrays, out=self._memory[name][: sum(map(len, arrays))])

    def _reserve(self, sizes: _Sizes) -> None:
        """Memory for steps of these sizes; what was reserved before stays enough."""
        sizes = sizes.joined(self._reserved)
        step, rows, sequences, words = self._description, sizes.rows, sizes.sequences, sizes.words
        of = {name: int(step[index]) for name, index in _FIELDS.items()}
        hidden, rank, labels = of["hidden"], of["rank"], self._labels
        padded = _whole(sizes.longest_rows, LANES)
        blocks = sequences * -(-sizes.longest_words // STARTS_OF_A_BLOCK)
        scratch_bytes = 4 * max(
            (2 * hidden // of["heads"] + MAX_TILE_ROWS) * padded + MAX_TILE_ROWS,
            2 * hidden + LANES,
            (rank + rank // 4 + 2) * 2 * (WORDS_OF_A_BLOCK + of["reach"]),
            (labels + NUM_FIGURES) * STARTS_OF_A_BLOCK * padded + STARTS_OF_A_BLOCK * of["half_columns"],
        )
        scratch_bytes = _whole(scratch_bytes, ALIGNMENT)
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            **{name: (np.int64, (sequences + 1,)) for name in _BOUNDS},
            **{name: (np.int64, (sequences,)) for name in _OF_SEQUENCES},
            **{name: (np.int64, (words,)) for name in _OF_WORDS},
            **{name: (np.int64, (rows,)) for name in _OF_ROWS},
            **{name: (np.float32, (rows, hidden)) for name in ("state", "sum", "context")},
            "of_rows": (np.float32, (rows, 2)),
            "qkv": (np.float32, (rows, 3 * hidden)),
            "expanded": (np.float32, (rows, of["intermediate"])),
            "bytes": (np.uint8, (rows, hidden)),
            "wide_bytes": (np.uint8, (rows, of["intermediate"])),
            "projected": (np.float32, (rows, of["word_columns"])),
            "word_context": (np.float32, (sequences, 2 * rank)),
            "halves": (np.float32, (words, of["half_columns"])),
            "ends": (np.float32, (words + LANES * sequences, rank + labels + 1)),
            "parts": (np.float64, (blocks, len(SUMMARY))),
            "parts_found": (np.int64, (blocks,)),
            "summary": (np.float64, (sequences, len(SUMMARY))),
            "parts_unsure": (np.float32, (blocks, _whole(sizes.longest_words, LANES))),
            **{name: (np.float32, (words,)) for name in ("unsure", "uncertainty")},
            **({"seen_words": (np.float32, (words, 2, rank))} if self.config.prototypes else {}),
            "found": (np.float32, (words * sizes.longest_words, 4)),
            "order": (np.int64, (sizes.cells,)),
            "scratch": (np.uint8, (self._team.threads, scratch_bytes)),
        }
        self._memory = {name: aligned_empty(shape, kind) for name, (kind, shape) in shapes.items()}
        for name, memory in self._memory.items():
            step[_FIELDS[name]] = memory.ctypes.data
        step[_FIELDS["scratch_bytes"]] = scratch_bytes
        self._reserved = sizes  # last: what fails before leaves it to be done again

    def close(self) -> None:
        """End the threads."""
        self._team.close()


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What the memory of a step depends on."""

    rows: int
    sequences: int
    words: int
    cells: int
    longest_rows: int
    longest_words: int

    @classmethod
    def of(cls, lengths: Sequence[int], num_words: Sequence[int]) -> _Sizes:
        cells = sum(map(num_cells, num_words))
        return cls(sum(lengths), len(lengths), sum(num_words), cells, max(lengths), max(num_words))

    def fit(self, reserved: _Sizes) -> bool:
        """Whether memory for `reserved` is enough."""
        return (
            self.rows <= reserved.rows
            and self.sequences <= reserved.sequences
            and self.words <= reserved.words
            and self.cells <= reserved.cells
            and self.longest_rows <= reserved.longest_rows
            and self.longest_words <= reserved.longest_words
        )

    def joined(self, other: _Sizes) -> _Sizes:
        """Large enough for both."""
        return _Sizes(*(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


def _whole(count: int, size: int) -> int:
    """`count` up to a multiple of `size`."""
    return -(-count // size) * size
