"""Runs texts to full depth and keeps what every exit says. How good that is, is counted elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from service.executors.executor import Executor, State
from service.exits.reading import Reading
from service.models.batches import length_buckets
from service.spans.types import Entity, IntArray, Span
from service.text.encoder import TextEncoder
from service.text.types import EncodedText, SequenceInput

WordLayers = Callable[[SequenceInput], IntArray]


def run_to_full_depth(
    executor: Executor,
    sequences: Sequence[SequenceInput],
    *,
    max_pieces: int = 4096,
    word_layers: WordLayers | None = None,
) -> Iterator[tuple[list[int], list[Reading]]]:
    """-> batch by batch: which sequences, and what every exit said of them, tables included.

    word_layers: after which layers a sequence's words halt; None: none does
    """
    for batch in length_buckets(sequences, max_pieces):
        inputs = [sequences[index] for index in batch]
        states: list[State | None] = [None] * len(inputs)
        of_words = None if word_layers is None else [word_layers(sequence) for sequence in inputs]
        readings = []
        for layer in range(1, executor.config.num_layers + 1):
            active = None if of_words is None else [layers >= layer for layers in of_words]
            states, reading = executor.run_layer(layer, inputs, states, active=active)
            if reading is None:
                raise RuntimeError("an executor ran no exit, though it was asked for one")
            readings.append(reading)
        yield batch, readings


def decode_every_exit(
    executor: Executor, sequences: Sequence[SequenceInput], word_layers: WordLayers | None = None
) -> list[list[list[Span]]]:
    """-> per exit, per sequence, its spans."""
    found: list[list[list[Span]]] = [[[] for _ in sequences] for _ in range(executor.config.num_layers)]
    for batch, readings in run_to_full_depth(executor, sequences, word_layers=word_layers):
        for exit_spans, reading in zip(found, readings, strict=True):
            for index, spans in zip(batch, reading.spans, strict=True):
                exit_spans[index] = spans
    return found


def entities_of_texts(
    text_encoder: TextEncoder, texts: Sequence[EncodedText], spans: Sequence[list[Span]]
) -> list[list[Entity]]:
    """Spans of all texts' sequences, in order -> the entities of every text."""
    entities, position = [], 0
    for text in texts:
        entities.append(text_encoder.entities(text, spans[position : position + len(text.sequences)]))
        position += len(text.sequences)
    return entities


def entities_at_every_exit(
    executor: Executor, text_encoder: TextEncoder, texts: Sequence[EncodedText], word_layers: WordLayers | None = None
) -> list[list[list[Entity]]]:
    """-> per exit, per text, its entities by character."""
    sequences = [sequence for text in texts for sequence in text.sequences]
    every_exit = decode_every_exit(executor, sequences, word_layers)
    return [entities_of_texts(text_encoder, texts, spans) for spans in every_exit]
