"""Right entities become spans of words, levels are counted against them, and the counts outlive the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.engine.labelled import Labelled
from service.exits.policies.full_depth import FullDepth
from service.levels.labels import FEWEST_SENTENCES, GoldKeeper, GoldLevels, labelled_of
from service.spans.types import Entity
from service.text.types import SequenceInput
from tests.levels.promised_ import FASTEST, LEVELS, MIDDLE, NUM_LAYERS, PROMISING, SAFE, wrong_if_fastest
from tests.policy.live_ import change, start

LABELS = ("LOC", "ORG", "PER")
RIGHT = frozenset({(0, 1, 1)})  # as all exits but the first answer in `wrong_if_fastest`


def sequence(*words: tuple[int, int], owned: tuple[int, int] | None = None) -> SequenceInput:
    """Of words with these places in the text."""
    count = len(words)
    pieces = np.zeros(count + 2, dtype=np.int64)
    at = np.arange(1, count + 1)
    starts, ends = np.array(words).T
    return SequenceInput(pieces, pieces, at, at, starts, ends, owned or (0, count))


def rights(sequences: list[SequenceInput], *entities: tuple[int, int, str]) -> list[set[tuple[int, int, int]]]:
    found = labelled_of(sequences, [Entity(*entity) for entity in entities], LABELS)
    assert [one.sequence for one in found] == sequences
    return [set(one.right) for one in found]


# right entities


def test_an_entity_becomes_a_span_of_the_words_of_its_sentence() -> None:
    first, second = sequence((0, 3), (4, 9)), sequence((10, 15), (16, 20), (20, 21))
    assert rights([first, second], (0, 9, "PER"), (16, 20, "LOC")) == [{(0, 2, 3)}, {(1, 2, 1)}]
    assert rights([first, second]) == [set(), set()]


@pytest.mark.parametrize("entity", [(1, 9, "PER"), (4, 8, "PER"), (3, 4, "PER"), (4, 20, "PER")])
def test_an_entity_that_is_no_words_of_one_sentence_is_one_that_no_level_answers(entity: tuple[int, int, str]) -> None:
    first, second = rights([sequence((0, 3), (4, 9)), sequence((10, 15), (16, 20))], entity)
    ((start, _, _),) = first
    assert start < 0 and not second


def test_of_two_windows_the_one_that_answers_for_its_first_word_has_the_entity() -> None:
    windows = [sequence((0, 3), (4, 9), (10, 15), owned=(0, 2)), sequence((4, 9), (10, 15), (16, 20), owned=(1, 3))]
    assert rights(windows, (4, 9, "ORG"), (10, 20, "PER")) == [{(1, 2, 2)}, {(1, 3, 3)}]


# counts


def gold_levels(folder: Path, model: str = "tiny@1 abc") -> GoldLevels:
    return GoldLevels(LEVELS, NUM_LAYERS, folder, model)


def add(levels: GoldLevels, count: int = 1) -> None:
    run = wrong_if_fastest()
    assert run.readings is not None
    for _ in range(count):
        levels.add(run.readings, Labelled(sequence((0, 3)), RIGHT))


def f1s(levels: GoldLevels) -> list[float | None]:
    return [levels.f1(level) for level in (FASTEST, MIDDLE, SAFE, FullDepth())]


def test_every_level_and_full_depth_is_counted_against_the_right_entities(tmp_path: Path) -> None:
    levels = gold_levels(tmp_path)
    assert levels.sentences == 0 and f1s(levels) == [None] * 4
    add(levels)
    assert levels.sentences == 1 and f1s(levels) == [0.0, 1.0, 1.0, 1.0]
    found = levels.gold()
    assert (found.sentences, found.full_depth.f1, found.levels[FASTEST].f1) == (1, 1.0, 0.0)


def test_counts_outlive_the_process_and_no_text_is_in_the_file(tmp_path: Path) -> None:
    levels = gold_levels(tmp_path)
    add(levels, 3)
    levels.save()
    again = gold_levels(tmp_path)
    again.save()
    assert again.gold() == levels.gold() and again.sentences == 3
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 2_000


def test_processes_that_share_a_folder_count_together(tmp_path: Path) -> None:
    one, other = gold_levels(tmp_path), gold_levels(tmp_path)
    add(one, 2)
    one.save()
    add(other, 3)
    assert other.sentences == 3
    other.save()
    assert other.sentences == 5 and one.sentences == 2
    one.save()
    assert one.gold() == other.gold()


def test_without_news_the_file_is_not_touched(tmp_path: Path) -> None:
    levels = gold_levels(tmp_path)
    levels.save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("{"), lambda path: None], ids=["broken", "other model"])
def test_counts_that_cannot_be_used_are_set_aside(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    levels = gold_levels(tmp_path)
    add(levels)
    levels.save()
    spoil(tmp_path / "feedback.json")
    other = gold_levels(tmp_path, "tiny@1 def")
    add(other, 2)
    other.save()
    assert other.sentences == 2
    assert {path.name for path in tmp_path.iterdir()} == {"feedback.json", "feedback.unusable-1"}


def test_counts_that_cannot_be_saved_are_kept_and_saved_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    levels = gold_levels(tmp_path)
    add(levels, 2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            levels.save()
    assert levels.sentences == 2
    levels.save()
    assert gold_levels(tmp_path).sentences == 0  # until it looks
    again = gold_levels(tmp_path)
    again.save()
    assert again.sentences == 2


# the keeper


def test_the_live_policy_is_told_what_full_depth_is_at_least_once_there_are_enough(tmp_path: Path) -> None:
    live, levels = start(tmp_path / "policy", calibration=PROMISING), gold_levels(tmp_path)
    keeper = GoldKeeper(live, levels)
    add(levels, FEWEST_SENTENCES - 1)
    keeper.look()
    wish = {"max_f1_loss": 5.0, "on": "traffic"}
    promise = change(live, **wish).in_force.promise
    assert promise is not None and promise.full_f1 == PROMISING.full_f1 == 83.0
    add(levels, 2 * FEWEST_SENTENCES)
    keeper.look()
    assert live.current.promise == promise  # what is promised stays as it is until somebody asks anew
    again = change(live, **wish).in_force.promise
    assert again is not None and again.full_f1 == round(100 * levels.gold().full_depth.f1_interval[0], 2) > 83
    assert again.max_disagreement > promise.max_disagreement


def test_the_keeper_saves_what_is_left_when_it_ends(tmp_path: Path) -> None:
    levels = gold_levels(tmp_path)
    keeper = GoldKeeper(start(tmp_path / "policy", calibration=PROMISING), levels)
    keeper.start()
    add(levels)
    keeper.close()
    again = gold_levels(tmp_path)
    again.save()
    assert again.sentences == 1
