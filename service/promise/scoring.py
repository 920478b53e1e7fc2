"""Scores every level over one full run of a sample: at which layer it would leave, and how it agrees with full depth.

It knows counts alone: nothing of a text is in what it returns. What counts are worth, `payoffs` knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from service.errors import BadInput
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading, SpanSet
from service.exits.replay import decide_all, evidences_of, predictions_of
from service.spans.types import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Holds how every level does on some samples, mostly with full depth as the reference; all are (samples, levels).

    exit_layers      after which layer the sample leaves
    true_positives   entities that both answer
    false_positives  entities that the level answers and the reference does not
    false_negatives  entities that the reference answers and the level does not
    """

    exit_layers: IntArray
    true_positives: IntArray
    false_positives: IntArray
    false_negatives: IntArray

    @property
    def errors(self) -> IntArray:
        """The entities on which a level and the reference differ: (samples, levels)."""
        return self.false_positives + self.false_negatives

    @property
    def answered(self) -> IntArray:
        """The entities of both answers, the common ones twice, by which F1 is divided: (samples, levels)."""
        return 2 * self.true_positives + self.errors


class LevelScorer:
    """Replays levels over samples that were run to full depth with all exits; evidence is worked out once per kind."""

    def __init__(self, levels: Sequence[ExitPolicy], num_layers: int) -> None:
        """Take the levels to score, operating points and grids alike.

        Raises BadInput for a strategy that cannot be replayed: one whose words halt one by one.
        """
        if unfit := sorted({level.strategy for level in levels if not level.is_replayable}):
            raise BadInput(
                f"given levels of {unfit}, whose words halt one by one; full runs tell nothing of them: "
                "expected strategies by sentence"
            )
        self.levels = tuple(levels)
        self.num_layers = num_layers
        self._of_kind: dict[Hashable, list[int]] = defaultdict(list)
        for index, level in enumerate(self.levels):
            self._of_kind[level.kind(num_layers)].append(index)

    def score(
        self,
        readings: Sequence[Reading],
        owned: Sequence[tuple[int, int]],
        reference: Sequence[SpanSet] | None = None,
    ) -> Scores:
        """Score all levels on some samples.

        readings   one of every exit, each of the same samples; they were run to full depth
        owned      per sample, the words [first, last) it answers for, as in SequenceInput
        reference  per sample, the entities that levels are compared with, in place of full depth's
        """
        assert len(readings) == self.num_layers, f"{len(readings)} readings of a model of {self.num_layers} layers"
        full = _answers(readings[-1], owned) if reference is None else reference
        shape = (len(owned), len(self.levels))
        exit_layers = np.empty(shape, dtype=np.int64)
        counts = np.empty((*shape, 3), dtype=np.int64)
        plain: dict[int, IntArray] = {}  # the counts of an exit's own answers, whatever the kind
        for indices in self._of_kind.values():
            one = self.levels[indices[0]]
            evidences = evidences_of(one, readings)
            at_layer = []
            for layer, (reading, own) in enumerate(zip(predictions_of(one, readings), readings, strict=True)):
                if reading is not own:
                    at_layer.append(_counts(_answers(reading, owned), full))
                else:
                    if layer not in plain:
                        plain[layer] = _counts(_answers(own, owned), full)
                    at_layer.append(plain[layer])
            table = np.stack(at_layer)  # (layers, samples, 3)
            for index in indices:
                exit_layers[:, index] = decide_all(self.levels[index], evidences)
                counts[:, index] = table[exit_layers[:, index] - 1, np.arange(len(owned))]
        return Scores(exit_layers, *np.moveaxis(counts, 2, 0))


def counts_of_exits(readings: Sequence[Reading], owned: Sequence[tuple[int, int]]) -> IntArray:
    """Return true positives, false positives and false negatives of every exit, with full depth as the reference.

    readings, owned: as in `LevelScorer.score`; returns (layers, samples, 3)
    """
    full = _answers(readings[-1], owned)
    return np.stack([_counts(_answers(reading, owned), full) for reading in readings])


def _answers(reading: Reading, owned: Sequence[tuple[int, int]]) -> list[SpanSet]:
    """Return the entities of every sample that begin in a word it answers for."""
    return [
        spans if own == (0, num_words) else frozenset(span for span in spans if own[0] <= span[0] < own[1])
        for spans, num_words, own in zip(reading.span_sets, reading.num_words, owned, strict=True)
    ]


def _counts(found: Sequence[SpanSet], full: Sequence[SpanSet]) -> IntArray:
    """Return true positives, false positives and false negatives of every sample: (samples, 3)."""
    common = [len(one & other) for one, other in zip(found, full, strict=True)]
    return np.array(
        [(c, len(one) - c, len(other) - c) for c, one, other in zip(common, found, full, strict=True)],
        dtype=np.int64,
    ).reshape(-1, 3)
