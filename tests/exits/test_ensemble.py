"""The cross-layer ensemble: a mean of probabilities, sequence by sequence."""

from __future__ import annotations

import pytest
import torch

from service.exits.ensemble import average
from service.exits.reading import Reading
from tests.exits.tables_ import alone, random_readings, reading_of

NUM_WORDS = (3, 1, 5)


@pytest.mark.parametrize("num_layers", [1, 2, 5, 12])
def test_the_average_is_the_mean_of_the_exits_probabilities(num_layers: int) -> None:
    readings = random_readings(NUM_WORDS, num_layers, 4, seed=num_layers)
    mean = torch.stack([reading.table.double().exp() for reading in readings]).mean(dim=0)
    torch.testing.assert_close(average(readings).table.double().exp(), mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("nested", [True, False])
def test_the_average_is_a_reading_of_the_same_sequences(nested: bool) -> None:
    averaged = average(random_readings(NUM_WORDS, 3, 4, seed=0, nested=nested))
    assert (averaged.num_words, averaged.nested) == (NUM_WORDS, nested)


def test_the_average_knows_nothing_of_what_the_exits_have_worked_out() -> None:
    exits = random_readings(NUM_WORDS, 3, 4, seed=0)
    worked_out = [
        Reading(one.table, NUM_WORDS, nested=True, summary=one.summary, candidates=one.candidates) for one in exits
    ]
    averaged = Reading(average(exits).table, NUM_WORDS, nested=True)
    assert averaged.spans != exits[-1].spans and averaged.spans == average(worked_out).spans
    assert averaged.summary.tolist() == average(worked_out).summary.tolist()


def test_the_average_can_find_what_no_exit_found_best() -> None:
    one, other = reading_of([[0.45, 0.15, 0.40]]), reading_of([[0.15, 0.45, 0.40]])
    assert [reading.best[1].item() for reading in (one, other, average([one, other]))] == [0, 1, 2]


@pytest.mark.parametrize("num_layers", range(1, 25))
def test_exits_that_are_certain_average_to_a_probability_of_one_and_not_above(num_layers: int) -> None:
    certain = average([reading_of([[0.0, 1.0]])] * num_layers)
    assert certain.table.tolist() == [[-torch.inf, pytest.approx(0.0, abs=1e-6)]]
    assert 1 - 1e-6 < certain.spans[0][0].score <= 1.0


def test_the_average_does_not_depend_on_batch_mates() -> None:
    for seed in range(20):
        readings = random_readings(NUM_WORDS, 3, 5, seed)
        assert torch.equal(average(readings).table, Reading.join([average(own) for own in alone(readings)]).table)
