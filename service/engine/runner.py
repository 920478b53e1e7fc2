"""A step of the engine: an executor runs the layer, policies look at what its exit said."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Protocol

from service.engine.sequence import Sequence
from service.engine.trace import trace_sequence
from service.executors.executor import Executor
from service.exits.halting import Flags
from service.exits.policy import Evidence
from service.exits.reading import Reading
from service.exits.words import WordPolicy, Words
from service.spans.types import Span


class Runner(Protocol):
    """What the engine needs of a device; tests put a scripted one in its place."""

    num_layers: int

    def run_layer(self, layer: int, sequences: Seq[Sequence]) -> list[Evidence]:
        """Move `sequences` after `layer`; -> what each one's policy sees there.

        When it raises, no sequence has moved, and it may be asked again for some of them.
        """

    def read_spans(self, sequences: Seq[Sequence]) -> list[list[Span]]:
        """Decode the latest table of sequences that leave, and fill in the trace of those that want one."""


class ModelRunner:
    """Runs a model through an executor."""

    def __init__(self, executor: Executor) -> None:
        self.num_layers = executor.config.num_layers
        self._labels = executor.config.labels
        self._executor = executor

    def run_layer(self, layer: int, sequences: Seq[Sequence]) -> list[Evidence]:
        """See Runner. The layer runs once over all sequences packed together, the exit only if somebody needs it."""
        needs_exit = [self._needs_exit(sequence, layer) for sequence in sequences]
        states, current = self._executor.run_layer(
            layer,
            [sequence.input for sequence in sequences],
            [sequence.hidden for sequence in sequences],
            with_exit=any(needs_exit),
            with_table=any(sequence.request.wants_trace or sequence.policy.compares_tables for sequence in sequences),
            active=self._moving(sequences),
        )
        evidence: list[Evidence] = [()] * len(sequences)
        readings: Seq[Reading | None] = [None] * len(sequences)
        if current is not None:
            if layer < self.num_layers:  # at the last layer nobody asks for a reason to leave
                evidence = self._evidence(sequences, needs_exit, current)
            readings = current.split()
        words = [self._words(sequence, layer, reading) for sequence, reading in zip(sequences, readings, strict=True)]
        # from here on nothing can fail: a step that failed leaves its sequences as they were
        for index, (sequence, state, reading) in enumerate(zip(sequences, states, readings, strict=True)):
            sequence.hidden = state
            sequence.readings.append(reading if needs_exit[index] else None)
            if (of_sequence := words[index]) is not None:
                sequence.words = of_sequence
                if layer < self.num_layers:
                    evidence[index] = (float(of_sequence.moving.sum()),)
        return evidence

    def _needs_exit(self, sequence: Sequence, layer: int) -> bool:
        if sequence.request.wants_trace:
            return True
        policy = sequence.policy
        if isinstance(policy, WordPolicy):
            return policy.needs_exit_of(layer, self.num_layers, sequence.input)
        return policy.needs_exit(layer, self.num_layers)

    def _moving(self, sequences: Seq[Sequence]) -> list[Flags | None] | None:
        """Per sequence, which words move; None where all do together, or for all of them."""
        if not any(isinstance(sequence.policy, WordPolicy) for sequence in sequences):
            return None
        return [
            (sequence.words or Words.of(sequence.input)).moving if isinstance(sequence.policy, WordPolicy) else None
            for sequence in sequences
        ]

    def _words(self, sequence: Sequence, layer: int, reading: Reading | None) -> Words | None:
        """What has become of a sequence's words after `layer`, under a strategy that asks."""
        policy = sequence.policy
        if not isinstance(policy, WordPolicy):
            return None
        words = sequence.words or Words.of(sequence.input)
        words = words.after(layer, None if reading is None else reading.word_uncertainty)
        if layer == self.num_layers:
            return words
        return replace(words, moving=policy.go_on(layer, self.num_layers, sequence.input, words))

    def _evidence(self, sequences: Seq[Sequence], needs_exit: Seq[bool], current: Reading) -> list[Evidence]:
        """Evidence for every sequence, computed together for those that share a policy."""
        groups: dict[tuple[int, bool], list[int]] = {}  # a traced sequence may have readings that others lack
        for index, sequence in enumerate(sequences):
            if needs_exit[index] and not isinstance(sequence.policy, WordPolicy):
                groups.setdefault((id(sequence.policy), sequence.request.wants_trace), []).append(index)
        evidence: list[Evidence] = [()] * len(sequences)
        for members in groups.values():
            policy = sequences[members[0]].policy
            earlier = zip(*(sequences[index].seen for index in members), strict=True)
            is_whole = len(members) == len(sequences)
            latest = current if is_whole else Reading.join([current.split()[index] for index in members])
            rows = policy.evidence([*(Reading.join(of_layer) for of_layer in earlier), latest]).tolist()
            for index, row in zip(members, rows, strict=True):
                evidence[index] = tuple(row)
        return evidence

    def read_spans(self, sequences: Seq[Sequence]) -> list[list[Span]]:
        """See Runner."""
        found = [sequence.policy.prediction(sequence.seen).spans[0] for sequence in sequences]
        for sequence in sequences:
            if sequence.request.wants_trace:
                sequence.trace = trace_sequence(sequence, labels=self._labels)
        return found
