"""Every measure of agreement against its formula written naively, by hand where it matters, and at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.exits.consistency import CONSISTENCIES, Consistency
from service.exits.reading import Reading
from tests.exits import naive_
from tests.exits.tables_ import alone, random_readings, reading_of, seeded

Kind = tuple[str, str]  # measure and pooling

NUM_WORDS = (4, 1, 9, 2, 4)
REVERSE = {"kl": "reverse_kl", "reverse_kl": "kl"}
every_measure = pytest.mark.parametrize("kind", CONSISTENCIES, ids="/".join)


def compare(kind: Kind, earlier: Reading, current: Reading) -> list[float]:
    agreement = CONSISTENCIES[kind].compare(earlier, current)
    assert agreement.dtype == np.float64
    return agreement.tolist()


def test_every_measure_has_a_formula_to_be_held_against() -> None:
    assert naive_.CONSISTENCIES.keys() == CONSISTENCIES.keys()


@every_measure
@pytest.mark.parametrize("num_labels", [2, 3, 8])
def test_packed_sequences_agree_as_much_as_the_formula_says(kind: Kind, num_labels: int) -> None:
    for seed, drift in enumerate([1.0, 0.3, 0.1, 0.03, 0.01]):
        earlier, current = random_readings(NUM_WORDS, 2, num_labels, seed, drift=drift)
        tables = zip(naive_.tables_of(earlier), naive_.tables_of(current), strict=True)
        expected = [naive_.CONSISTENCIES[kind](one, other) for one, other in tables]
        assert compare(kind, earlier, current) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("measure", ["entity_set", "entity_jaccard"])
def test_the_examples_hold_equal_different_and_partly_equal_entities(measure: str) -> None:
    earlier, current = random_readings([1, 2, 3] * 10, 2, 3, seed=0, drift=0.3)
    found = set(compare((measure, "mean"), earlier, current))
    assert {0.0, 1.0} <= found and (len(found) > 3) == (measure == "entity_jaccard")


def test_two_words_and_two_labels_by_hand() -> None:
    # cells:                   (0, 0)        (0, 1)        (1, 1)
    earlier = reading_of([[0.50, 0.50], [0.90, 0.10], [0.75, 0.25]])
    current = reading_of([[0.25, 0.75], [0.90, 0.10], [0.25, 0.75]])
    # KL of (0, 0): 1/2 log(1/2 / 1/4) + 1/2 log(1/2 / 3/4) = 1/2 log 2 + 1/2 log 2/3 = 1/2 log 4/3 = 0.143841
    # KL of (0, 1): 0
    # KL of (1, 1): 3/4 log(3/4 / 1/4) + 1/4 log(1/4 / 3/4) = 3/4 log 3 - 1/4 log 3   = 1/2 log 3   = 0.549306
    # their sum is 1/2 log(4/3 * 3) = log 2; Z = 3 cells, log K = log 2: C = -log 2 / (3 log 2) = -1/3
    assert compare(("kl", "mean"), earlier, current) == pytest.approx([-1 / 3], abs=1e-7)
    assert compare(("kl", "max"), earlier, current) == pytest.approx([-0.5 * math.log2(3)], abs=1e-6)


def test_the_divergence_is_of_the_earlier_layer_from_the_current_one() -> None:
    sure, unsure = reading_of([[0.9, 0.1]]), reading_of([[0.5, 0.5]])
    # KL(sure || unsure) = 0.9 log 1.8 + 0.1 log 0.2 = 0.368064; / log 2 = 0.531004
    # KL(unsure || sure) = 0.5 log 1/1.8 + 0.5 log 5  = 0.510826; / log 2 = 0.736966
    for pooling in ("mean", "max"):
        assert compare(("kl", pooling), sure, unsure) == pytest.approx([-0.531004], abs=1e-6)
        assert compare(("kl", pooling), unsure, sure) == pytest.approx([-0.736966], abs=1e-6)


@every_measure
@pytest.mark.parametrize("num_labels", range(2, 9))
def test_identical_tables_agree_as_much_as_can_be(kind: Kind, num_labels: int) -> None:
    (one,) = random_readings(NUM_WORDS, 1, num_labels, seed=num_labels)
    twin = Reading(one.table.clone(), NUM_WORDS, nested=True)
    assert compare(kind, one, twin) == [CONSISTENCIES[kind].highest] * len(NUM_WORDS)


@every_measure
@seeded
@given(
    seed=st.integers(0, 2**32), noise=st.sampled_from([0.0, 1e-7, 1e-4, 1e-2, 1.0, 1e4]), num_labels=st.integers(2, 6)
)
def test_agreement_stays_in_its_range(kind: Kind, seed: int, noise: float, num_labels: int) -> None:
    one, other = random_readings(NUM_WORDS, 2, num_labels, seed)
    nearby = Reading(torch.log_softmax(one.table + noise * other.table, dim=1), NUM_WORDS, nested=True)
    measure: Consistency = CONSISTENCIES[kind]
    for agreement in compare(kind, one, nearby) + compare(kind, nearby, one):
        assert math.isfinite(agreement) and measure.lowest <= agreement <= measure.highest


@pytest.mark.parametrize("num_labels", [2, 4, 7, 8])
def test_rounding_never_lifts_a_cosine_above_one(num_labels: int) -> None:
    (one,) = random_readings([4, 9] * 50, 1, num_labels, seed=0)
    nearby = Reading(torch.log_softmax(one.table, dim=1), one.num_words, nested=True)
    assert max(compare(("cosine", "mean"), one, nearby)) == 1.0


@every_measure
def test_probabilities_of_zero_are_no_trouble(kind: Kind) -> None:
    sure = reading_of([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # logarithms of -inf
    unsure = reading_of([[0.0, 0.5, 0.5], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    for one, other in ((sure, unsure), (unsure, sure)):
        (agreement,) = compare(kind, one, other)
        assert math.isfinite(agreement) and agreement < CONSISTENCIES[kind].highest
    assert compare(kind, sure, sure) == compare(kind, unsure, unsure) == [CONSISTENCIES[kind].highest]


@every_measure
def test_certain_opposites_agree_as_little_as_can_be(kind: Kind) -> None:
    one, other = reading_of([[1.0, 0.0]]), reading_of([[0.0, 1.0]])
    lowest = -30 / math.log(2) if kind[0] in REVERSE else CONSISTENCIES[kind].lowest  # a 0 costs 30 nats, not more
    assert compare(kind, one, other) == pytest.approx([lowest], rel=1e-6, abs=1e-6)


@every_measure
@pytest.mark.parametrize("drift", [1.0, 0.1, 0.01])
def test_only_the_divergences_have_a_direction_and_each_is_the_others_reverse(kind: Kind, drift: float) -> None:
    measure, pooling = kind
    one, other = random_readings(NUM_WORDS, 2, 4, seed=1, drift=drift)
    assert compare(kind, one, other) == compare((REVERSE.get(measure, measure), pooling), other, one)
    if measure in REVERSE:
        assert compare(kind, one, other) != compare(kind, other, one)


@every_measure
@seeded
@given(num_words=st.lists(st.integers(1, 9), min_size=1, max_size=5), num_labels=st.integers(2, 9), seed=st.integers(0))
def test_agreement_does_not_depend_on_batch_mates(kind: Kind, num_words: list[int], num_labels: int, seed: int) -> None:
    readings = random_readings(num_words, 2, num_labels, seed % 2**32, drift=0.5)
    assert compare(kind, *readings) == [compare(kind, *own)[0] for own in alone(readings)]


@every_measure
def test_a_threshold_to_start_from_lies_within_the_range_and_lets_some_vote(kind: Kind) -> None:
    measure = CONSISTENCIES[kind]
    assert measure.lowest < measure.tau < measure.highest
