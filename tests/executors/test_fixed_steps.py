"""Steps over fixed memory, recorded and replayed by a stand-in for a GPU that makes stale values and padding seen."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from service.executors import fixed_steps
from service.executors.cuda import CudaExecutor
from service.executors.executor import State
from service.executors.graphs import Work
from service.executors.state_pool import PooledState
from service.exits.policies.full_depth import FullDepth
from service.exits.reading import Reading
from service.models.multi_exit import MultiExitModel
from service.stepping.advance import run
from service.stepping.passage import Passage
from service.text.types import SequenceInput
from tests.executors.cuda_ import ExitsByPyTorch, StandIn, forget, on_recording_stand_in, on_stand_in
from tests.executors.executors_ import CONFIGS, readings_of, shared_model
from tests.models_ import eager, random_sequences, tiny_model

INPUTS = random_sequences((5, 1, 17, 9, 9, 2))
CLOSE = 0.03  # of log-probabilities: products of bfloat16 over other numbers of rows are rounded otherwise
KINDS = ["as shipped", "reach 1, first pieces", "no reach", "low rank", "ALBERT", "RoBERTa", "DistilBERT", "MPNet"]


def sure_model() -> MultiExitModel:
    """A model that finds few entities, so that what an exit says needs no second copy."""
    model = tiny_model()
    for exit_ in model.exits:
        exit_.get_parameter("bias").sub_(2.0)
    return model


def assert_close(found: Reading | None, expected: Reading | None) -> None:
    assert found is not None and expected is not None and found.num_words == expected.num_words
    torch.testing.assert_close(found.table, expected.table, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(found.summary, expected.summary, rtol=0.02, atol=0.02)
    own = Reading(found.table, found.num_words, nested=found.nested)
    assert found.candidates.counts == own.candidates.counts
    np.testing.assert_allclose(found.candidates.cells, own.candidates.cells, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_a_replayed_step_says_what_one_launched_kernel_by_kernel_does(name: str) -> None:
    model = shared_model(name)
    (executor, gpu), (plain, _) = on_recording_stand_in(model), on_stand_in(model)
    expected = readings_of(plain, INPUTS)
    for _ in range(3):  # launched, recorded and replayed, replayed
        for found, wanted in zip(readings_of(executor, INPUTS), expected, strict=True):
            assert_close(found, wanted)
        forget(executor)
    assert executor.fixed_steps is not None
    counts, layers = executor.fixed_steps.graphs.counts, len(expected)
    assert (counts.launched, counts.replayed, gpu.recorded) == (layers, 2 * layers, layers)
    assert name in CONFIGS


def test_a_replayed_step_gives_the_bits_of_the_launched_one() -> None:
    executor, _ = on_recording_stand_in()
    launched, replayed = readings_of(executor, INPUTS), readings_of(executor, INPUTS)
    for one, other in zip(launched, replayed, strict=True):
        assert torch.equal(one.table, other.table) and one.summary.tobytes() == other.summary.tobytes()
        assert one.candidates.cells.tobytes() == other.candidates.cells.tobytes()


@pytest.mark.parametrize("seed", range(4))
def test_sequences_may_leave_and_join_before_every_layer(seed: int) -> None:
    random = np.random.default_rng(seed)
    (executor, gpu), reference = on_recording_stand_in(), on_stand_in()[0]
    for _ in range(3):
        states: dict[int, State | None] = dict.fromkeys(range(len(INPUTS)))
        layers = np.zeros(len(INPUTS), dtype=int)
        of_plain: dict[int, State | None] = dict.fromkeys(range(len(INPUTS)))
        while len(standing := np.flatnonzero(layers < 4)):
            before = layers[random.choice(standing)]
            ready = np.flatnonzero(layers == before)
            chosen = random.permutation(ready)[: random.integers(1, len(ready) + 1)].tolist()
            given = [INPUTS[index] for index in chosen]
            layer, with_exit = int(before) + 1, bool(random.integers(4))
            after, found = executor.run_layer(layer, given, [states[one] for one in chosen], with_exit=with_exit)
            wanted, expected = reference.run_layer(layer, given, [of_plain[one] for one in chosen])
            assert (found is None) is not with_exit
            if found is not None:
                assert_close(found, expected)
            states.update(zip(chosen, after, strict=True))
            of_plain.update(zip(chosen, wanted, strict=True))
            del after
            layers[chosen] += 1
            forget(executor)
    assert gpu.recorded


def test_several_layers_in_one_step_are_the_layers_one_after_the_other() -> None:
    executor, gpu = on_recording_stand_in(sure_model())
    for _ in range(3):
        states, _ = executor.run_layer(1, INPUTS, [None] * 6, with_exit=False)
        expected, said = executor.run_layer(2, INPUTS, states)
        sent, fetched = gpu.sent, gpu.fetched
        found, reading = executor.run_layer(1, INPUTS, [None] * 6, through=2)
        assert (gpu.sent, gpu.fetched) == (sent + 1, fetched + 1)
        assert all(torch.equal(one.rows, other.rows) for one, other in zip(found, expected, strict=True))
        assert reading is not None and said is not None and torch.equal(reading.table, said.table)


def test_a_step_is_one_copy_there_and_one_back_whoever_leaves_or_joins() -> None:
    executor, gpu = on_recording_stand_in(sure_model())
    states: Sequence[State | None] = [None] * 6
    copies = []
    for layer, count in ((1, 6), (2, 6), (3, 4), (4, 2)):
        states, _ = executor.run_layer(layer, INPUTS[:count], states[:count])
        copies.append((gpu.sent, gpu.fetched))
    assert copies == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_full_depth_is_one_step() -> None:
    model = sure_model()
    executor, gpu = on_recording_stand_in(model)
    expected = [passage.decode() for passage in run(eager(model), [Passage(own, FullDepth()) for own in INPUTS])]
    for _ in range(3):
        sent, fetched = gpu.sent, gpu.fetched
        found = [(passage.layer, passage.decode()) for passage in run(executor, passages_of(INPUTS))]
        assert (gpu.sent, gpu.fetched) == (sent + 1, fetched + 1)
        assert found == [(4, [(*span[:3], pytest.approx(span[3], abs=0.05)) for span in spans]) for spans in expected]


def passages_of(inputs: Sequence[SequenceInput]) -> list[Passage]:
    return [Passage(own, FullDepth()) for own in inputs]


def test_states_are_left_as_they_were_and_a_step_may_be_tried_again() -> None:
    executor, _ = on_recording_stand_in()
    states, _ = executor.run_layer(1, INPUTS, [None] * 6)
    before = [state.rows for state in states]
    for _ in range(3):
        once, _ = executor.run_layer(2, INPUTS, states)
        forget(executor)
        again, _ = executor.run_layer(2, INPUTS[:2], states[:2])
        assert all(torch.equal(one.rows, other) for one, other in zip(states, before, strict=True))
        for one, other in zip(once, again, strict=False):
            torch.testing.assert_close(one.rows, other.rows, rtol=0, atol=0.05)


def test_a_table_outlives_the_step_after_it() -> None:
    executor, _ = on_recording_stand_in()
    states, reading = executor.run_layer(1, INPUTS, [None] * 6)
    assert reading is not None
    before = reading.table.clone()
    executor.run_layer(2, INPUTS, states)
    assert torch.equal(reading.table, before)
    assert torch.equal(torch.cat([state.table for state in states]), before)


def test_a_table_that_nobody_looks_at_is_left_out() -> None:
    _, reading = on_recording_stand_in()[0].run_layer(1, INPUTS, [None] * 6, with_table=False)
    assert reading is not None and len(reading.spans) == 6
    with pytest.raises(RuntimeError, match="without its table"):
        _ = reading.table


def test_more_candidates_than_words_come_in_a_second_copy() -> None:
    model = tiny_model()
    for exit_ in model.exits:
        exit_.get_parameter("bias").fill_(3.0)
    executor, gpu = on_recording_stand_in(model)
    for _ in range(3):
        fetched = gpu.fetched
        _, reading = executor.run_layer(1, INPUTS, [None] * 6)
        assert gpu.fetched == fetched + 2
        assert_close(reading, on_stand_in(model)[0].run_layer(1, INPUTS, [None] * 6)[1])


# what is launched kernel by kernel, and goes on from there


def test_where_the_pool_is_full_steps_go_on_outside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_steps, "MOST_ROWS", 12)  # the pool is smaller than two states of all sequences
    model = tiny_model()
    executor, _ = on_recording_stand_in(model)
    held, _ = executor.run_layer(1, INPUTS[:3], [None] * 3)
    states, reading = executor.run_layer(1, INPUTS, [None] * 6)
    assert isinstance(held[0], PooledState) and not any(isinstance(state, PooledState) for state in states)
    mixed, found = executor.run_layer(2, INPUTS, [*held, *states[3:]])
    before, expected = on_stand_in(model)[0].run_layer(1, INPUTS, [None] * 6)
    assert_close(reading, expected)
    assert_close(found, on_stand_in(model)[0].run_layer(2, INPUTS, before)[1])
    assert not any(isinstance(state, PooledState) for state in mixed)


def test_words_may_halt_in_a_step_behind_a_replayed_one() -> None:
    model = tiny_model()
    moving = [np.arange(one.num_words) % 2 == 0 for one in INPUTS]
    found = []
    for executor in (on_recording_stand_in(model)[0], on_stand_in(model)[0]):
        states, _ = executor.run_layer(1, INPUTS, [None] * 6)
        states, _ = executor.run_layer(2, INPUTS, states, active=moving)
        found.append(executor.run_layer(3, INPUTS, states)[1])
    assert_close(found[0], found[1])


def test_more_cells_than_there_is_room_for_are_computed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_steps, "MOST_CELLS", 100)
    executor, _ = on_recording_stand_in()
    states, reading = executor.run_layer(1, INPUTS, [None] * 6)
    assert not isinstance(states[0], PooledState)
    assert_close(reading, on_stand_in()[0].run_layer(1, INPUTS, [None] * 6)[1])


def test_a_gpu_that_records_nothing_is_told_of_once_and_served_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class Unwilling(StandIn):
        def record(self, work: Work) -> Work:
            raise RuntimeError("operation not permitted when stream is capturing")

    executor = CudaExecutor(tiny_model(), Unwilling(ExitsByPyTorch))
    expected = readings_of(on_stand_in()[0], INPUTS)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for found, wanted in zip(readings_of(executor, INPUTS), expected, strict=True):
                assert_close(found, wanted)
    assert len(caplog.records) == 1
