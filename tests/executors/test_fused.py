"""The fused executor against a plain computation that rounds as it does, PyTorch, and its own tables."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from service.executors import memory as memory_module
from service.executors.fused import FusedExecutor, compile_kernels
from service.exits.reading import Reading
from service.kernels.tiles import load
from service.models.config import ExitConfig
from service.spans.table import num_cells
from service.spans.types import FloatArray
from tests.executors import reference_
from tests.executors.executors_ import (
    CONFIGS,
    fused,
    kernel_config,
    kernel_model,
    long_sequence,
    readings_of,
    said,
    said_by_all_layers,
    shared_model,
    values,
)
from tests.models_ import eager, random_sequences

NUM_WORDS = (*(1, 2, 3, 4) * 6, 5, 12, 8, 16, 17, 30, 29, 28, 57)
INPUTS = random_sequences(NUM_WORDS)
SOME = random_sequences((5, 1, 17, 33), seed=1)
every_model = pytest.mark.parametrize("name", CONFIGS)


def largest_differences(found: Sequence[FloatArray], expected: Sequence[FloatArray]) -> FloatArray:
    """Of every sequence."""
    return np.array([np.abs(one - other).max() for one, other in zip(found, expected, strict=True)])


def assert_equal_but_for_roundings(found: Sequence[FloatArray], expected: Sequence[FloatArray]) -> None:
    """Most agree as float32 does, and the rest as numbers do of which one was rounded to the other neighbour."""
    apart = largest_differences(found, expected)
    assert np.quantile(apart, 0.5) < 5e-6
    assert apart.max() < 0.05


# what is computed


@every_model
def test_every_layer_and_exit_computes_what_a_plain_computation_with_rounded_inputs_does(name: str) -> None:
    model = shared_model(name)
    with fused(model) as executor:
        before = [reference_.embed(model, one) for one in INPUTS]
        states = [None] * len(INPUTS)
        for layer in range(1, model.config.num_layers + 1):
            states, reading = executor.run_layer(layer, INPUTS, states)
            assert reading is not None
            after = [values(state).astype(np.float64) for state in states]
            assert_equal_but_for_roundings(after, [reference_.run_layer(model, layer, state) for state in before])
            tables = [own.numpy() for own in reading.table.split([num_cells(count) for count in NUM_WORDS])]
            pairs = zip(after, INPUTS, strict=True)
            assert_equal_but_for_roundings(tables, [reference_.exit_table(model, layer, *pair) for pair in pairs])
            before = after


def test_kernels_of_twelve_heads_and_width_768_compute_what_a_plain_computation_does() -> None:
    """The size of BERT-base. In rows so wide some number is nearly always rounded to its other neighbour."""
    base = {"num_heads": 12, "intermediate_size": 3072, "relative_bias": True, "type_vocab_size": 0}
    model, inputs = kernel_model(kernel_config(width=768, num_layers=1, exits=ExitConfig(rank=64), **base)), SOME[1:3]
    with fused(model) as executor:
        states, reading = executor.run_layer(1, inputs, [None, None])
    after = [values(state).astype(np.float64) for state in states]
    expected = [reference_.run_layer(model, 1, reference_.embed(model, one)) for one in inputs]
    assert largest_differences(after, expected).max() < 0.08
    assert all(np.abs(one - other).mean() < 0.01 for one, other in zip(after, expected, strict=True))
    tables = [own.numpy() for own in reading.table.split([num_cells(one.num_words) for one in inputs])]
    exact = [reference_.exit_table(model, 1, *pair) for pair in zip(after, inputs, strict=True)]
    assert largest_differences(tables, exact).max() < 0.05


@every_model
def test_states_and_tables_are_close_to_those_of_the_eager_executor(name: str) -> None:
    model = shared_model(name)
    exact, states, expected_states = eager(model), [None] * len(INPUTS), [None] * len(INPUTS)
    with fused(model) as executor:
        for layer in range(1, model.config.num_layers + 1):
            states, found = executor.run_layer(layer, INPUTS, states)
            expected_states, expected = exact.run_layer(layer, INPUTS, expected_states)
            assert found is not None and expected is not None
            rows = [state.numpy() for state, _ in expected_states]
            assert largest_differences([values(state) for state in states], rows).max() < 0.12
            assert (found.table - expected.table).abs().max() < 0.6
            assert (found.table.exp() - expected.table.exp()).abs().max() < 0.08


@every_model
def test_summary_and_entities_are_those_of_the_table(name: str) -> None:
    with fused(shared_model(name)) as executor:
        readings = readings_of(executor, INPUTS)
    assert sum(sum(reading.candidates.counts) for reading in readings) > 10
    for reading in readings:
        expected = Reading(reading.table, reading.num_words, nested=reading.nested)
        assert reading.summary.dtype == np.float64
        assert reading.summary == pytest.approx(expected.summary, rel=1e-5, abs=1e-5)
        assert reading.candidates.are_entities and not expected.candidates.are_entities
        assert reading.entity_keys == expected.entity_keys
        assert reading.entities.cells[:, 3] == pytest.approx(expected.entities.cells[:, 3], abs=1e-5)


@every_model
def test_a_table_holds_log_probabilities(name: str) -> None:
    with fused(shared_model(name)) as executor:
        for reading in readings_of(executor, SOME):
            assert reading.table.shape == (sum(map(num_cells, reading.num_words)), executor.config.num_labels)
            assert reading.table.dtype == torch.float32
            assert reading.table.double().exp().sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)


def test_a_reading_says_whether_the_model_is_nested_and_whose_words_it_holds() -> None:
    for name, nested in (("as shipped", True), ("no reach", False)):
        with fused(shared_model(name)) as executor:
            _, reading = executor.run_layer(1, SOME, [None] * 4)
        assert reading is not None and (reading.nested, reading.num_words) == (nested, (5, 1, 17, 33))


@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_exits_that_are_quite_sure_find_nothing_or_everything(bias: float) -> None:
    model = kernel_model()
    model.exits[0].bias += bias
    with fused(model) as executor:
        _, reading = executor.run_layer(1, SOME, [None] * 4)
    assert reading is not None
    expected = Reading(reading.table, reading.num_words, nested=True)
    assert sum(expected.candidates.counts) == (len(reading.table) if bias > 0 else 0)
    assert reading.entity_keys == expected.entity_keys
    assert reading.summary == pytest.approx(expected.summary, rel=1e-5, abs=1e-5)
    assert torch.isfinite(reading.table).all()


def test_weights_that_are_all_zero_and_rows_that_are_constant_stay_what_they_are() -> None:
    model = kernel_model()
    layer, head = model.encoder.layers[0], model.exits[0]
    for zeroed in (layer.up.weight, layer.attention.output.weight, layer.output_norm.weight, head.bilinear):
        zeroed.zero_()
    layer.up.bias.fill_(-0.5)
    with fused(model) as executor:
        states, reading = executor.run_layer(1, SOME, [None] * 4)
    expected_states, expected = eager(model).run_layer(1, SOME, [None] * 4)
    assert reading is not None and expected is not None
    for state, (other, _) in zip(states, expected_states, strict=True):
        assert np.abs(values(state) - other.numpy()).max() < 0.05
    assert (reading.table - expected.table).abs().max() < 0.05


def test_the_model_stays_as_it_was() -> None:
    model = kernel_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with fused(model) as executor:
        readings_of(executor, SOME)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_later_layers_read_no_word_shapes_and_no_pieces_but_states() -> None:
    with fused(shared_model("as shipped")) as executor:
        states, _ = executor.run_layer(1, SOME, [None] * 4)
        executor.run_layer(1, INPUTS, [None] * len(INPUTS))  # others have been looked up since
        found, _ = executor.run_layer(2, SOME, states)
        together = [values(state) for state in found]
    with fused(shared_model("as shipped")) as executor:
        states, _ = executor.run_layer(1, SOME, [None] * 4)
        found, _ = executor.run_layer(2, SOME, states)
        assert all(np.array_equal(values(one), other) for one, other in zip(found, together, strict=True))


# what is asked for


@pytest.mark.parametrize("name", ["as shipped", "low rank", "DistilBERT"])
def test_without_exit_or_table_the_rest_is_the_same_to_the_bit(name: str) -> None:
    with fused(shared_model(name)) as executor:
        states = bare = untabled = [None] * 4
        for layer in range(1, executor.config.num_layers + 1):
            states, reading = executor.run_layer(layer, SOME, states)
            whole = said(states, reading)
            bare, nothing = executor.run_layer(layer, SOME, bare, with_exit=False)
            assert nothing is None
            assert [one.state for one in said(bare, None)] == [one.state for one in whole]
            untabled, summed_up = executor.run_layer(layer, SOME, untabled, with_table=False)
            without = said(untabled, summed_up, with_table=False)
            assert [(one.state, one.summary, one.candidates) for one in without] == [
                (one.state, one.summary, one.candidates) for one in whole
            ]


def test_an_exit_may_run_after_a_layer_that_ran_without_one() -> None:
    with fused(shared_model("as shipped")) as executor:
        expected = said_by_all_layers(executor, SOME)[2]
    with fused(shared_model("as shipped")) as executor:
        states = [None] * 4
        for layer in (1, 2):
            states, _ = executor.run_layer(layer, SOME, states, with_exit=False, with_table=False)
        assert said(*executor.run_layer(3, SOME, states)) == expected
        assert said(*executor.run_layer(1, SOME, [None] * 4, through=3)) == expected


def test_a_table_that_nobody_wanted_is_not_there() -> None:
    with fused(shared_model("as shipped")) as executor:
        _, reading = executor.run_layer(1, SOME, [None] * 4, with_table=False)
    assert reading is not None and len(reading.spans) == 4
    with pytest.raises(RuntimeError, match="without its table"):
        _ = reading.table


def test_what_an_exit_said_is_not_overwritten_by_later_steps() -> None:
    with fused(shared_model("as shipped")) as executor:
        states, reading = executor.run_layer(1, SOME, [None] * 4)
        before = said(states, reading)
        executor.run_layer(1, INPUTS, [None] * len(INPUTS))
        executor.run_layer(1, SOME[::-1], [None] * 4)
        assert said(states, reading) == before


# states


def test_a_layer_leaves_the_states_before_it_as_they_were_and_may_be_repeated() -> None:
    with fused(shared_model("as shipped")) as executor:
        states, _ = executor.run_layer(1, SOME, [None] * 4)
        before = said(states, None)
        once = said(*executor.run_layer(2, SOME, states))
        assert said(states, None) == before
        assert said(*executor.run_layer(2, SOME, states)) == once
        assert said(*executor.run_layer(2, SOME[:2], states[:2])) == once[:2]  # as a step that failed is tried again
        assert said(states, None) == before


def test_of_a_sequence_only_the_two_latest_states_are_kept() -> None:
    with fused(shared_model("as shipped")) as executor:
        first, _ = executor.run_layer(1, SOME, [None] * 4)
        second, _ = executor.run_layer(2, SOME, first)
        third, _ = executor.run_layer(3, SOME, second)
        assert said(first, None) == said(third, None) != said(second, None)  # documents what a caller must know


def test_a_step_that_is_refused_leaves_states_and_executor_as_they_were() -> None:
    with fused(shared_model("as shipped")) as executor:
        states, _ = executor.run_layer(1, SOME, [None] * 4)
        before, expected = said(states, None), said(*executor.run_layer(2, SOME, states))
        with pytest.raises(ValueError):
            executor.run_layer(2, [*SOME, *INPUTS], states)
        assert said(states, None) == before
        assert said(*executor.run_layer(2, SOME, states)) == expected


def test_a_step_that_found_no_memory_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    with fused(shared_model("as shipped")) as executor:
        with monkeypatch.context() as patched:
            patched.setattr(memory_module, "aligned_empty", refuse)
            with pytest.raises(MemoryError):
                executor.run_layer(1, SOME, [None] * 4)
        found = said(*executor.run_layer(1, SOME, [None] * 4))
    with fused(shared_model("as shipped")) as executor:
        assert said(*executor.run_layer(1, SOME, [None] * 4)) == found


# sizes


def test_the_shortest_sequence_is_three_pieces_of_one_word() -> None:
    model, shortest = shared_model("as shipped"), long_sequence(3, 1)
    with fused(model) as executor:
        states, reading = executor.run_layer(1, [shortest], [None])
    assert reading is not None and reading.table.shape == (1, 4)
    expected = reference_.run_layer(model, 1, reference_.embed(model, shortest))
    assert np.abs(values(states[0]) - expected).max() < 0.05
    assert reading.summary == pytest.approx(Reading(reading.table, (1,), nested=True).summary, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("num_words", [1, 14, 255, 510])
def test_a_sequence_of_512_pieces_has_as_many_words_as_it_likes(num_words: int) -> None:
    model = kernel_model(kernel_config(max_positions=512, num_layers=1))
    longest = long_sequence(512, num_words)
    with fused(model, threads=2) as executor:
        _, reading = executor.run_layer(1, [longest, SOME[0]], [None, None])
    assert reading is not None and reading.table.shape == (num_cells(num_words) + 15, 4)
    _, expected = eager(model).run_layer(1, [longest, SOME[0]], [None, None])
    assert expected is not None and (reading.table - expected.table).abs().max() < 0.4
    of_table = Reading(reading.table, reading.num_words, nested=True)
    assert reading.summary == pytest.approx(of_table.summary, rel=2e-5, abs=1e-5)
    assert reading.entity_keys == of_table.entity_keys


def test_a_model_may_have_more_labels_than_a_tile_has_rows() -> None:
    model = kernel_model(kernel_config(labels=40, num_layers=1))
    with fused(model) as executor:
        _, reading = executor.run_layer(1, SOME, [None] * 4)
    _, expected = eager(model).run_layer(1, SOME, [None] * 4)
    assert reading is not None and expected is not None
    assert (reading.table - expected.table).abs().max() < 0.4
    of_table = Reading(reading.table, reading.num_words, nested=True)
    assert reading.summary == pytest.approx(of_table.summary, rel=1e-5, abs=1e-5)
    assert len(set(reading.candidates.cells[:, 2].tolist())) > 14


def test_hundreds_of_sequences_fit_a_step() -> None:
    many = random_sequences([1 + index % 23 for index in range(500)])
    model = shared_model("as shipped")
    with fused(model, threads=2) as executor:
        found = said(*executor.run_layer(1, many, [None] * 500))
        for index in (0, 1, 22, 250, 499):
            assert said(*executor.run_layer(1, [many[index]], [None])) == [found[index]]


# coming and going


def test_it_says_what_its_times_hold_for() -> None:
    with fused(shared_model("as shipped"), threads=2) as executor:
        described = {"device": "cpu", "dtype": "int8", "executor": "fused", "threads": 2, "instructions": load().name}
        assert executor.describe() == described
        assert executor.config == CONFIGS["as shipped"]


def test_a_closed_executor_leaves_no_thread_and_no_memory_behind() -> None:
    before = set(threading.enumerate())
    executor = FusedExecutor(shared_model("as shipped"), 3)
    executor.run_layer(1, SOME, [None] * 4)
    assert len(set(threading.enumerate()) - before) == 2
    gone = weakref.ref(executor)
    executor.close()
    assert set(threading.enumerate()) == before
    del executor
    gc.collect()
    assert gone() is None


def test_states_and_readings_outlive_their_executor() -> None:
    executor = FusedExecutor(shared_model("as shipped"), 1)
    states, reading = executor.run_layer(1, SOME, [None] * 4)
    before = said(states, reading)
    executor.close()
    del executor
    gc.collect()
    assert said(states, reading) == before


def test_two_executors_of_different_models_do_not_disturb_each_other() -> None:
    names = ("as shipped", "low rank")

    def said_alone(name: str) -> object:
        with fused(shared_model(name)) as executor:
            return said_by_all_layers(executor, SOME)

    expected = [said_alone(name) for name in names]
    with fused(shared_model(names[0]), threads=2) as one, fused(shared_model(names[1]), threads=2) as other:
        both: list[list[object]] = [[], []]

        def run_often(index: int, executor: FusedExecutor) -> None:
            both[index] = [said_by_all_layers(executor, SOME) for _ in range(20)]

        threads = [threading.Thread(target=run_often, args=pair) for pair in enumerate((one, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert both == [[found] * 20 for found in expected]


def test_compiling_kernels_ahead_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())
    compile_kernels()
    assert set(threading.enumerate()) == before
