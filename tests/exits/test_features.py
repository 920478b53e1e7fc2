"""What the learned rule looks at, against naive loops."""

from __future__ import annotations

import math

import pytest

from service.exits.policies.learned import FEATURES, features
from service.exits.reading import Reading
from tests.exits import naive_
from tests.exits.tables_ import alone, random_readings, reading_of, without_tables

NUM_WORDS = (4, 1, 3, 2, 6, 3, 1)


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_every_feature_is_what_naive_loops_find(num_layers: int, nested: bool) -> None:
    for seed, drift in enumerate([1.0, 0.3, 0.1, 0.01]):
        readings = random_readings(NUM_WORDS, num_layers, 3, seed, drift=drift, nested=nested)
        tables = zip(*map(naive_.tables_of, readings), strict=True)
        for row, own in zip(features(readings), tables, strict=True):
            assert row == pytest.approx(naive_.features(own, nested), rel=1e-5, abs=1e-5)


def test_the_examples_vary_in_every_feature() -> None:
    rows = features(random_readings(NUM_WORDS, 4, 3, seed=3, drift=0.1))
    assert len(rows) == len(NUM_WORDS)
    assert [len(set(column)) > 1 for column in zip(*rows, strict=True)] == [True] * len(FEATURES)


def named(*readings: Reading) -> dict[str, float]:
    return dict(zip(FEATURES, features(readings)[0], strict=True))


def test_features_by_hand() -> None:
    exit_1 = reading_of([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]])
    exit_2 = reading_of([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
    assert named(exit_1, exit_2) == pytest.approx(
        {
            "log_entropy_max": -0.029472,  # log of (0.6 log 1/0.6 + 0.4 log 1/0.4) / log 2 = log 0.970951 + 1e-6
            "log_doubt": -0.175151,  # log of -log(0.6 * 0.9 * 0.8) = log 0.839330
            "missed": 0.4,  # of the first word
            "weakest": 0.2,  # the second word is found with 0.8
            "log_entities": 0.693147,
            "log_words": 0.693147,
            "is_unchanged": 1.0,
            "votes": 1.0,
        },
        abs=2e-5,
    )


def test_only_the_layer_before_makes_a_sequence_unchanged_but_every_one_votes() -> None:
    entity, none = reading_of([[0.1, 0.9]]), reading_of([[0.9, 0.1]])
    changed = named(entity, entity, none, entity)
    assert (changed["is_unchanged"], changed["votes"]) == (0.0, 2.0)
    unchanged = named(none, entity, entity)
    assert (unchanged["is_unchanged"], unchanged["votes"]) == (1.0, 1.0)
    first = named(entity)
    assert (first["is_unchanged"], first["votes"]) == (0.0, 0.0)


def test_where_nothing_or_everything_is_an_entity_nothing_is_weak_or_missed() -> None:
    assert named(reading_of([[0.9, 0.1]]))["weakest"] == 0.0
    assert named(reading_of([[0.1, 0.9]]))["missed"] == 0.0


def test_certain_tables_have_finite_features() -> None:
    certain = reading_of([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert all(map(math.isfinite, features([certain, certain])[0]))


def test_features_do_not_depend_on_batch_mates() -> None:
    for seed in range(20):
        readings = random_readings(NUM_WORDS, 3, 4, seed, drift=0.1)
        assert features(readings) == [row for own in alone(readings) for row in features(own)]


def test_features_need_no_table() -> None:
    readings = random_readings(NUM_WORDS, 3, 4, seed=0, drift=0.1)
    assert features(without_tables(readings)) == features(readings)
