"""Annotated texts as training sequences: what splitting costs."""

from __future__ import annotations

from service.data.readers import Example
from service.spans.types import Entity, Span
from service.training.sequences import training_sequences
from tests.models_ import tiny_text_encoder


def test_an_entity_that_sentence_splitting_cuts_is_counted_as_lost() -> None:
    text = "Ben met Carla. Anna works in Oslo."
    entities = tuple(
        Entity(text.index(name), text.index(name) + len(name), label)
        for name, label in (("Ben", "PER"), ("Carla. Anna", "PER"), ("Oslo", "LOC"))
    )
    found, lost = training_sequences(tiny_text_encoder(), [Example(text, entities)], ("LOC", "ORG", "PER"))
    assert [sequence.gold for sequence in found] == [(Span(0, 1, 3),), (Span(3, 4, 1),)]
    assert lost == 1
