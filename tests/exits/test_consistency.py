"""The vote's measure against a naive transcription of Eq. 7, by hand, and at its edges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.exits.consistency import kl_consistency
from service.exits.policies.vee import Vee
from service.spans.table import cell_index
from tests.exits.tables_ import cells_of, random_tables

Cell = tuple[int, int]  # first and last word, inclusive

NUM_WORDS = (4, 1, 9, 2, 4)
seeded = settings(derandomize=True, deadline=None, max_examples=60)


def naive(earlier: dict[Cell, list[float]], current: dict[Cell, list[float]], num_words: int) -> float:
    """Eq. 7, without its leading minus, over two whole tables in Python floats (float64)."""
    total, valid = 0.0, 0
    for start in range(num_words):
        for end in range(start, num_words):
            valid += 1
            for log_p, log_q in zip(earlier[start, end], current[start, end], strict=True):
                log_p, log_q = max(log_p, -30.0), max(log_q, -30.0)
                total += math.exp(log_p) * (log_p - log_q)
    return -total / (valid * math.log(len(earlier[0, 0])))


def split(packed: Tensor, num_words: Sequence[int]) -> Iterator[dict[Cell, list[float]]]:
    """Every sequence's table of a packed one, by cell."""
    for count, rows in zip(num_words, packed.double().split(cells_of(num_words).counts), strict=True):
        yield {
            (start, end): rows[cell_index(count, start, end)].tolist()
            for start in range(count)
            for end in range(start, count)
        }


def log(probabilities: list[list[float]]) -> Tensor:
    return torch.tensor(probabilities).log()


@pytest.mark.parametrize("num_labels", [2, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_packed_sequences_agree_as_much_as_equation_seven_says(num_labels: int, seed: int) -> None:
    earlier, current = random_tables(NUM_WORDS, 2, num_labels, seed)
    packed = kl_consistency(earlier, current, cells_of(NUM_WORDS)).tolist()
    tables = zip(NUM_WORDS, split(earlier, NUM_WORDS), split(current, NUM_WORDS), strict=True)
    expected = [naive(one, other, count) for count, one, other in tables]
    assert packed == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_two_words_and_two_labels_by_hand() -> None:
    # cells:            (0, 0)        (0, 1)        (1, 1)
    earlier = log([[0.50, 0.50], [0.90, 0.10], [0.75, 0.25]])
    current = log([[0.25, 0.75], [0.90, 0.10], [0.25, 0.75]])
    # KL of (0, 0): 1/2 log(1/2 / 1/4) + 1/2 log(1/2 / 3/4) = 1/2 log 2 + 1/2 log 2/3 = 1/2 log 4/3 = 0.143841
    # KL of (0, 1): 0
    # KL of (1, 1): 3/4 log(3/4 / 1/4) + 1/4 log(1/4 / 3/4) = 3/4 log 3 - 1/4 log 3   = 1/2 log 3   = 0.549306
    # their sum is 1/2 log(4/3 * 3) = log 2; Z = 3 cells, log K = log 2: C = -log 2 / (3 log 2) = -1/3
    assert kl_consistency(earlier, current, cells_of([2])).tolist() == pytest.approx([-1 / 3], abs=1e-7)


def test_the_divergence_is_of_the_earlier_layer_from_the_current_one() -> None:
    sure, unsure = log([[0.9, 0.1]]), log([[0.5, 0.5]])
    # KL(sure || unsure) = 0.9 log 1.8 + 0.1 log 0.2 = 0.368064; / log 2 = 0.531004
    # KL(unsure || sure) = 0.5 log 1/1.8 + 0.5 log 5  = 0.510826; / log 2 = 0.736966
    assert kl_consistency(sure, unsure, cells_of([1])).item() == pytest.approx(-0.531004, abs=1e-6)
    assert kl_consistency(unsure, sure, cells_of([1])).item() == pytest.approx(-0.736966, abs=1e-6)


def test_the_latest_table_is_compared_with_each_earlier_one_in_order() -> None:
    *earlier, current = random_tables(NUM_WORDS, 4, 3, seed=1)
    evidence = Vee().evidence([*earlier, current], cells_of(NUM_WORDS))
    assert evidence.shape == (len(NUM_WORDS), 3) and evidence.dtype == torch.float64
    for column, table in enumerate(earlier):
        assert evidence[:, column].tolist() == kl_consistency(table, current, cells_of(NUM_WORDS)).tolist()


def test_the_first_layer_has_nobody_to_agree_with() -> None:
    assert Vee().evidence(random_tables(NUM_WORDS, 1, 3, seed=0), cells_of(NUM_WORDS)).shape == (len(NUM_WORDS), 0)


@pytest.mark.parametrize("seed", range(5))
def test_identical_tables_agree_exactly(seed: int) -> None:
    (table,) = random_tables(NUM_WORDS, 1, 5, seed)
    assert kl_consistency(table, table.clone(), cells_of(NUM_WORDS)).tolist() == [0.0] * len(NUM_WORDS)


@seeded
@given(seed=st.integers(0, 2**32), noise=st.sampled_from([0.0, 1e-7, 1e-4, 1.0]), num_labels=st.integers(2, 6))
def test_agreement_is_never_above_zero(seed: int, noise: float, num_labels: int) -> None:
    table, other = random_tables(NUM_WORDS, 2, num_labels, seed)
    nearby = torch.log_softmax(table + noise * other, dim=1)
    assert max(kl_consistency(table, nearby, cells_of(NUM_WORDS)).tolist()) <= 0.0


def test_a_probability_of_zero_costs_thirty_nats_and_no_more() -> None:
    one, other = log([[1.0, 0.0]]), log([[0.0, 1.0]])
    assert kl_consistency(one, other, cells_of([1])).item() == pytest.approx(-30 / math.log(2))
    assert kl_consistency(one, one, cells_of([1])).item() == 0.0


@seeded
@given(num_words=st.lists(st.integers(1, 12), min_size=1, max_size=6), data=st.data())
def test_what_a_sequence_shows_does_not_depend_on_its_batch_mates(num_words: list[int], data: st.DataObject) -> None:
    num_labels, seed = data.draw(st.integers(2, 9)), data.draw(st.integers(0, 2**32))
    tables = random_tables(num_words, 3, num_labels, seed)
    together = Vee().evidence(tables, cells_of(num_words)).tolist()
    alone = zip(*(table.split(cells_of(num_words).counts) for table in tables), strict=True)
    for count, own, row in zip(num_words, alone, together, strict=True):
        assert Vee().evidence([table.clone() for table in own], cells_of([count])).tolist() == [row]


def test_cells_pool_by_mean_within_each_sequence() -> None:
    cells = cells_of([1, 2])
    per_cell = torch.tensor([-5.0, 1.0, 2.0, 6.0])
    assert cells.mean(per_cell).tolist() == [-5.0, 3.0]
