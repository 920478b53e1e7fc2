"""Runs texts to full depth and keeps what every exit says. How good that is, is counted elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from service.models.batches import length_buckets
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, pack
from service.spans.decode import decode
from service.spans.types import Entity, Span
from service.text.encoder import TextEncoder
from service.text.types import EncodedText, SequenceInput


def run_to_full_depth(
    model: MultiExitModel, sequences: Sequence[SequenceInput], *, device: torch.device, max_pieces: int = 4096
) -> Iterator[tuple[list[int], Packed, list[Tensor]]]:
    """-> batch by batch: which sequences, packed, and every exit's packed table, in `evidence`'s layout.

    The model must be in eval mode and on `device`.
    """
    for batch in length_buckets(sequences, max_pieces):
        packed = pack([sequences[index] for index in batch], device)
        with torch.inference_mode():
            tables = model(packed)
        yield batch, packed, tables


def decode_table(table: Tensor, packed: Packed, *, nested: bool) -> list[list[Span]]:
    """A packed table -> the spans of each of its sequences."""
    best = table.max(dim=1)
    labels = best.indices.cpu().split(packed.cell_counts)
    log_probs = best.values.cpu().split(packed.cell_counts)
    return [
        decode(of_labels.numpy(), of_probs.numpy(), num_words, nested=nested)
        for of_labels, of_probs, num_words in zip(labels, log_probs, packed.words.lengths, strict=True)
    ]


def decode_every_exit(
    model: MultiExitModel, sequences: Sequence[SequenceInput], *, device: torch.device
) -> list[list[list[Span]]]:
    """-> per exit, per sequence, its spans."""
    found: list[list[list[Span]]] = [[[] for _ in sequences] for _ in range(model.config.num_layers)]
    for batch, packed, tables in run_to_full_depth(model, sequences, device=device):
        for exit_spans, table in zip(found, tables, strict=True):
            for index, spans in zip(batch, decode_table(table, packed, nested=model.config.nested), strict=True):
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
    model: MultiExitModel, text_encoder: TextEncoder, texts: Sequence[EncodedText], *, device: torch.device
) -> list[list[list[Entity]]]:
    """-> per exit, per text, its entities by character."""
    sequences = [sequence for text in texts for sequence in text.sequences]
    every_exit = decode_every_exit(model, sequences, device=device)
    return [entities_of_texts(text_encoder, texts, spans) for spans in every_exit]
