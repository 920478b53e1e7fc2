"""Finds what every exit finds in texts that are run to full depth; `evaluate` counts how good that is."""

from __future__ import annotations

from collections.abc import Sequence

from service.executors.executor import Executor
from service.spans.types import Entity, Span
from service.stepping.every_exit import WordLayers, run_to_full_depth
from service.text.encoder import TextEncoder
from service.text.types import EncodedText, SequenceInput


def decode_every_exit(
    executor: Executor, sequences: Sequence[SequenceInput], word_layers: WordLayers | None = None
) -> list[list[list[Span]]]:
    """Return [exit][sequence] the spans that every exit finds."""
    found: list[list[list[Span]]] = [[[] for _ in sequences] for _ in range(executor.config.num_layers)]
    for batch, readings in run_to_full_depth(executor, sequences, word_layers=word_layers):
        for exit_spans, reading in zip(found, readings, strict=True):
            for index, spans in zip(batch, reading.spans, strict=True):
                exit_spans[index] = spans
    return found


def entities_of_texts(
    text_encoder: TextEncoder, texts: Sequence[EncodedText], spans: Sequence[list[Span]]
) -> list[list[Entity]]:
    """Return the entities of every text, given the spans of all sequences of all texts, in order."""
    entities, position = [], 0
    for text in texts:
        entities.append(text_encoder.entities(text, spans[position : position + len(text.sequences)]))
        position += len(text.sequences)
    return entities


def entities_at_every_exit(
    executor: Executor, text_encoder: TextEncoder, texts: Sequence[EncodedText], word_layers: WordLayers | None = None
) -> list[list[list[Entity]]]:
    """Return [exit][text] the entities that every exit finds, by character."""
    sequences = [sequence for text in texts for sequence in text.sequences]
    every_exit = decode_every_exit(executor, sequences, word_layers)
    return [entities_of_texts(text_encoder, texts, spans) for spans in every_exit]
