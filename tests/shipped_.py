"""Sentences of our own, with the entities that a person finds there by each data set's rules. No test lives here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.spans.score import Key, Score, score

FOLDER = Path(__file__).parent / "shipped"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence and its entities.

    unsure  models that are wrong here at their last exit, or give the right label of some span less than 0.9. Of all
            others the entities are the same on every processor: int8 and float32 differ by less than what is left
    """

    text: str
    entities: frozenset[Key]
    unsure: frozenset[str]


def sentences_of(model: str) -> list[Sentence]:
    """The sentences for the data set that a shipped model was trained on, which its name begins with."""
    path = FOLDER / f"{model.partition('-')[0]}.jsonl"
    with path.open(encoding="utf-8") as lines:
        return [_sentence(**json.loads(line)) for line in lines]


def _sentence(text: str, entities: Sequence[tuple[str, str]], unsure: Sequence[str] = ()) -> Sentence:
    for name, _ in entities:
        if text.count(name) != 1:
            raise ValueError(f"{name!r} is {text.count(name)} times in {text!r}; expected once, so that it has a place")
    keys = {(text.index(name), text.index(name) + len(name), label) for name, label in entities}
    return Sentence(text, frozenset(keys), frozenset(unsure))


def f1(sentences: Iterable[Sentence], found: Iterable[set[Key]]) -> float:
    """Micro-F1 over all sentences, as a fraction."""
    pairs = zip(sentences, found, strict=True)
    return sum((score({*sentence.entities}, keys) for sentence, keys in pairs), Score()).f1


def wrong(model: str, sentences: Iterable[Sentence], found: Iterable[set[Key]]) -> list[str]:
    """The sentences of which a model is sure, where it found anything else than their entities."""
    pairs = zip(sentences, found, strict=True)
    return [one.text for one, keys in pairs if model not in one.unsure and keys != one.entities]
