"""Scores found entities against gold ones: strict and micro-averaged precision, recall and F1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from service.spans.types import Entity

Key = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Annotation:
    """Says what of a text is annotated; what is not may hold entities that nobody marked.

    labels   the labels that are annotated; None: all of the model's
    ignored  (start, end) by character of stretches that may be entities or not: no entity there is right or wrong
    """

    labels: frozenset[str] | None = None
    ignored: tuple[tuple[int, int], ...] = ()

    def counted(self, found: set[Key], gold: Collection[Key]) -> set[Key]:
        """Return those of the found entities that can be told to be right or wrong.

        gold  all entities that are marked; one whose label is not annotated may be marked all the same, and is right
        """
        if self.labels is None and not self.ignored:
            return found
        return {
            (start, end, label)
            for start, end, label in found
            if (self.labels is None or label in self.labels or (start, end, label) in gold)
            and not any(start < last and first < end for first, last in self.ignored)
        }


WHOLE = Annotation()


@dataclass(frozen=True, slots=True)
class Score:
    """Holds the counts of a comparison; `f1`, `precision` and `recall` are fractions in [0, 1], 0 where undefined."""

    gold: int = 0
    found: int = 0
    correct: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.gold + other.gold, self.found + other.found, self.correct + other.correct)

    @property
    def precision(self) -> float:
        return self.correct / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.correct / (self.gold + self.found) if self.gold + self.found else 0.0


def keys(entities: Iterable[Entity]) -> set[Key]:
    """Return the start, end and label of every entity: two entities are the same if these are equal."""
    return {(entity.start, entity.end, entity.label) for entity in entities}


def score(gold: set[Key], found: set[Key]) -> Score:
    """Compare the entities of one text."""
    return Score(len(gold), len(found), len(gold & found))


def score_by_label(gold: set[Key], found: set[Key]) -> dict[str, Score]:
    """Compare the entities of one text for each label that occurs."""
    gold_count, found_count = Counter(key[2] for key in gold), Counter(key[2] for key in found)
    correct_count = Counter(key[2] for key in gold & found)
    return {
        label: Score(gold_count[label], found_count[label], correct_count[label])
        for label in sorted(gold_count.keys() | found_count.keys())
    }


def inner(entities: set[Key]) -> set[Key]:
    """Return the nested entities: those that lie inside another, larger one of the same set."""
    return {
        (start, end, label)
        for start, end, label in entities
        if any(s <= start and end <= e and (s, e) != (start, end) for s, e, _ in entities)
    }
