"""Precision, recall and F1 by hand. What is an entity of a text is decided elsewhere."""

from __future__ import annotations

import pytest

from service.spans.score import Key, Score, inner, keys, score, score_by_label
from service.spans.types import Entity

GOLD: set[Key] = {(0, 4, "PER"), (9, 12, "PER"), (16, 24, "LOC"), (30, 35, "ORG")}
FOUND: set[Key] = {(0, 4, "PER"), (9, 12, "LOC"), (16, 24, "LOC"), (16, 20, "LOC"), (40, 44, "MISC")}


def test_precision_recall_and_f1_count_exact_matches() -> None:
    result = score(GOLD, FOUND)
    assert result == Score(gold=4, found=5, correct=2)
    assert (result.precision, result.recall) == (2 / 5, 2 / 4)
    assert result.f1 == pytest.approx(2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4))


def test_a_wrong_label_or_a_wrong_end_is_no_match() -> None:
    assert score({(0, 4, "PER")}, {(0, 4, "LOC")}).correct == 0
    assert score({(0, 4, "PER")}, {(0, 5, "PER")}).correct == 0


def test_scores_of_texts_add_up_to_the_micro_average() -> None:
    total = sum([score({(0, 4, "PER")}, {(0, 4, "PER")}), score({(0, 1, "LOC")}, set())], start=Score())
    assert total == Score(gold=2, found=1, correct=1)
    assert (total.precision, total.recall, total.f1) == (1.0, 0.5, pytest.approx(2 / 3))


def test_by_label_has_a_row_for_every_label_of_either_side() -> None:
    assert score_by_label(GOLD, FOUND) == {
        "LOC": Score(gold=1, found=3, correct=1),
        "MISC": Score(gold=0, found=1, correct=0),
        "ORG": Score(gold=1, found=0, correct=0),
        "PER": Score(gold=2, found=1, correct=1),
    }


def test_the_rows_by_label_add_up_to_the_whole() -> None:
    assert sum(score_by_label(GOLD, FOUND).values(), start=Score()) == score(GOLD, FOUND)
    assert list(score_by_label(GOLD, FOUND)) == ["LOC", "MISC", "ORG", "PER"]


@pytest.mark.parametrize("empty", [Score(), Score(gold=3), Score(found=3)])
def test_what_is_undefined_is_zero(empty: Score) -> None:
    assert (empty.precision, empty.recall, empty.f1) == (0.0, 0.0, 0.0)


def test_inner_entities_lie_inside_a_larger_one() -> None:
    entities: set[Key] = {(0, 20, "ORG"), (8, 16, "LOC"), (8, 11, "MISC"), (20, 24, "PER"), (18, 22, "PER")}
    assert inner(entities) == {(8, 16, "LOC"), (8, 11, "MISC")}


def test_an_entity_that_shares_one_end_is_inner_and_one_that_shares_both_is_not() -> None:
    assert inner({(0, 9, "ORG"), (0, 4, "LOC"), (5, 9, "LOC")}) == {(0, 4, "LOC"), (5, 9, "LOC")}
    assert inner({(0, 9, "ORG"), (0, 9, "LOC")}) == set()


def test_keys_leave_probabilities_out() -> None:
    assert keys([Entity(0, 4, "PER", 0.5), Entity(0, 4, "PER", 0.9)]) == {(0, 4, "PER")}
