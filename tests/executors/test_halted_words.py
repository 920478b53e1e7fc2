"""Halted words while others move: every executor against a computation that moves all rows and masks them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.executors.executor import Executor
from service.executors.fused import State as FusedState
from service.exits.reading import Reading
from service.exits.words import Flags
from service.models.config import ModelConfig
from service.models.multi_exit import MultiExitModel
from service.models.packed import pack
from service.spans.table import cell_words, num_cells
from service.spans.types import FloatArray, IntArray
from service.text.types import SequenceInput
from tests.executors import reference_
from tests.executors.executors_ import CONFIGS, fused, kernel_model, shared_model, values
from tests.models_ import eager, random_sequences

NUM_WORDS = (5, 1, 17, 33, 40, 9, 64)
INPUTS = random_sequences(NUM_WORDS, seed=3)
CPU = torch.device("cpu")
SOME_MODELS = ("as shipped", "low rank, last pieces", "no reach", "ALBERT", "wide, far reach", "MPNet")
both_executors = pytest.mark.parametrize("kind", ["eager", "fused"])


def scripted(seed: int, num_layers: int = 3) -> list[IntArray]:
    """Of every sequence, the layer after which each word halts; some sequences are done early."""
    random = np.random.default_rng(seed)
    layers = [random.integers(1, num_layers + 1, size=words) for words in NUM_WORDS]
    layers[2][:] = num_layers
    layers[3][3:] = 1
    return layers


@contextmanager
def executor_of(kind: str, model: MultiExitModel, threads: int = 1) -> Iterator[Executor]:
    if kind == "eager":
        yield eager(model)
    else:
        with fused(model, threads) as executor:
            yield executor


def run(
    executor: Executor, inputs: Sequence[SequenceInput], layers: Sequence[IntArray], *, with_table: bool = True
) -> tuple[list[list[FloatArray]], list[Reading]]:
    """Layer by layer, what is kept of every sequence, and what the exit said."""
    states, kept, readings = [None] * len(inputs), [], []
    for layer in range(1, executor.config.num_layers + 1):
        active: list[Flags | None] = [of_words >= layer for of_words in layers]
        states, reading = executor.run_layer(layer, inputs, states, with_table=with_table, active=active)
        assert reading is not None
        kept.append([values(state) if isinstance(state, FusedState) else state.rows.numpy() for state in states])
        readings.append(reading)
    return kept, readings


def piece_flags(sequence: SequenceInput, words: Flags) -> Flags:
    """(pieces,) word by word, special ones always."""
    flags = np.ones(sequence.num_pieces, dtype=bool)
    for word, moves in enumerate(words):
        flags[sequence.first_piece[word] : sequence.last_piece[word] + 1] = moves
    return flags


def moved(kind: str, model: MultiExitModel, layer: int, state: FloatArray | None, one: SequenceInput) -> FloatArray:
    """What a layer makes of a sequence all rows of which move; state: before it, None before layer 1."""
    packed = pack([one], CPU)
    if kind == "fused":
        before = reference_.embed(model, one) if state is None else state.astype(np.float64)
        return reference_.run_layer(model, layer, before).astype(np.float32)
    embedded = model.embed(packed) if state is None else torch.from_numpy(state)
    return model.run_layer(layer, embedded, packed).numpy()


def said(kind: str, model: MultiExitModel, layer: int, state: FloatArray, one: SequenceInput) -> FloatArray:
    """The exit's whole table."""
    if kind == "fused":
        return reference_.exit_table(model, layer, state.astype(np.float64), one).astype(np.float32)
    return model.exit_table(layer, torch.from_numpy(state), pack([one], CPU)).numpy()


@both_executors
@pytest.mark.parametrize("name", SOME_MODELS)
def test_a_scripted_pattern_gives_what_moving_all_rows_and_masking_gives(kind: str, name: str) -> None:
    model = shared_model(name)
    layers = scripted(0, model.config.num_layers)
    with executor_of(kind, model) as executor:
        kept, readings = run(executor, INPUTS, layers)
    apart: list[float] = []
    cell = 0
    for index, (one, of_words) in enumerate(zip(INPUTS, layers, strict=True)):
        first, last = cell_words(one.num_words)
        own = slice(cell, cell + len(first))
        cell += len(first)
        state = table = None
        for layer, (of_layer, reading) in enumerate(zip(kept, readings, strict=True), 1):
            words = of_words >= layer
            expected = moved(kind, model, layer, state, one)
            if state is not None:
                expected = np.where(piece_flags(one, words)[:, None], expected, state)
            state = of_layer[index]  # so that a number rounded to its other neighbour goes no further
            apart.append(float(np.abs(state - expected).max()))
            expected_table = said(kind, model, layer, state, one)
            if table is not None:
                expected_table = np.where((words[first] | words[last])[:, None], expected_table, table)
            table = reading.table[own].numpy()
            apart.append(float(np.abs(table - expected_table).max()))
    assert np.median(apart) < 1e-5
    assert max(apart) < (0.05 if kind == "fused" else 1e-4)


@both_executors
@pytest.mark.parametrize("name", SOME_MODELS)
def test_while_all_words_move_nothing_differs_from_full_depth(kind: str, name: str) -> None:
    model = shared_model(name)
    everything = [np.full(words, model.config.num_layers) for words in NUM_WORDS]
    with executor_of(kind, model) as executor:
        kept, readings = run(executor, INPUTS, everything)
        states = [None] * len(INPUTS)
        for layer, (of_layer, reading) in enumerate(zip(kept, readings, strict=True), 1):
            states, expected = executor.run_layer(layer, INPUTS, states)
            assert expected is not None
            own = [values(state) if isinstance(state, FusedState) else state.rows.numpy() for state in states]
            assert all(map(np.array_equal, of_layer, own))
            assert torch.equal(reading.table, expected.table)
            assert np.array_equal(reading.summary, expected.summary)
            assert reading.entity_keys == expected.entity_keys


@both_executors
def test_states_and_cells_of_halted_words_are_kept_to_the_bit(kind: str) -> None:
    layers = scripted(1)
    with executor_of(kind, shared_model("as shipped")) as executor:
        kept, readings = run(executor, INPUTS, layers)
    first, last = zip(*(cell_words(words) for words in NUM_WORDS), strict=True)
    for layer in (2, 3):
        cell = 0
        for index, sequence in enumerate(INPUTS):
            moves = layers[index] >= layer
            halted = ~piece_flags(sequence, moves)
            assert np.array_equal(kept[layer - 1][index][halted], kept[layer - 2][index][halted])
            assert not np.array_equal(kept[layer - 1][index][~halted], kept[layer - 2][index][~halted])
            both = ~(moves[first[index]] | moves[last[index]])
            own = slice(cell, cell + len(both))
            before, after = (readings[at].table[own].numpy() for at in (layer - 2, layer - 1))
            assert np.array_equal(before[both], after[both])
            cell += len(both)


@both_executors
@pytest.mark.parametrize("name", SOME_MODELS)
def test_entities_summary_and_uncertainty_are_those_of_the_whole_table(kind: str, name: str) -> None:
    model = shared_model(name)
    layers = scripted(2, model.config.num_layers)
    with executor_of(kind, model) as executor:
        _, readings = run(executor, INPUTS, layers)
        _, untabled = run(executor, INPUTS, layers, with_table=False)
    assert sum(len(reading.entities.cells) for reading in readings) > 10
    for layer, (reading, without) in enumerate(zip(readings, untabled, strict=True), 1):
        expected = Reading(reading.table, reading.num_words, nested=reading.nested)
        assert reading.entity_keys == expected.entity_keys == without.entity_keys
        assert reading.summary == pytest.approx(expected.summary, rel=1e-5, abs=1e-5)
        moves = np.concatenate([of_words >= layer for of_words in layers])
        assert reading.word_uncertainty[moves] == pytest.approx(expected.word_uncertainty[moves], abs=1e-5)
        assert np.array_equal(reading.word_uncertainty[moves], without.word_uncertainty[moves])


@both_executors
@pytest.mark.parametrize("threads", [1, 2])
def test_batch_mates_change_no_bit(kind: str, threads: int) -> None:
    layers = scripted(3)
    with executor_of(kind, shared_model("as shipped"), threads) as executor:
        kept, readings = run(executor, INPUTS, layers)
        cell = word = 0
        for index, sequence in enumerate(INPUTS):
            alone, said = run(executor, [sequence], [layers[index]])
            cells, words = num_cells(sequence.num_words), sequence.num_words
            for layer in range(3):
                moves = layers[index] > layer
                table = readings[layer].table[cell : cell + cells]
                if kind == "fused":  # PyTorch's products depend on how many rows there are
                    assert np.array_equal(kept[layer][index], alone[layer][0])
                    assert torch.equal(table, said[layer].table)
                    assert readings[layer].entity_keys[index] == said[layer].entity_keys[0]
                    unsure = readings[layer].word_uncertainty[word : word + words]
                    assert np.array_equal(unsure[moves], said[layer].word_uncertainty[moves])
                else:
                    torch.testing.assert_close(table, said[layer].table, atol=1e-4, rtol=0)
            cell, word = cell + cells, word + words


def test_sequences_read_by_word_and_others_share_a_step() -> None:
    layers = scripted(4)
    with fused(shared_model("as shipped")) as executor:
        _, by_word = run(executor, INPUTS, layers)
        states, plain = [None] * len(INPUTS), []
        for layer in (1, 2, 3):
            states, reading = executor.run_layer(layer, INPUTS, states)
            plain.append(reading)
        states = [None] * len(INPUTS)
        for layer in (1, 2, 3):
            active = [of_words >= layer if index % 2 else None for index, of_words in enumerate(layers)]
            states, reading = executor.run_layer(layer, INPUTS, states, active=active)
            assert reading is not None and plain[layer - 1] is not None
            parts = zip(reading.split(), by_word[layer - 1].split(), plain[layer - 1].split(), strict=True)
            for index, (found, one, other) in enumerate(parts):
                expected = one if index % 2 else other
                assert torch.equal(found.table, expected.table)
                assert found.entity_keys == expected.entity_keys
                assert np.array_equal(found.summary, expected.summary)


def one_exit(config: ModelConfig) -> ModelConfig:
    return replace(config, hash="frequency", buckets=2)


@both_executors
def test_a_model_with_one_exit_reads_words_of_all_depths_by_it(kind: str) -> None:
    model = kernel_model(one_exit(CONFIGS["as shipped"]))
    assert len(model.exits) == 1
    layers = scripted(5)
    with executor_of(kind, model) as executor:
        _, readings = run(executor, INPUTS, layers)
        everything = [np.full(words, 3) for words in NUM_WORDS]
        _, whole = run(executor, INPUTS, everything)
    many = kernel_model(CONFIGS["as shipped"])
    many.encoder.load_state_dict(model.encoder.state_dict())
    many.exits[2].load_state_dict(model.exits[0].state_dict())
    with executor_of(kind, many) as executor:
        _, expected = run(executor, INPUTS, everything)
        assert torch.equal(whole[2].table, expected[2].table)
    for index, sequence in enumerate(INPUTS):
        start = sum(map(num_cells, NUM_WORDS[:index]))
        state = reference_.embed(model, sequence)
        for layer in (1, 2, 3):
            rows = piece_flags(sequence, layers[index] >= layer)[:, None]
            state = np.where(rows, reference_.run_layer(model, layer, state), state)
        table = reference_.exit_table(many, 3, state, sequence)
        own = readings[2].table[start : start + len(table)].numpy()
        assert np.abs(own - table).max() < (0.15 if kind == "fused" else 0.6)
