"""The eager executor: the model's own steps, one layer at a time."""

from __future__ import annotations

import pytest
import torch

from service.executors import eager as eager_module
from service.executors.eager import EagerExecutor
from service.models.packed import pack
from tests.executors.executors_ import readings_of, rows_of
from tests.models_ import eager, random_sequences, tiny_model

INPUTS = random_sequences((4, 1, 7))
CPU = torch.device("cpu")


def test_layer_by_layer_it_says_what_the_whole_model_does() -> None:
    model = tiny_model()
    tables = model(pack(INPUTS, CPU))
    found = readings_of(eager(model), INPUTS)
    assert len(found) == len(tables) == 4
    for reading, table in zip(found, tables, strict=True):
        assert torch.equal(reading.table, table)
        assert (reading.num_words, reading.nested) == ((4, 1, 7), True)


def test_states_are_of_one_sequence_each_and_are_left_as_they_were() -> None:
    executor = eager()
    states, _ = executor.run_layer(1, INPUTS, [None] * 3)
    assert [tuple(rows.shape) for rows, _ in states] == [(one.num_pieces, 32) for one in INPUTS]
    before = [rows.clone() for rows, _ in states]
    once, _ = executor.run_layer(2, INPUTS, states)
    again, _ = executor.run_layer(2, INPUTS, states)
    assert all(map(torch.equal, rows_of(once), rows_of(again))) and all(map(torch.equal, rows_of(states), before))
    assert not any(map(torch.equal, rows_of(once), before))


def test_without_exit_there_is_no_reading_and_the_same_states() -> None:
    executor = eager()
    states, _ = executor.run_layer(1, INPUTS, [None] * 3)
    bare, reading = executor.run_layer(1, INPUTS, [None] * 3, with_exit=False)
    assert reading is None and all(map(torch.equal, rows_of(bare), rows_of(states)))


def test_sequences_are_packed_once_until_somebody_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []
    monkeypatch.setattr(eager_module, "pack", lambda *given: packed.append(len(given[0])) or pack(*given))
    executor = eager()
    states, _ = executor.run_layer(1, INPUTS, [None] * 3)
    states, _ = executor.run_layer(2, INPUTS, states)
    assert packed == [3]
    executor.run_layer(3, INPUTS[1:], states[1:])
    executor.run_layer(1, random_sequences((4, 1)), [None] * 2)  # equal, but not the same
    assert packed == [3, 2, 2]


def test_nothing_of_a_step_asks_for_gradients() -> None:
    model = tiny_model().requires_grad_(True)
    states, reading = EagerExecutor(model, CPU).run_layer(1, INPUTS, [None] * 3)
    assert reading is not None and not reading.table.requires_grad
    assert not any(rows.requires_grad for rows in rows_of(states))


def test_it_says_what_its_times_hold_for() -> None:
    described = eager().describe()
    assert described == {
        "device": "cpu",
        "dtype": "float32",
        "executor": "eager",
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability().lower(),
    }
