"""The device: runs one layer over some sequences. The only file of the engine that touches tensors on it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

import torch

from service.engine.sequence import Sequence
from service.engine.trace import trace_sequence
from service.exits.policy import Evidence, ExitPolicy
from service.exits.reading import Reading
from service.models.multi_exit import MultiExitModel
from service.models.packed import Packed, pack
from service.spans.types import Span
from service.text.types import SequenceInput


class Runner(Protocol):
    """What the engine needs of a device; tests put a scripted one in its place."""

    num_layers: int

    def run_layer(self, layer: int, sequences: Seq[Sequence]) -> list[Evidence]:
        """Move `sequences` behind `layer`; -> what each one's policy sees there.

        When it raises, no sequence has moved, and it may be asked again for some of them.
        """

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
        evidence: list[Evidence] = [()] * len(sequences)
        readings: list[Reading | None] = [None] * len(sequences)
        if any(self._needs_table(sequence, layer) for sequence in sequences):
            table = self._model.exit_table(layer, hidden, packed)
            current = Reading(table, packed.words.lengths, nested=self._nested)
            evidence = self._evidence(layer, sequences, current)
            readings = [
                reading if self._needs_table(sequence, layer) else None
                for sequence, reading in zip(sequences, current.split(), strict=True)
            ]
        # from here on nothing can fail: a step that failed leaves its sequences as they were
        moved = zip(sequences, hidden.split(packed.pieces.lengths), readings, strict=True)
        for sequence, rows, reading in moved:
            sequence.hidden = rows
            sequence.readings.append(reading)
        return evidence

    def _pack(self, sequences: Seq[Sequence]) -> Packed:
        """The packed form of a step's sequences: that of the last step again, while nobody leaves or joins."""
        inputs = tuple(sequence.input for sequence in sequences)
        if self._packed is None or inputs != self._inputs:  # inputs compare by identity
            self._inputs, self._packed = inputs, pack(inputs, self._device)
        return self._packed

    def _needs_table(self, sequence: Sequence, layer: int) -> bool:
        return sequence.request.wants_trace or sequence.policy.needs_table(layer, self.num_layers)

    def _evidence(self, layer: int, sequences: Seq[Sequence], current: Reading) -> list[Evidence]:
        """Evidence for every sequence, computed together for those that share a policy."""
        groups: dict[tuple[ExitPolicy, bool], list[int]] = {}  # a traced sequence may have readings that others lack
        for index, sequence in enumerate(sequences):
            if self._needs_table(sequence, layer):
                groups.setdefault((sequence.policy, sequence.request.wants_trace), []).append(index)
        evidence: list[Evidence] = [()] * len(sequences)
        is_apart = any(len(members) < len(sequences) for members in groups.values())
        apart = current.split() if is_apart else []
        for (policy, _), members in groups.items():
            earlier = zip(*(sequences[index].seen for index in members), strict=True)
            latest = Reading.join([apart[index] for index in members]) if is_apart else current
            readings = [*(Reading.join(of_layer) for of_layer in earlier), latest]
            rows = policy.evidence(readings).tolist()  # the step's device-to-host copy
            for index, row in zip(members, rows, strict=True):
                evidence[index] = tuple(row)
        return evidence

    @torch.inference_mode()
    def read_spans(self, sequences: Seq[Sequence]) -> list[list[Span]]:
        """See Runner."""
        predictions = [sequence.policy.prediction(sequence.seen) for sequence in sequences]
        found = Reading.join(predictions).spans  # one copy for those that leave and are not decoded yet
        for sequence in sequences:
            if sequence.request.wants_trace:
                sequence.trace = trace_sequence(sequence, labels=self._labels)
        return found
