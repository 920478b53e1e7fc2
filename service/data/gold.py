"""Lays gold entities over the sequences of an encoded text, and finds those that splitting or windows lose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from service.spans.types import Entity, Span
from service.text.types import EncodedText, SequenceInput


def gold_spans(
    encoded: EncodedText, entities: Iterable[Entity], label_ids: Mapping[str, int]
) -> tuple[list[list[Span]], list[Entity]]:
    """Return the gold spans of every sequence, and the lost entities: those that no sequence contains as a whole.

    Where windows overlap, an entity is gold in every window that contains it as a whole. An entity is lost when it
    crosses a sentence boundary or fits into no window, or when its ends are not word boundaries.
    """
    spans: list[list[Span]] = [[] for _ in encoded.sequences]
    lost: list[Entity] = []
    for entity in entities:
        found = False
        for index, sequence in enumerate(encoded.sequences):
            span = _span_of(sequence, entity, label_ids)
            if span is not None:
                spans[index].append(span)
                found = True
        if not found:
            lost.append(entity)
    return spans, lost


def _span_of(sequence: SequenceInput, entity: Entity, label_ids: Mapping[str, int]) -> Span | None:
    first = int(np.searchsorted(sequence.word_starts, entity.start))
    last = int(np.searchsorted(sequence.word_ends, entity.end))
    if first >= sequence.num_words or last >= sequence.num_words:
        return None
    if sequence.word_starts[first] != entity.start or sequence.word_ends[last] != entity.end:
        return None
    return Span(first, last + 1, label_ids[entity.label])


def words_within(sequence: SequenceInput, start: int, end: int) -> range:
    """Return the words of a sequence that share a character with the stretch [start, end) of its text."""
    return range(
        int(np.searchsorted(sequence.word_ends, start, "right")), int(np.searchsorted(sequence.word_starts, end))
    )


def label_names(examples: Sequence[Iterable[Entity]]) -> tuple[str, ...]:
    """Return the labels that occur, sorted."""
    return tuple(sorted({entity.label for entities in examples for entity in entities}))
