"""The device: runs one layer over some sequences. The only file of the engine that touches tensors on it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

import torch

from service.engine.sequence import Sequence
from service.engine.trace import trace_sequence
from service.exits.consistency import Cells
from service.exits.policy import Evidence, ExitPolicy
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, pack
from service.spans.decode import decode
from service.spans.types import Span
from service.text.types import SequenceInput


class Runner(Protocol):
    """What the engine needs of a device; tests put a scripted one in its place."""

    num_layers: int

    def run_layer(self, layer: int, sequences: Seq[Sequence]) -> list[Evidence]:
        """Move `sequences` behind `layer`; -> what each one's policy sees there."""

    def read_spans(self, sequences: Seq[Sequence]) -> list[list[Span]]:
        """Decode the latest table of sequences that leave, and fill in the trace of those that want one."""


class ModelRunner:
    """Runs a MultiExitModel with PyTorch, float32."""

    def __init__(self, model: MultiExitModel, device: torch.device) -> None:
        self.num_layers = model.config.num_layers
        self._model = model.to(device).eval()
        self._nested = model.config.nested
        self._labels = model.config.labels
        self._device = device
        self._inputs: tuple[SequenceInput, ...] = ()  # of the last step, and their packed form
        self._packed: Packed | None = None

    @torch.inference_mode()
    def run_layer(self, layer: int, sequences: Seq[Sequence]) -> list[Evidence]:
        """See Runner. The layer runs once over all sequences packed together, the exit only if somebody needs it."""
        packed = self._pack(sequences)
        if layer == 1:
            hidden = self._model.embed(packed)
        else:
            hidden = torch.cat([sequence.hidden for sequence in sequences])
        hidden = self._model.run_layer(layer, hidden, packed)
        for sequence, rows in zip(sequences, hidden.split(packed.pieces.lengths), strict=True):
            sequence.hidden = rows
        if not any(self._needs_table(sequence, layer) for sequence in sequences):
            for sequence in sequences:
                sequence.tables.append(None)
            return [()] * len(sequences)
        table = self._model.exit_table(layer, hidden, packed)
        for sequence, cells in zip(sequences, table.split(packed.cell_counts), strict=True):
            sequence.tables.append(cells if self._needs_table(sequence, layer) else None)
        return self._evidence(sequences, packed)

    def _pack(self, sequences: Seq[Sequence]) -> Packed:
        """The packed form of a step's sequences: that of the last step again, while nobody leaves or joins."""
        inputs = tuple(sequence.input for sequence in sequences)
        if self._packed is None or inputs != self._inputs:  # inputs compare by identity
            self._inputs, self._packed = inputs, pack(inputs, self._device)
        return self._packed

    def _needs_table(self, sequence: Sequence, layer: int) -> bool:
        return sequence.request.wants_trace or sequence.policy.needs_table(layer, self.num_layers)

    def _evidence(self, sequences: Seq[Sequence], packed: Packed) -> list[Evidence]:
        """Evidence for every sequence, computed together for those that share a policy."""
        groups: dict[tuple[ExitPolicy, bool], list[int]] = {}  # a traced sequence may have tables that others lack
        for index, sequence in enumerate(sequences):
            if sequence.tables[-1] is not None:
                groups.setdefault((sequence.policy, sequence.request.wants_trace), []).append(index)
        evidence: list[Evidence] = [()] * len(sequences)
        for (policy, _), members in groups.items():
            counts = tuple(packed.cell_counts[index] for index in members)
            per_cell = torch.arange(len(counts), device=self._device).repeat_interleave(
                torch.tensor(counts, device=self._device)
            )
            layers = zip(*(sequences[index].tables for index in members), strict=True)
            tables = [torch.cat(slices) for slices in layers if slices[0] is not None]
            rows = policy.evidence(tables, Cells(per_cell, counts)).tolist()  # the step's device-to-host copy
            for index, row in zip(members, rows, strict=True):
                evidence[index] = tuple(row)
        return evidence

    @torch.inference_mode()
    def read_spans(self, sequences: Seq[Sequence]) -> list[list[Span]]:
        """See Runner."""
        best = torch.cat([sequence.tables[-1] for sequence in sequences]).max(dim=1)
        counts = [len(sequence.tables[-1]) for sequence in sequences]
        labels = best.indices.cpu().split(counts)  # the copy for those that leave
        log_probs = best.values.cpu().split(counts)
        spans = [
            decode(of_labels.numpy(), of_probs.numpy(), sequence.input.num_words, nested=self._nested)
            for sequence, of_labels, of_probs in zip(sequences, labels, log_probs, strict=True)
        ]
        for sequence in sequences:
            if sequence.request.wants_trace:
                sequence.trace = trace_sequence(sequence, nested=self._nested, labels=self._labels)
        return spans
