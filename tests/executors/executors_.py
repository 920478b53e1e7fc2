"""Small models that the kernels can run, and what an executor says of some sequences. No test lives here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256

import numpy as np
from torch import Tensor

from service.executors.executor import Executor
from service.executors.fused import FusedExecutor, State
from service.executors.pytorch import State as EagerState
from service.exits.reading import Reading
from service.models.config import ExitConfig, ModelConfig
from service.models.multi_exit import MultiExitModel
from service.spans.table import num_cells
from service.spans.types import FloatArray
from service.text.types import SequenceInput
from tests.models_ import tiny_config, tiny_model

DEADLINE_S = 120.0  # of what should be done at once


def kernel_config(
    *,
    labels: int = 3,
    exits: ExitConfig = ExitConfig(rank=32),  # noqa: B008, frozen
    num_layers: int = 3,
    width: int = 64,
    nested: bool = True,
    word_shapes: bool = True,
    **encoder: int | str | bool,
) -> ModelConfig:
    """A BERT of width 64 with 4 heads and contextual exits of rank 32, for 130 pieces; `encoder`: other fields."""
    names = [f"LABEL{index}" for index in range(labels)]
    base = tiny_config(num_layers=num_layers, labels=names, exits=exits, nested=nested, word_shapes=word_shapes)
    shape = {"num_heads": 4, "intermediate_size": 128, "max_positions": 130, **encoder}
    return replace(base, encoder=replace(base.encoder, embedding_size=width, hidden_size=width, **shape))


def _low_rank(**fields: int | str) -> ExitConfig:
    return ExitConfig(form="low_rank", rank=32, reach=0, **fields)


CONFIGS = {
    "as shipped": kernel_config(),
    "reach 1, first pieces": kernel_config(exits=ExitConfig(rank=32, reach=1, end_piece="first", width_buckets=1)),
    "no reach": kernel_config(exits=ExitConfig(rank=64, reach=0, width_buckets=0), labels=2, nested=False),
    "low rank": kernel_config(exits=_low_rank(end_piece="first", width_buckets=0), labels=4, word_shapes=False),
    "low rank, last pieces": kernel_config(exits=_low_rank(), labels=5),
    "one label, one large head": kernel_config(labels=1, num_heads=1, exits=ExitConfig(rank=32, reach=0)),
    "nine labels": kernel_config(labels=9, exits=ExitConfig(rank=32, reach=0, width_buckets=4)),
    "ALBERT": kernel_config(shared_layers=True, family="albert"),
    "RoBERTa": kernel_config(position_offset=2, max_positions=132, type_vocab_size=1, family="roberta"),
    "DistilBERT": kernel_config(type_vocab_size=0, activation="relu", word_shapes=False, family="distilbert"),
    "MPNet": kernel_config(
        position_offset=2, max_positions=132, type_vocab_size=0, relative_bias=True, family="mpnet", num_heads=2
    ),
    "wide, far reach": kernel_config(
        width=96, num_heads=2, intermediate_size=160, exits=ExitConfig(rank=96, reach=4), labels=7
    ),
    "one head": kernel_config(width=32, num_heads=1, intermediate_size=32, layer_norm_eps=1e-5, num_layers=2),
}


def kernel_model(config: ModelConfig | None = None, seed: int = 0) -> MultiExitModel:
    """A random model whose exits are neither always sure nor never."""
    model = tiny_model(config or kernel_config(), seed)
    if model.encoder.embeddings.relative_bias is not None:
        model.encoder.embeddings.relative_bias.weight.mul_(20)  # so that attention looks elsewhere by it
    for exit_ in model.exits:
        width = model.config.encoder.hidden_size
        for name, parameter in exit_.named_parameters():
            if name == "neighbours.weight":
                parameter.mul_(0.3 * (160 / parameter.shape[1]) ** 0.5)
            elif name == "bilinear":
                parameter.mul_(32 / len(parameter))
            elif name.endswith(".weight"):
                parameter.mul_((16 / width) ** 0.5)
    return model


shared_model = cache(lambda name: kernel_model(CONFIGS[name]))  # for tests that do not change it


@contextmanager
def fused(model: MultiExitModel, threads: int = 1) -> Iterator[FusedExecutor]:
    """A fused executor, closed afterwards; one whose threads do not end fails the test."""
    executor = FusedExecutor(model, threads)
    try:
        yield executor
    finally:
        within_deadline(executor.close)


def within_deadline(work: Callable[[], object]) -> None:
    """Do it on a thread of its own, which is left behind if it hangs; its errors are raised here."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive(), "it hangs"
    if raised:
        raise raised[0]


def values(state: State) -> FloatArray:
    """(pieces, hidden) a copy of what a fused executor keeps of a sequence."""
    place = (state.latest_at - state.memory.ctypes.data) // state.memory[0].nbytes
    found: FloatArray = state.memory[place].copy()
    return found


def rows_of(states: Sequence[EagerState]) -> list[Tensor]:
    """What an executor of PyTorch's keeps of every sequence: (pieces, hidden)."""
    return [rows for rows, _ in states]


@dataclass(frozen=True)
class Said:
    """Everything that an executor said of one sequence after one layer, each as a digest of all bits."""

    state: str
    summary: str = ""
    candidates: str = ""
    table: str = ""


def _digest(array: FloatArray) -> str:
    return sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12]


def said(states: Sequence[State], reading: Reading | None, *, with_table: bool = True) -> list[Said]:
    """Of every sequence of a step."""
    digests = [_digest(values(state)) for state in states]
    if reading is None:
        return [Said(state) for state in digests]
    tables = [""] * len(states)
    if with_table:
        tables = [_digest(own.numpy()) for own in reading.table.split([num_cells(n) for n in reading.num_words])]
    parts = zip(digests, reading.summary, reading.candidates.split(), tables, strict=True)
    return [Said(state, _digest(summary), _digest(found), table) for state, summary, found, table in parts]


def said_by_all_layers(executor: FusedExecutor, inputs: Sequence[SequenceInput]) -> list[list[Said]]:
    """[layer - 1][sequence]"""
    found, states = [], [None] * len(inputs)
    for layer in range(1, executor.config.num_layers + 1):
        states, reading = executor.run_layer(layer, inputs, states)
        found.append(said(states, reading))
    return found


def readings_of(executor: Executor, inputs: Sequence[SequenceInput]) -> list[Reading]:
    """What every exit said."""
    found, states = [], [None] * len(inputs)
    for layer in range(1, executor.config.num_layers + 1):
        states, reading = executor.run_layer(layer, inputs, states)
        assert reading is not None
        found.append(reading)
    return found


def long_sequence(num_pieces: int, num_words: int, seed: int = 0) -> SequenceInput:
    """Exactly so many pieces and words; every word but the last has one piece."""
    random = np.random.default_rng(seed)
    first = np.arange(1, num_words + 1)
    last = first.copy()
    last[-1] = num_pieces - 2
    starts = 2 * np.arange(num_words)
    shapes = np.zeros(num_pieces, dtype=np.int64)
    return SequenceInput(
        random.integers(5, 100, num_pieces), shapes, first, last, starts, starts + 1, owned=(0, num_words)
    )
