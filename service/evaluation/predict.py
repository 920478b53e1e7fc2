"""Runs texts to full depth and keeps what every exit decodes. How good that is, is counted in `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from service.models.batches import length_buckets
from service.models.multi_exit import MultiExitModel
from service.models.packed import pack
from service.spans.decode import decode
from service.spans.types import Entity, Span
from service.text.encoder import TextEncoder
from service.text.types import EncodedText, SequenceInput


def decode_every_exit(
    model: MultiExitModel, sequences: Sequence[SequenceInput], *, device: torch.device, max_pieces: int = 4096
) -> list[list[list[Span]]]:
    """-> per exit, per sequence, its decoded spans. The model must be in eval mode and on `device`."""
    num_layers, nested = model.config.num_layers, model.config.nested
    found: list[list[list[Span]]] = [[[] for _ in sequences] for _ in range(num_layers)]
    for batch in length_buckets(sequences, max_pieces):
        packed = pack([sequences[index] for index in batch], device)
        with torch.inference_mode():
            tables = model(packed)
        for exit_spans, table in zip(found, tables, strict=True):
            best = table.max(dim=1)
            labels = best.indices.cpu().split(packed.cell_counts)
            log_probs = best.values.cpu().split(packed.cell_counts)
            for index, sequence_labels, sequence_log_probs in zip(batch, labels, log_probs, strict=True):
                num_words = sequences[index].num_words
                exit_spans[index] = decode(
                    sequence_labels.numpy(), sequence_log_probs.numpy(), num_words, nested=nested
                )
    return found


def entities_at_every_exit(
    model: MultiExitModel, text_encoder: TextEncoder, texts: Sequence[EncodedText], *, device: torch.device
) -> list[list[list[Entity]]]:
    """-> per exit, per text, its entities by character."""
    sequences = [sequence for text in texts for sequence in text.sequences]
    found: list[list[list[Entity]]] = []
    for spans in decode_every_exit(model, sequences, device=device):
        position, of_texts = 0, []
        for text in texts:
            of_texts.append(text_encoder.entities(text, spans[position : position + len(text.sequences)]))
            position += len(text.sequences)
        found.append(of_texts)
    return found
