"""Scores every exit on an annotated data set: F1, precision and recall in all, per label, and nested ones apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.data.gold import gold_spans
from service.data.readers import Example
from service.evaluation.predict import entities_at_every_exit
from service.executors.executor import Executor
from service.spans.score import WHOLE, Annotation, Score, inner, keys, score, score_by_label
from service.spans.types import Entity
from service.stepping.every_exit import WordLayers
from service.text.encoder import TextEncoder
from service.text.types import EncodedText


@dataclass(slots=True)
class ExitScore:
    """Holds one exit's counts; `nested` counts entities that lie inside another one, `outermost` the others.

    A correct entity counts as nested if it is nested among the gold entities, a wrong one if it is nested among the
    found entities. So the two parts add up to `micro`.
    """

    micro: Score = field(default_factory=Score)
    outermost: Score = field(default_factory=Score)
    nested: Score = field(default_factory=Score)
    by_label: dict[str, Score] = field(default_factory=dict)

    def add(self, gold: Sequence[Entity], found: Sequence[Entity], annotation: Annotation = WHOLE) -> None:
        """Add the counts of one text; found entities that `annotation` says nothing of do not count."""
        gold_keys = keys(gold)
        found_keys = annotation.counted(keys(found), gold_keys)
        gold_inner = inner(gold_keys)
        found_inner = (found_keys & gold_inner) | ((found_keys - gold_keys) & inner(found_keys))
        self.micro += score(gold_keys, found_keys)
        self.nested += score(gold_inner, found_inner)
        self.outermost += score(gold_keys - gold_inner, found_keys - found_inner)
        for label, counts in score_by_label(gold_keys, found_keys).items():
            self.by_label[label] = self.by_label.get(label, Score()) + counts


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Holds the scores of exits 1, 2, ... on a data set.

    texts, sequences, gold  how many texts, sequences and gold entities there are
    lost                    how many gold entities no exit can find, since splitting or windows cut them
    """

    exits: tuple[ExitScore, ...]
    texts: int
    sequences: int
    gold: int
    lost: int

    @property
    def f1(self) -> list[float]:
        """The micro-F1 of every exit, as a fraction."""
        return [exit_score.micro.f1 for exit_score in self.exits]

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain JSON types; F1, precision and recall are x 100."""
        return {
            "texts": self.texts,
            "sequences": self.sequences,
            "gold_entities": self.gold,
            "gold_entities_lost_by_splitting_or_windows": self.lost,
            "exits": [
                {
                    "exit_layer": layer,
                    **score_json(exit_score.micro),
                    "outermost": score_json(exit_score.outermost),
                    "nested": score_json(exit_score.nested),
                    "labels": {label: score_json(counts) for label, counts in sorted(exit_score.by_label.items())},
                }
                for layer, exit_score in enumerate(self.exits, 1)
            ],
        }


def score_json(counts: Score) -> dict[str, float | int]:
    """Return counts and ratios as plain JSON types; the ratios are x 100."""
    return {
        "f1": round(100 * counts.f1, 2),
        "precision": round(100 * counts.precision, 2),
        "recall": round(100 * counts.recall, 2),
        "gold": counts.gold,
        "found": counts.found,
        "correct": counts.correct,
    }


def encode_examples(text_encoder: TextEncoder, examples: Sequence[Example], *, split: bool = True) -> list[EncodedText]:
    """Encode the text of every example as the server encodes a request."""
    return text_encoder.encode_batch([example.text for example in examples], split=split)


def evaluate(
    executor: Executor,
    text_encoder: TextEncoder,
    examples: Sequence[Example],
    *,
    split: bool = True,
    word_layers: WordLayers | None = None,
) -> Evaluation:
    """Score every exit against gold; `split=False` takes each text as one sentence. A lost gold entity is a miss.

    word_layers: a function that says after which layers the words of a sequence halt; None: no word halts
    """
    texts = encode_examples(text_encoder, examples, split=split)
    label_ids = {label: index for index, label in enumerate(executor.config.labels, 1)}
    known = [[entity for entity in example.entities if entity.label in label_ids] for example in examples]
    lost = sum(len(gold_spans(text, gold, label_ids)[1]) for text, gold in zip(texts, known, strict=True))
    exits = []
    for of_texts in entities_at_every_exit(executor, text_encoder, texts, word_layers):
        exit_score = ExitScore()
        for example, found in zip(examples, of_texts, strict=True):
            exit_score.add(example.entities, found, example.annotation)
        exits.append(exit_score)
    return Evaluation(
        tuple(exits),
        texts=len(examples),
        sequences=sum(len(text.sequences) for text in texts),
        gold=exits[0].micro.gold,
        lost=lost,
    )
