"""The executor for CPUs: a layer and its exit are one step of compiled kernels, whose matrices are bytes.

How memory is laid out for the kernels lives in `memory`, what becomes of halted words in `halted_cells`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from service.executors.halted_cells import Said, begin_table, join, sum_up
from service.executors.memory import ACTIVATIONS, StepMemory
from service.executors.quantized import quantize
from service.exits.candidates import Candidates
from service.exits.reading import Projections, Reading
from service.exits.words import Flags
from service.kernels.instructions import faster_than, find, restrict_compiler
from service.kernels.rows import PANEL
from service.kernels.team import Team
from service.kernels.tiles import LANES, load
from service.models.config import EncoderConfig, ExitConfig, ModelConfig
from service.models.device import available_cores
from service.models.multi_exit import MultiExitModel
from service.spans.table import num_cells
from service.spans.types import FloatArray
from service.text.types import SequenceInput


class State(NamedTuple):
    """What is kept of one sequence between its layers.

    memory        (2, pieces, hidden) float32: room for the states after two layers, which take turns
    latest_at     address of the state after the latest layer, in `memory`
    following_at  address of the other one, which the next layer writes to
    said          what the exit said, if words may be halted in later layers
    """

    memory: NDArray[np.float32]
    latest_at: int
    following_at: int
    said: Said | None

    @classmethod
    def fresh(cls, pieces: int, hidden: int) -> State:
        """Before layer 1."""
        memory = np.empty((2, pieces, hidden), dtype=np.float32)
        address = memory.ctypes.data
        return cls(memory, address, address + 4 * pieces * hidden, None)

    def after_layer(self, said: Said | None) -> State:
        """After a layer that has written its state."""
        return State(self.memory, self.following_at, self.latest_at, said)


def reason_against(config: ModelConfig) -> str | None:
    """Why the kernels cannot run a model; None if they can."""
    encoder, exits = config.encoder, config.exits
    width = encoder.hidden_size
    if encoder.embedding_size != width:
        return "its embeddings have another width than its layers"
    if encoder.activation not in ACTIVATIONS:
        return f"its activation is {encoder.activation}"
    if exits.form == "full":
        return "its exits have full rank"
    if exits.form == "tags":
        return "it has the head of a token classifier, and no exits"
    sizes = {"hidden_size": width, "intermediate_size": encoder.intermediate_size, "exits.rank": exits.rank}
    for name, size in sizes.items():
        if size % PANEL:
            return f"its {name} is {size}, not a multiple of {PANEL}"
    if width // encoder.num_heads % LANES:
        return f"its heads have {width // encoder.num_heads} dimensions, not a multiple of {LANES}"
    return None


def is_fast_here(instructions: str = "auto") -> bool:
    """Whether this processor has instructions to multiply bytes; without them PyTorch is about as fast.

    instructions: the best that may be used; auto: all. Raises BadInput for those that it lacks.
    """
    return find(instructions).is_fast


def use_instructions(wanted: str) -> None:
    """Have all kernels of this process use these instructions, or, with auto, the fastest of the processor.

    It is called before the first executor is made. Raises BadInput for instructions that this processor lacks, and in
    a process that uses others.
    """
    restrict_compiler(load(None if wanted == "auto" else find(wanted)))


def faster_instructions(instructions: str = "auto") -> list[str]:
    """Return the names of the instructions that are faster than these, or, with auto, than all of this processor."""
    return [one.name for one in faster_than(find(instructions))]


def compile_kernels(instructions: str = "auto") -> None:
    """Compile what every fused executor runs, unless that was done before on this machine."""
    use_instructions(instructions)
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

    The first one on a machine compiles the kernels, which takes some ten seconds; later ones find them on disk.
    """

    max_step_pieces = 256
    max_step_layers = 1

    def __init__(self, model: MultiExitModel, threads: int) -> None:
        """model: one that `reason_against` has nothing against."""
        self.config: ModelConfig = model.config
        self._instructions = load()
        self._weights = quantize(model, adds_in_words=self._instructions.adds_in_words)
        self._team = Team(self._weights.layers, threads, available_cores())
        self._memory = StepMemory(model.config, self._weights.embeddings, threads)
        self._inputs: tuple[SequenceInput, ...] = ()  # that the step is laid out for, and their words
        self._num_words: tuple[int, ...] = ()
        self._moves_all = True

    def wait(self) -> None:
        """See Executor; a step is done when `run_layer` returns."""

    def describe(self) -> dict[str, str | int]:
        """See Executor."""
        return {
            "device": "cpu",
            "dtype": "int8",
            "executor": "fused",
            "threads": self._team.threads,
            "instructions": self._instructions.name,
        }

    def close(self) -> None:
        """End the threads."""
        self._team.close()

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
        for number in range(layer, layer if through is None else through):
            states, _ = self.run_layer(number, inputs, states, with_exit=False, with_table=False)
        layer = layer if through is None else through
        inputs, count, memory = tuple(inputs), len(inputs), self._memory
        by_word = active if active is not None and any(flags is not None for flags in active) else None
        if inputs != self._inputs or by_word is not None or not self._moves_all:
            self._lay_out(inputs, by_word)
        before = [
            State.fresh(sequence.num_pieces, self.config.encoder.hidden_size) if state is None else state
            for sequence, state in zip(inputs, states, strict=True)
        ]
        memory.arrays["inputs"][:count] = [state.latest_at for state in before]
        memory.arrays["outputs"][:count] = [state.following_at for state in before]
        if layer == 1:
            memory.look_up(inputs)
        table = self._table(before) if with_table else None
        memory.ask(layer, with_exit=with_exit, table=table)
        num_found = self._team.run(memory.words)
        if not with_exit:
            return [state.after_layer(None) for state in before], None
        said, reading = self._read(num_found, table, before, by_word)
        return [state.after_layer(own) for state, own in zip(before, said, strict=True)], reading

    def _lay_out(self, inputs: tuple[SequenceInput, ...], by_word: Sequence[Flags | None] | None) -> None:
        """Prepare memory for these sequences, and for which of their words move; None: all."""
        self._inputs = ()  # what fails from here on is to be done again
        self._memory.lay_out(inputs, by_word)
        self._inputs, self._moves_all = inputs, by_word is None
        self._num_words = tuple(sequence.num_words for sequence in inputs)

    def _table(self, before: Sequence[State]) -> FloatArray:
        """(cells, K) for the kernels to write to; where words are halted, it holds what exits said before."""
        table = np.empty((sum(map(num_cells, self._num_words)), self.config.num_labels), dtype=np.float32)
        if not self._moves_all:
            begin_table(table, self._num_words, [state.said for state in before])
        return table

    def _read(
        self,
        num_found: int,
        table: FloatArray | None,
        before: Sequence[State],
        by_word: Sequence[Flags | None] | None,
    ) -> tuple[Sequence[Said | None], Reading]:
        """What to keep for later layers of what an exit said of every sequence, and what it said.

        num_found: candidates of all sequences
        """
        arrays, num_words = self._memory.arrays, self._num_words
        counts = tuple(arrays["num_found"][: len(before)].tolist())
        candidates = Candidates(counts, arrays["found"][:num_found].copy(), are_entities=by_word is None)
        summary, uncertainty = arrays["summary"][: len(before)].copy(), None
        said: Sequence[Said | None] = [None] * len(before)
        if by_word is not None:
            uncertainty = arrays["uncertainty"][: sum(num_words)].copy()
            if self.config.hash is None:  # else the one exit reads all words at once
                candidates, said = join(candidates, num_words, by_word, [state.said for state in before], table)
                sum_up(summary, num_words, by_word, table, nested=self.config.nested)
        return said, Reading(
            None if table is None else torch.from_numpy(table),
            num_words,
            nested=self.config.nested,
            summary=summary,
            candidates=candidates,
            word_uncertainty=uncertainty,
            projections=self._projections() if self.config.prototypes else None,
        )

    def _projections(self) -> Projections:
        """(words, rank) twice: what the bilinear form reads of words as first and as last ones."""
        words = self._memory.arrays["seen_words"][: sum(self._num_words)]
        return words[:, 0].copy(), words[:, 1].copy()
