"""Turns annotated texts into sequences for training, each with its gold spans. `batches` makes batches of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.data.gold import gold_spans, words_within
from service.data.readers import Example, join
from service.spans.types import IntArray, Span
from service.text.encoder import TextEncoder
from service.text.types import SequenceInput


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSequence:
    """Holds a sequence and its gold spans.

    unannotated  labels that its words may have without being marked
    ignored      words of which nothing is sure
    """

    input: SequenceInput
    gold: tuple[Span, ...]
    unannotated: frozenset[int] = frozenset()
    ignored: frozenset[int] = frozenset()

    @property
    def word_labels(self) -> IntArray:
        """The label of the shortest entity that contains each word, 0 for none: (words,)."""
        labels = np.zeros(self.input.num_words, dtype=np.int64)
        for span in sorted(self.gold, key=lambda span: span.start - span.end):
            labels[span.start : span.end] = span.label
        return labels


def training_sequences(
    text_encoder: TextEncoder, examples: Sequence[Example], labels: tuple[str, ...], *, split: bool = True
) -> tuple[list[TrainingSequence], int]:
    """Encode examples as requests are encoded; return their sequences, and how many gold entities that loses.

    `split=False` takes each text as one sentence.
    """
    label_ids = {label: index for index, label in enumerate(labels, 1)}
    texts = text_encoder.encode_batch([example.text for example in examples], split=split)
    sequences: list[TrainingSequence] = []
    lost = 0
    for example, encoded in zip(examples, texts, strict=True):
        spans, missed = gold_spans(encoded, example.entities, label_ids)
        lost += len(missed)
        annotated = example.annotation.labels
        open_labels = frozenset[int]() if annotated is None else frozenset(label_ids[x] for x in {*labels} - annotated)
        for sequence, gold in zip(encoded.sequences, spans, strict=True):
            ignored = frozenset(
                word for start, end in example.annotation.ignored for word in words_within(sequence, start, end)
            )
            sequences.append(TrainingSequence(sequence, tuple(gold), open_labels, ignored))
    return sequences, lost


def join_examples(examples: Sequence[Example], most_words: int, seed: int) -> list[Example]:
    """Join neighbouring texts into longer ones, each up to a length that is drawn from 2 to `most_words` words.

    Words are counted by blanks. A single text may be longer than that.
    """
    draw = random.Random(seed)
    joined: list[Example] = []
    part: list[Example] = []
    words, wanted = 0, draw.randint(2, most_words)
    for example in examples:
        count = len(example.text.split())
        if part and words + count > wanted:
            joined.append(join(part))
            part, words, wanted = [], 0, draw.randint(2, most_words)
        part.append(example)
        words += count
    return [*joined, join(part)]
