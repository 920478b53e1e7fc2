"""Costs between and beyond what was measured, what they are kept as, and how few figures explain many."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.simulated_fleet.costs import Costs, KernelCosts
from benchmarks.simulated_fleet.measuring import not_negative
from benchmarks.simulated_fleet.recording import Recording
from benchmarks.simulated_fleet.sizing import replicas_for
from benchmarks.simulated_fleet.validation import off_by, share_within
from tests.simulated_fleet.fleets_ import costs_of, recording_of

LENGTHS, BATCHES = (8, 16, 64), (1, 4, 16)
FIXED_S, PIECE_S, EXIT_S = 20e-6, 5e-6, 1e-6
LINEAR = tuple(
    tuple(FIXED_S + PIECE_S * length * batch for batch in BATCHES if length * batch <= 256) for length in LENGTHS
)
EXITS = tuple(
    tuple(EXIT_S * length * batch for batch in BATCHES[: len(LINEAR[row])]) for row, length in enumerate(LENGTHS)
)
KERNELS = KernelCosts(LENGTHS, BATCHES, (LINEAR,), (EXITS,))


@pytest.mark.parametrize(("sequences", "pieces"), [(1, 8), (1, 12), (3, 60), (7, 200), (20, 400), (1, 100), (3, 300)])
def test_costs_that_are_linear_are_found_everywhere(sequences: int, pieces: int) -> None:
    assert KERNELS.seconds(1, sequences, pieces, False) == pytest.approx(FIXED_S + PIECE_S * pieces)
    assert KERNELS.seconds(1, sequences, pieces, True) == pytest.approx(FIXED_S + (PIECE_S + EXIT_S) * pieces)


def test_costs_and_recordings_are_the_same_after_json() -> None:
    costs, recording = costs_of(take=0.001, wake=0.00007), recording_of((10,), (20, 30))
    kept = json.loads(json.dumps({"costs": costs.to_json(), "recording": recording.to_json()}))
    assert Costs.from_json(kept["costs"]) == costs
    assert Recording.from_json(kept["recording"]) == recording


def test_what_explains_the_bursts_best_is_found_and_is_never_negative() -> None:
    rows = np.array([[10.0, 100, 50, 20], [40, 100, 50, 20], [10, 30, 0, 20], [20, 30, 0, 20], [9, 80, 70, 10]])
    assert not_negative(rows, rows @ [3e-5, 8e-6, 5e-6, 2e-5]) == pytest.approx([3e-5, 8e-6, 5e-6, 2e-5])
    assert min(not_negative(rows, rows @ [3e-5, -1e-6, 0, 2e-5])) == 0


def test_replicas_are_those_of_the_cell_that_they_make_and_some_to_spare() -> None:
    by_size = {1: 500.0, 2: 600.0, 4: 650.0, 8: 700.0}
    assert [replicas_for(rate, by_size) for rate in (400, 1_000, 1_200, 1_300, 5_600, 700_000)] == [
        1,
        2,
        2,
        3,
        8,
        1_000,
    ]
    with_spare = replicas_for(700_000, by_size, 0.1)
    assert 0.9 * with_spare >= 1_000 > 0.9 * (with_spare - 2)
    assert replicas_for(400, by_size, 0.1) == 2


def test_the_difference_is_a_share_of_what_was_measured() -> None:
    measured = {"p50_ms": 2.0, "p99_ms": 10.0, "goodput": 100.0}
    found = off_by(measured, {"p50_ms": 2.1, "p99_ms": 8.0, "goodput": 100.0})
    assert found == pytest.approx({"p50_ms": 0.05, "p99_ms": -0.2, "goodput": 0.0})
    assert share_within([{"off_by": found}]) == {"p50_ms": 1.0, "p99_ms": 0.0, "goodput": 1.0}
