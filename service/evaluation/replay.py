"""Replays policies over a trace: with the same `evidence` and `decide` as serving, but without running the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.evaluation.evaluate import score_json
from service.evaluation.trace import Trace
from service.exits.parameters import Evidences
from service.exits.policy import ExitPolicy
from service.exits.replay import decide_all, evidences_of, predictions_of
from service.spans.score import Score, keys
from service.spans.types import DoubleArray, IntArray, Span
from service.text.encoder import entities_of_sequences


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """Holds what a policy gives on a trace.

    layers_run            (sequences,) the layer after which each sequence leaves; under a strategy by word, the mean
                          over the words of each sequence
    gold, found, correct  (texts,) how many entities are annotated, found, and found correctly
    num_pieces            (sequences,) word pieces of each sequence
    num_layers            of the model
    """

    layers_run: IntArray | DoubleArray
    gold: IntArray
    found: IntArray
    correct: IntArray
    num_pieces: IntArray
    num_layers: int

    @property
    def micro(self) -> Score:
        """The counts of all texts together."""
        return Score(int(self.gold.sum()), int(self.found.sum()), int(self.correct.sum()))

    @property
    def average_exit_layer(self) -> float:
        """The mean exit layer over sequences."""
        return float(self.layers_run.mean())

    @property
    def average_exit_layer_by_token(self) -> float:
        """The mean exit layer weighted by word pieces: long sentences leave later, so it is nearer to the work done."""
        return float(self.layers_run @ self.num_pieces / self.num_pieces.sum())

    def of_texts(self, texts: IntArray) -> Replay:
        """Return the counts of some texts alone, given their indices; the layers remain those of all sequences."""
        return replace(self, gold=self.gold[texts], found=self.found[texts], correct=self.correct[texts])

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON types; F1, precision and recall are x 100."""
        counts = Counter(self.layers_run.tolist())
        return {
            **score_json(self.micro),
            "average_exit_layer": round(self.average_exit_layer, 4),
            "average_exit_layer_by_token": round(self.average_exit_layer_by_token, 4),
            "speedup_layers": round(self.num_layers / self.average_exit_layer, 4),
            "sequences": len(self.layers_run),
            "exit_layers": {str(layer): counts[layer] for layer in range(1, self.num_layers + 1)},
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """Holds what all policies of one kind (see `ExitPolicy.kind`) share.

    evidences  [layer - 1][sequence] what the policies see
    spans      [layer - 1][sequence] what a sequence answers if it leaves after that layer
    counts     (layers, sequences, 2) entities found and correct; they hold only for texts without windows
    """

    evidences: Evidences
    spans: Sequence[Sequence[list[Span]]]
    counts: IntArray


class Replayer:
    """Replays policies over one trace; what policies of the same kind share is worked out once."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._gold = np.array([len(gold) for gold in trace.gold])
        self._windowed = [
            index
            for index, text in enumerate(trace.texts)
            if any(sequence.owned != (0, sequence.num_words) for sequence in text)
        ]
        self._first_sequence = np.concatenate([[0], np.cumsum([len(text) for text in trace.texts])])
        self._spans = [reading.spans for reading in trace.readings]
        self._counts = self._count(self._spans)
        self._prepared: dict[Hashable, _Prepared] = {}

    def evidences(self, policy: ExitPolicy) -> Evidences:
        """Return [layer - 1][sequence] what policies of the same kind as `policy` see."""
        return self._prepare(policy).evidences

    def replay(self, policy: ExitPolicy, evidences: Evidences | None = None) -> Replay:
        """Let `policy` decide for every sequence; if `evidences` are given, it decides by them instead of its own."""
        prepared = self._prepare(policy)
        exit_layers = decide_all(policy, prepared.evidences if evidences is None else evidences)
        return self._at_layers(exit_layers, prepared.spans, prepared.counts)

    def _prepare(self, policy: ExitPolicy) -> _Prepared:
        kind = policy.kind(self.trace.num_layers)
        if kind not in self._prepared:
            spans = [reading.spans for reading in predictions_of(policy, self.trace.readings)]
            is_plain = all(one is other for one, other in zip(spans, self._spans, strict=True))
            counts = self._counts if is_plain else self._count(spans)
            self._prepared[kind] = _Prepared(evidences_of(policy, self.trace.readings), spans, counts)
        return self._prepared[kind]

    def at_layers(self, exit_layers: IntArray) -> Replay:
        """Return what the trace gives if every sequence leaves at its layer in `exit_layers`, (sequences,)."""
        return self._at_layers(exit_layers, self._spans, self._counts)

    def errors(self) -> IntArray:
        """Count the entities that every sequence gets wrong or misses at each exit: (sequences, layers).

        A window of a long sentence is counted as if it were a text of its own.
        """
        ends = [(int(s.word_starts[0]), int(s.word_ends.max())) for s in self.trace.sequences]
        golds = [self.trace.gold[text] for text in self.trace.text_of_sequence.tolist()]
        reachable = [
            sum(first <= start and end <= last for start, end, _ in gold)
            for (first, last), gold in zip(ends, golds, strict=True)
        ]
        found, correct = self._counts[:, :, 0].T, self._counts[:, :, 1].T
        return np.array(reachable)[:, None] + found - 2 * correct

    def _at_layers(self, exit_layers: IntArray, spans: Sequence[Sequence[list[Span]]], counts: IntArray) -> Replay:
        trace = self.trace
        per_sequence = counts[exit_layers - 1, np.arange(len(exit_layers))]
        per_text = np.zeros((len(trace.texts), 2), dtype=np.int64)
        np.add.at(per_text, trace.text_of_sequence, per_sequence)
        for text in self._windowed:
            first, last = self._first_sequence[text : text + 2]
            chosen = [spans[exit_layers[index] - 1][index] for index in range(first, last)]
            per_text[text] = self._count_text(text, chosen)
        found, correct = per_text.T
        return Replay(exit_layers, self._gold, found, correct, trace.num_pieces, trace.num_layers)

    def _count(self, spans: Sequence[Sequence[list[Span]]]) -> IntArray:
        """Count the entities found and correct per exit and sequence, each sequence alone: (exits, sequences, 2)."""
        counts = np.zeros((len(spans), len(self.trace.sequences), 2), dtype=np.int64)
        for index, (sequence, text) in enumerate(
            zip(self.trace.sequences, self.trace.text_of_sequence.tolist(), strict=True)
        ):
            gold = self.trace.gold[text]
            for layer, of_sequences in enumerate(spans):
                entities = entities_of_sequences(
                    [sequence], [of_sequences[index]], self.trace.labels, self.trace.nested
                )
                found = self.trace.annotation(text).counted(keys(entities), gold)
                counts[layer, index] = len(found), len(found & gold)
        return counts

    def _count_text(self, text: int, spans: Sequence[list[Span]]) -> tuple[int, int]:
        """Count the entities found and correct in one text, after its windows have been merged."""
        entities = entities_of_sequences(self.trace.texts[text], spans, self.trace.labels, self.trace.nested)
        gold = self.trace.gold[text]
        found = self.trace.annotation(text).counted(keys(entities), gold)
        return len(found), len(found & gold)
