"""Normalised entropy against a naive transcription of Eq. 6, and at its ends."""

from __future__ import annotations

import math

import pytest
import torch

from service.exits.confidence import entropy
from tests.exits.tables_ import random_tables

NUM_WORDS = (3, 1, 6)


@pytest.mark.parametrize("num_labels", [2, 5, 9])
def test_entropy_of_every_cell_is_what_equation_six_says(num_labels: int) -> None:
    (table,) = random_tables(NUM_WORDS, 1, num_labels, seed=num_labels)
    naive = [-sum(math.exp(p) * p for p in row) / math.log(num_labels) for row in table.double().tolist()]
    assert entropy(table).tolist() == pytest.approx(naive, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_entropy_lies_between_zero_and_one(seed: int) -> None:
    (table,) = random_tables(NUM_WORDS, 1, 4, seed)
    assert entropy(table).min() >= 0.0 and entropy(table).max() <= 1.0


def test_a_certain_cell_has_no_entropy_even_with_probabilities_of_zero() -> None:
    assert entropy(torch.tensor([[0.0, 1.0, 0.0]]).log()).tolist() == [0.0]


@pytest.mark.parametrize("num_labels", [2, 3, 8])
def test_a_uniform_cell_has_all_the_entropy_there_is(num_labels: int) -> None:
    uniform = torch.log_softmax(torch.zeros(1, num_labels), dim=1)
    assert entropy(uniform).item() == pytest.approx(1.0, abs=1e-6)
